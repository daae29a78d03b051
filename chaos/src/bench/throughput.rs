//! As many orders as the stack takes.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use http::StatusCode;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::{
    CLIENTS,
    cost::{Cost, Costs},
    latency::create,
};
use crate::{
    load::{self, Plan},
    rest::{Session, is_terminal},
    spans::Spans,
};

const COMPLETE_TIME_MAX: Duration = Duration::from_secs(120);

/// As many orders as the stack takes.
#[derive(Debug, Clone, Serialize)]
pub struct ThroughputPhase {
    /// Requests in flight at most.
    pub clients: usize,
    /// Orders created.
    pub orders: u64,
    /// Answers 503: the stack sheds load. Each was asked again until it was accepted.
    pub refused: u64,
    /// Orders per second accepted.
    pub accepted_per_second: f64,
    /// Orders per second until the last one was PAID.
    pub paid_per_second: f64,
    /// Orders per second until the last saga was complete, the configured time of its delivery taken off.
    pub complete_per_second: f64,
    /// CPU milliseconds of our services, replicas included, per order.
    pub service_cpu_ms_per_order: f64,
    /// CPU milliseconds of the whole stack per order.
    pub cpu_ms_per_order: f64,
    /// What an order costs.
    pub cost: Cost,
    /// Spans received per order, if they are received here.
    pub spans_per_order: Option<f64>,
}

/// Creates so many orders, and waits for the end of their sagas.
pub(super) async fn measure(
    sessions: &Arc<[Session]>,
    costs: &mut Costs,
    orders: u64,
    delivery_time: Duration,
    spans: Option<&Spans>,
) -> Result<ThroughputPhase> {
    let spans_before = spans.map(Spans::count);
    let before = costs.read().await?;
    let begin = Instant::now();
    let users = sessions.clone();
    // All due at once: each client sends its next order as soon as the last one was answered.
    let plan = Plan { rate: 1e9, requests: orders, clients: CLIENTS };
    let created = load::open_loop(plan, move |number, _| {
        let users = users.clone();
        async move { create(&users[usize::try_from(number).unwrap_or(0) % users.len()]).await }
    })
    .await;
    let accepted = begin.elapsed();
    let created = created.into_iter().collect::<Result<Vec<_>>>()?;
    wait_for_all(sessions, |order| order["status"] == "PAID").await?;
    let paid = begin.elapsed();
    wait_for_all(sessions, is_terminal).await?;
    let complete = begin.elapsed().saturating_sub(delivery_time);
    let cost = before.until(&costs.read().await?, created.len());
    #[expect(clippy::cast_precision_loss, reason = "counts of orders and spans are far below 2^52")]
    let (count, spans_per_order) = {
        let received = spans.zip(spans_before).map(|(spans, before)| spans.count() - before);
        (created.len() as f64, received.map(|spans| spans as f64 / created.len() as f64))
    };
    Ok(ThroughputPhase {
        clients: CLIENTS,
        orders,
        refused: created.iter().map(|order| order.refused).sum(),
        accepted_per_second: count / accepted.as_secs_f64(),
        paid_per_second: count / paid.as_secs_f64(),
        complete_per_second: count / complete.as_secs_f64(),
        service_cpu_ms_per_order: costs.of_services(&cost),
        cpu_ms_per_order: cost.cpu_ms(),
        cost,
        spans_per_order,
    })
}

/// Fewer looks per second than one user may make.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(25);

/// Waits until all orders of all users are as they should be, looking at a page of each user at a time.
async fn wait_for_all(sessions: &[Session], done: impl Fn(&serde_json::Value) -> bool) -> Result<()> {
    let until = Instant::now() + COMPLETE_TIME_MAX;
    for session in sessions {
        let mut cursor = String::new();
        loop {
            let answer = session.get(&format!("/api/orders?limit=100&cursor={cursor}")).await?;
            if answer.status != StatusCode::OK {
                bail!("a page was answered {}: {:?}", answer.status, answer.body);
            }
            let page = answer.json();
            let orders = page["orders"].as_array().context("a page without orders")?;
            if !orders.iter().all(&done) {
                if Instant::now() > until {
                    bail!("orders are not done after {} s", COMPLETE_TIME_MAX.as_secs());
                }
                sleep(LOOK_AGAIN_AFTER).await;
                continue;
            }
            match page["next_cursor"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => break,
            }
        }
    }
    Ok(())
}
