//! Publishes how many letters are parked, and since when, as metrics.

use std::{collections::BTreeSet, time::Duration};

use futures_util::FutureExt as _;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::store;
use crate::{
    database::{BACKGROUND_TIME_MAX, Database},
    deadline::Deadline,
    error::chain,
    health::PeriodicTask,
    stop::sleep_unless_stopped,
};

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A gauge that is older misleads.
pub(crate) const SUCCESS_EVERY_MAX: Duration = Duration::from_secs(60);

/// Keeps `holdfast_dead_letters_parked` and `holdfast_dead_letters_oldest_age_seconds` up to date until `stop`.
pub async fn publish_depth(
    database: Database,
    group: &'static str,
    task: PeriodicTask,
    stop: CancellationToken,
) {
    let mut published: BTreeSet<(String, String)> = BTreeSet::new();
    loop {
        let deadline = Deadline::after(BACKGROUND_TIME_MAX);
        match database.read(deadline, move |connection| store::stats(connection, group).boxed()).await {
            Ok(stats) => {
                task.succeeded();
                // Series without letters go back to 0.
                for (topic, class) in std::mem::take(&mut published) {
                    metrics::gauge!(crate::metric::DEAD_LETTERS_PARKED, "topic" => topic, "class" => class)
                        .set(0.0);
                }
                let oldest = stats.iter().map(|stats| stats.oldest_parked_at).min();
                let age = oldest.map_or(0.0, |oldest| (OffsetDateTime::now_utc() - oldest).as_seconds_f64());
                metrics::gauge!(crate::metric::DEAD_LETTERS_OLDEST_AGE_SECONDS).set(age.max(0.0));
                for stats in stats {
                    #[expect(clippy::cast_precision_loss, reason = "a count of rows is far below 2^52")]
                    let parked = stats.parked as f64;
                    let (topic, class) = (stats.topic.clone(), stats.class.clone());
                    metrics::gauge!(crate::metric::DEAD_LETTERS_PARKED, "topic" => topic, "class" => class)
                        .set(parked);
                    published.insert((stats.topic, stats.class));
                }
            }
            // The database component says that the database is away.
            Err(error) => task.failed(chain(&error)),
        }
        if sleep_unless_stopped(&stop, LOOK_EVERY).await.is_break() {
            return;
        }
    }
}
