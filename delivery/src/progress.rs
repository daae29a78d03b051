//! Moves deliveries on when they are due. Any number of replicas may do it: each takes rows that no other has.

use std::time::Duration;

use futures_util::FutureExt as _;
use holdfast_common::{
    backoff::Backoff,
    clock,
    database::{BACKGROUND_TIME_MAX, Database, DatabaseError},
    deadline::Deadline,
    error::chain,
    health::PeriodicTask,
    outbox::OutboxRecord,
    stop::sleep_unless_stopped,
};
use tokio_util::sync::CancellationToken;

use crate::{event, store};

/// Deliveries moved in one transaction.
const BATCH_MAX: i64 = 200;
/// Longest and shortest sleep between looks: this loop is not notified of new deliveries, and none is due sooner than
/// one step after it was created.
const LOOK_EVERY_MAX: Duration = Duration::from_millis(500);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(10);
/// Deliveries that are due wait meanwhile.
pub(crate) const SUCCESS_EVERY_MAX: Duration = Duration::from_secs(10);

/// Runs until `stop`.
pub(crate) async fn run(database: Database, step: Duration, task: PeriodicTask, stop: CancellationToken) {
    let mut backoff = Backoff::for_infrastructure();
    let look_every = (step / 4).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX);
    loop {
        let pause = match advance_due(&database, step).await {
            Ok(moved) => {
                backoff.reset();
                task.succeeded();
                metrics::counter!(holdfast_common::metric::DELIVERY_STEPS_TOTAL).increment(moved);
                // A full batch: there may be more.
                if moved == BATCH_MAX.unsigned_abs() { Duration::ZERO } else { look_every }
            }
            Err(error) => {
                task.failed(chain(&error));
                // Logged once per outage; the database component shows it meanwhile.
                if backoff.attempt() == 0 {
                    tracing::warn!(
                        error = chain(&error),
                        "cannot move deliveries on, waiting for the database"
                    );
                }
                backoff.next_pause()
            }
        };
        if sleep_unless_stopped(&stop, pause).await.is_break() {
            return;
        }
    }
}

/// Status, history and event of each due delivery in one transaction. Returns how many moved.
async fn advance_due(database: &Database, step: Duration) -> Result<u64, DatabaseError> {
    database
        .transaction("delivery.advance", Deadline::after(BACKGROUND_TIME_MAX), step, |connection, step| {
            async move {
                let now = clock::now();
                let mut due = store::lock_due(connection, now, BATCH_MAX).await?;
                due.retain_mut(|delivery| delivery.advance(step, now));
                let events = due.iter().map(|delivery| event::status_updated(delivery, delivery.trace));
                let records = events.map(|event| OutboxRecord::from_event(event, "delivery")).collect();
                store::update_deliveries(connection, &due, records).await?;
                Ok(due.len() as u64)
            }
            .boxed()
        })
        .await
}

#[cfg(test)]
mod tests {
    use holdfast_common::{
        config::{DatabaseConfig, DatabaseTlsConfig},
        health::Health,
    };

    use super::*;

    /// Deliveries that can't be moved on make the process degraded, with the reason.
    #[tokio::test]
    async fn a_loop_that_makes_no_progress_is_degraded() {
        let config = DatabaseConfig {
            url: "postgres://nobody@127.0.0.1:1/none".into(),
            password: None,
            password_file: None,
            direct_url: None,
            owner_url: None,
            owner_password_file: None,
            migrate: true,
            tls: DatabaseTlsConfig::default(),
            connections_max: 1,
        };
        let health = Health::default();
        let task = health.periodic("progress", Duration::from_millis(20));
        let database = Database::new(&config).expect("an URL");
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(database, Duration::from_secs(1), task, stop.clone()));
        let degraded = async {
            while !health.components()["progress"].detail.contains("database") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), degraded).await.expect("it says so");
        stop.cancel();
        running.await.expect("no panic");
    }
}
