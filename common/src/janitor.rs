//! Deletes rows whose time is over: inbox rows that are so old that no duplicate can arrive any more, and idempotency keys
//! ([`crate::idempotency::KEY_RETENTION`]).

use std::time::Duration;

use holdfast_proto::topic::EVENT_RETENTION;
use tokio_util::sync::CancellationToken;

use crate::{
    database::{self, BACKGROUND_TIME_MAX, Database, DatabaseError},
    error::chain,
    health::PeriodicTask,
    stop::sleep_unless_stopped,
};

/// An inbox row is kept longer than any record in its topic, or a redelivery would find the inbox empty and be applied
/// again (pitfalls P26).
pub const INBOX_RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);
const _: () = assert!(INBOX_RETENTION.as_secs() > EVENT_RETENTION.as_secs());
/// Rows per statement; bounds its locks and its time.
const PURGE_ROWS_MAX: i64 = 5_000;
const LOOK_EVERY: Duration = Duration::from_secs(3600);
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// A run may fail: it takes days until a table is too large.
pub(crate) const SUCCESS_EVERY_MAX: Duration = Duration::from_secs(2 * 3600);

/// Rows that are deleted some time after they were written.
#[derive(Debug, Clone, Copy)]
pub struct Expiring {
    /// Deletes some of those that are older than `$1` seconds, at most `$2`.
    pub purge: &'static str,
    /// How long they are kept.
    pub retention: Duration,
}

/// Rows of the inbox.
pub const INBOX: Expiring = Expiring {
    purge: "-- inbox.purge
        delete from inbox where ctid = any(array(
            select ctid from inbox where handled_at < now() - make_interval(secs => $1) limit $2
        ))",
    retention: INBOX_RETENTION,
};

/// Purges all of these regularly until `stop`.
pub async fn run(database: Database, expiring: Vec<Expiring>, task: PeriodicTask, stop: CancellationToken) {
    loop {
        let purged = tokio::select! {
            () = stop.cancelled() => return,
            purged = tokio::time::timeout(BACKGROUND_TIME_MAX, purge_all(&database, &expiring)) => purged,
        };
        let pause = match purged {
            Ok(Ok(most)) => {
                task.succeeded();
                if most >= PURGE_ROWS_MAX { Duration::from_millis(100) } else { LOOK_EVERY }
            }
            // Nothing depends on it soon; the database component says that the database is away.
            Ok(Err(error)) => {
                task.failed(chain(&error));
                LOOK_AGAIN_AFTER
            }
            Err(_) => {
                task.failed("the database does not answer");
                LOOK_AGAIN_AFTER
            }
        };
        if sleep_unless_stopped(&stop, pause).await.is_break() {
            return;
        }
    }
}

/// Deletes some of the rows of each. Returns how many of one of them at most.
async fn purge_all(database: &Database, expiring: &[Expiring]) -> Result<i64, DatabaseError> {
    let mut most = 0;
    for rows in expiring {
        most = most.max(purge(database, rows).await?);
    }
    Ok(most)
}

/// Deletes some of the rows whose time is over. Returns how many.
pub async fn purge(database: &Database, expiring: &Expiring) -> Result<i64, DatabaseError> {
    database.migrated().await;
    let done = database::query(expiring.purge)
        .bind(expiring.retention.as_secs_f64())
        .bind(PURGE_ROWS_MAX)
        .execute(database.pool())
        .await?;
    Ok(i64::try_from(done.rows_affected()).unwrap_or(i64::MAX))
}
