//! Has the leading relay learn at once of events that other processes of the service have written.
//!
//! A relay that waits to become the leader says in PostgreSQL that its process has committed events, and the leader listens to that on a
//! connection of its own. A notice that is lost costs the time until the leader's next look, nothing else.

use std::{convert::Infallible, time::Duration};

use sqlx::PgConnection;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::store;
use crate::{
    backoff::Backoff,
    database::{Database, DatabaseError},
    error::chain,
};

/// For `time`: tells the leader whenever this process has committed events. What is committed while the leader is told is told together.
pub(super) async fn tell_leader(
    connection: &mut PgConnection,
    committed: &Notify,
    time: Duration,
) -> Result<(), DatabaseError> {
    let until = Instant::now() + time;
    while timeout_at(until, committed.notified()).await.is_ok() {
        store::wake_leader(connection).await?;
    }
    Ok(())
}

/// Wakes the leader of this process whenever another process has committed events, forever.
pub(super) async fn listen(database: &Database, committed: &Notify) -> Infallible {
    let mut backoff = Backoff::for_infrastructure();
    loop {
        let Err(error) = hear(database, committed, &mut backoff).await;
        // The leader's own connection says what is wrong with the database.
        tracing::debug!(error = chain(&error), "relay does not hear of the commits of other processes");
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

async fn hear(
    database: &Database,
    committed: &Notify,
    backoff: &mut Backoff,
) -> Result<Infallible, DatabaseError> {
    let mut listener = database.listen(store::WAKE_CHANNEL).await?;
    backoff.reset();
    loop {
        // Also after the first moment: what was written before it listened.
        committed.notify_one();
        listener.recv().await?;
    }
}
