//! Reports orders that stay unfinished too long. It never repairs them: an operator must find out why they are stuck.

use std::time::Duration;

use holdfast_common::{
    database::{BACKGROUND_TIME_MAX, Database},
    error::chain,
    health::PeriodicTask,
};
use tokio_util::sync::CancellationToken;

use crate::store;

const LOOK_EVERY: Duration = Duration::from_secs(10);
pub(crate) const SUCCESS_EVERY_MAX: Duration = Duration::from_secs(60);

/// Looks regularly until `stop`.
pub(crate) async fn watch(
    database: Database,
    stuck_after: Duration,
    task: PeriodicTask,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    let mut reported = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let look = store::count_stuck(database.pool(), stuck_after);
        match tokio::time::timeout(BACKGROUND_TIME_MAX, look).await {
            Ok(Ok(stuck)) => {
                task.succeeded();
                #[expect(clippy::cast_precision_loss, reason = "a count far below 2^52")]
                metrics::gauge!(holdfast_common::metric::ORDERS_STUCK).set(stuck as f64);
                if stuck > reported {
                    tracing::warn!(orders = stuck, "orders are unfinished for too long");
                }
                reported = stuck;
            }
            // The database component reports that the database is away.
            Ok(Err(error)) => task.failed(chain(&error)),
            Err(_) => task.failed("the database does not answer"),
        }
    }
}
