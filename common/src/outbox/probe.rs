//! Probes whether the broker answers the relay's producer, and replaces the producer if it is the only client that gets
//! no answer.

use std::time::Duration;

use rdkafka::producer::Producer as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    publisher::{DEAF_AFTER, Publisher, Replaced, Witness},
    relay::DRAIN_TIME_MAX,
};
use crate::{error::chain, health::Component, stop::sleep_unless_stopped};

/// How often readiness is checked.
const PROBE_EVERY: Duration = Duration::from_secs(2);
const PROBE_TIME_MAX: Duration = Duration::from_millis(1500);

/// A relay that leads has replaced an outdated producer before, when none of its records was on the way.
const RENEWED_WITHIN: Duration = Duration::from_secs(8);
const _: () = assert!(RENEWED_WITHIN.as_secs() > DRAIN_TIME_MAX.as_secs());

/// Keeps `component` up to date with whether the broker answers, until `stop`. A producer that is dead, that gets no
/// answer although the broker answers a fresh client, or that shows an old certificate, is replaced.
pub async fn run(publisher: Publisher, component: Component, stop: CancellationToken) {
    let mut answered = Instant::now();
    let mut outdated = None;
    loop {
        if let Err(error) = publisher.replace_if_fatal() {
            component.waiting(chain(&error));
        }
        let client = publisher.current();
        if !publisher.is_outdated() {
            outdated = None;
        } else if outdated.get_or_insert_with(Instant::now).elapsed() >= RENEWED_WITHIN
            && let Err(error) = publisher.replace(&client, Replaced::Renewed)
        {
            component.waiting(chain(&error));
        }
        let asked = client.clone();
        let probed = tokio::task::spawn_blocking(move || {
            asked.client().fetch_metadata(None, PROBE_TIME_MAX).map(drop)
        });
        match probed.await {
            Ok(Ok(())) => {
                answered = Instant::now();
                publisher.refusals().forget();
                component.ready();
            }
            Ok(Err(error)) => {
                component.waiting(publisher.refusals().explain(chain(&error)));
                if answered.elapsed() >= DEAF_AFTER {
                    let witness = publisher.clone();
                    let seen = tokio::task::spawn_blocking(move || witness.witness(None)).await;
                    if matches!(seen, Ok(Witness::Answered)) {
                        match publisher.replace(&client, Replaced::Deaf) {
                            // The new one gets its own time to connect.
                            Ok(()) => answered = Instant::now(),
                            Err(error) => component.waiting(chain(&error)),
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
