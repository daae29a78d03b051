//! Orders at a fixed rate: how long their `POST` takes, and how long until they are PAID.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use http::StatusCode;
use serde::Serialize;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::followed::{FollowedOrders, Milestone};
use crate::{
    load::{self, Plan},
    rest::{Session, sample_order},
};

const PAID_TIME_MAX: Duration = Duration::from_secs(30);
/// For an order whose stack sheds load.
const ACCEPTED_TIME_MAX: Duration = Duration::from_secs(30);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Latency of many requests, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Latency {
    pub(super) fn of(durations: impl Iterator<Item = Duration>) -> Result<Self> {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?;
        for duration in durations {
            histogram.record(u64::try_from(duration.as_micros())?.max(1))?;
        }
        #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes are far below 2^52")]
        let ms = |us: u64| us as f64 / 1000.0;
        Ok(Self {
            count: histogram.len(),
            p50_ms: ms(histogram.value_at_quantile(0.5)),
            p99_ms: ms(histogram.value_at_quantile(0.99)),
            max_ms: ms(histogram.max()),
        })
    }
}

/// A phase with a fixed rate.
#[derive(Debug, Clone, Serialize)]
pub struct LatencyPhase {
    /// Requests in flight at most.
    pub clients: usize,
    /// Orders per second.
    pub rate: f64,
    /// Answers 503: the stack sheds load. Each was asked again until it was accepted, and its time counts from when it was due.
    pub refused: u64,
    /// From when the request was due to its answer.
    pub post: Latency,
    /// From when the request was due until the user's stream said that the order is PAID.
    pub post_to_paid: Latency,
}

/// An order of the load: its id, when it was due, and how long its `POST` took from then.
pub(super) struct Posted {
    pub(super) order_id: String,
    pub(super) due: Instant,
    pub(super) post: Duration,
    refused: u64,
}

/// How often the stack has refused them before it accepted them.
pub(super) fn refused(posted: &[Posted]) -> u64 {
    posted.iter().map(|order| order.refused).sum()
}

/// How many requests come at this rate in this time.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive count")]
fn requests(rate: f64, time: Duration) -> u64 {
    (rate * time.as_secs_f64()).ceil() as u64
}

/// Orders at this rate, by all users in turn; an error if one is refused for good.
pub(super) async fn post_orders(
    sessions: &Arc<[Session]>,
    clients: usize,
    rate: f64,
    time: Duration,
) -> Result<Vec<Posted>> {
    let users = sessions.clone();
    let plan = Plan { rate, requests: requests(rate, time), clients };
    let posted = load::open_loop(plan, move |number, due| {
        let users = users.clone();
        async move {
            let user = &users[usize::try_from(number).unwrap_or(0) % users.len()];
            let Created { order_id, refused } = create(user).await?;
            Ok(Posted { order_id, due, post: due.elapsed(), refused })
        }
    });
    posted.await.into_iter().collect()
}

/// An order that was accepted.
pub(super) struct Created {
    pub(super) order_id: String,
    /// How often it was refused before.
    pub(super) refused: u64,
}

/// Creates an order. While the stack sheds load it is asked again, with the same key.
pub(super) async fn create(session: &Session) -> Result<Created> {
    let order = sample_order("1 Quay Street", 100);
    let key = Uuid::now_v7().to_string();
    let until = Instant::now() + ACCEPTED_TIME_MAX;
    let mut refused = 0;
    loop {
        let answer = session.create_order(&order, Some(&key)).await?;
        match answer.status {
            StatusCode::CREATED => {
                let order = answer.json();
                let order_id = order["order_id"].as_str().context("an order without id")?.to_owned();
                return Ok(Created { order_id, refused });
            }
            StatusCode::SERVICE_UNAVAILABLE if Instant::now() < until => {
                refused += 1;
                sleep(ASK_AGAIN_AFTER).await;
            }
            status => bail!("an order was answered {status}: {:?}", answer.body),
        }
    }
}

/// A phase at this rate.
pub(super) async fn measure(
    sessions: &Arc<[Session]>,
    followed: &FollowedOrders,
    clients: usize,
    rate: f64,
    phase: Duration,
) -> Result<LatencyPhase> {
    let posted = post_orders(sessions, clients, rate, phase).await?;
    let mut until_paid = Vec::with_capacity(posted.len());
    for order in &posted {
        let paid = followed.when(&order.order_id, Milestone::Paid, PAID_TIME_MAX).await?;
        until_paid.push(paid.duration_since(order.due));
    }
    let post = Latency::of(posted.iter().map(|order| order.post))?;
    let refused = refused(&posted);
    Ok(LatencyPhase { clients, rate, refused, post, post_to_paid: Latency::of(until_paid.into_iter())? })
}
