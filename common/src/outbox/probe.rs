//! Probes whether the broker answers the relay's producer, and replaces the producer if it is the only client that gets
//! no answer.

use std::time::Duration;

use rdkafka::producer::Producer as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::publisher::{DEAF_AFTER, Publisher, Replaced, Witness};
use crate::{health::Component, stop::sleep_unless_stopped};

/// How often readiness is checked.
const PROBE_EVERY: Duration = Duration::from_secs(2);
const PROBE_TIME_MAX: Duration = Duration::from_millis(1500);

/// Keeps `component` up to date with whether the broker answers, until `stop`. A producer that is dead, or that gets no
/// answer although the broker answers a fresh client, is replaced.
pub async fn run(publisher: Publisher, component: Component, stop: CancellationToken) {
    let mut answered = Instant::now();
    loop {
        if let Err(error) = publisher.replace_if_fatal() {
            component.waiting(error.to_string());
        }
        let client = publisher.current();
        let asked = client.clone();
        let probed = tokio::task::spawn_blocking(move || {
            asked.client().fetch_metadata(None, PROBE_TIME_MAX).map(drop)
        });
        match probed.await {
            Ok(Ok(())) => {
                answered = Instant::now();
                component.ready();
            }
            Ok(Err(error)) => {
                component.waiting(error.to_string());
                if answered.elapsed() >= DEAF_AFTER {
                    let witness = publisher.clone();
                    let seen = tokio::task::spawn_blocking(move || witness.witness(None)).await;
                    if matches!(seen, Ok(Witness::Answered)) {
                        match publisher.replace(&client, Replaced::Deaf) {
                            // The new one gets its own time to connect.
                            Ok(()) => answered = Instant::now(),
                            Err(error) => component.waiting(error.to_string()),
                        }
                    }
                }
            }
            Err(_) => return,
        }
        if sleep_unless_stopped(&stop, PROBE_EVERY).await.is_break() {
            return;
        }
    }
}
