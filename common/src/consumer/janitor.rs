//! Deletes inbox rows that no duplicate can ask for any more.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    database::{Database, DatabaseError},
    service::chain,
};

/// An inbox row is kept longer than any record in its topic (7 days in the native stack), or a redelivery would find the
/// inbox empty and have its effects again (pitfalls P26).
pub const INBOX_RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);
/// Rows of one statement; bounds its locks and its time.
const PURGE_ROWS_MAX: i64 = 5_000;
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Purges regularly until `stop`.
pub async fn run(database: Database, stop: CancellationToken) {
    loop {
        let purged = tokio::select! {
            () = stop.cancelled() => return,
            purged = purge(&database, INBOX_RETENTION) => purged,
        };
        let pause = match purged {
            Ok(PURGE_ROWS_MAX..) => Duration::from_millis(100),
            Ok(_) => LOOK_EVERY,
            Err(error) => {
                // Nothing depends on it; the database component says that the database is away.
                tracing::debug!(error = chain(&error), "cannot purge the inbox");
                LOOK_EVERY / 60
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Deletes some of the rows that are older than `retention`. Answers how many.
pub async fn purge(database: &Database, retention: Duration) -> Result<i64, DatabaseError> {
    database.migrated().await;
    let done = sqlx::query(
        "-- inbox.purge
        delete from inbox where ctid = any(array(
            select ctid from inbox where handled_at < now() - make_interval(secs => $1) limit $2
        ))",
    )
    .bind(retention.as_secs_f64())
    .bind(PURGE_ROWS_MAX)
    .execute(database.pool())
    .await?;
    Ok(i64::try_from(done.rows_affected()).unwrap_or(i64::MAX))
}
