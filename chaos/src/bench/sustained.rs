//! Whether the stack keeps up with a rate for as long as one likes, and the highest rate with which it does. A burst says nothing about
//! that: what is accepted faster than it is worked off waits, in outboxes and topics, and its time grows.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use holdfast_native::say;
use serde::Serialize;

use super::{
    CLIENTS,
    cost::{Cost, Costs},
    followed::{FollowedOrders, Milestone},
    latency::{Latency, Posted, post_orders, refused},
};
use crate::rest::Session;

/// Orders that may wait for their payment when the load ends, in seconds of load.
const BACKLOG_SECONDS_MAX: f64 = 1.0;
/// The last third of the phase may be this much slower than the first, and whatever is below the floor is flat anyway.
const SLOWER_MAX: f64 = 2.0;
const FLAT_BELOW_MS: f64 = 250.0;
/// How long what waits at the end may take.
const COMPLETE_TIME_MAX: Duration = Duration::from_secs(120);
/// A search looks at each rate for so long, and ends when it knows the rate to a tenth.
const STEP: Duration = Duration::from_secs(15);
const PRECISION: f64 = 1.1;

/// A fixed rate for a long time.
#[derive(Debug, Clone, Serialize)]
pub struct SustainedPhase {
    /// Orders per second.
    pub rate: f64,
    /// Length of the load in seconds.
    pub seconds: f64,
    /// Answers 503: the stack sheds load. Each was asked again until it was accepted.
    pub refused: u64,
    /// From when a request was due to its answer.
    pub post: Latency,
    /// From when a request was due until the user's stream said that the order is PAID: the first third of the load, and the last.
    pub post_to_paid_first: Latency,
    /// The last third.
    pub post_to_paid_last: Latency,
    /// Orders that were accepted and not yet PAID when the load ended.
    pub unpaid_at_end: usize,
    /// From when the load ended until the last saga was complete, in seconds, the configured time of a delivery taken off.
    pub complete_after_seconds: f64,
    /// Whether backlog and times were flat.
    pub kept_up: bool,
    /// What an order costs at this rate.
    pub cost: Cost,
}

impl SustainedPhase {
    fn is_flat(&self) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a count of orders is far below 2^52")]
        let backlog_seconds = self.unpaid_at_end as f64 / self.rate;
        let (first, last) = (self.post_to_paid_first.p99_ms, self.post_to_paid_last.p99_ms);
        self.refused == 0
            && backlog_seconds <= BACKLOG_SECONDS_MAX
            && self.complete_after_seconds <= BACKLOG_SECONDS_MAX * 2.0
            && (last <= FLAT_BELOW_MS || last <= first * SLOWER_MAX)
            // As slow from the beginning is not flat either, but late.
            && last <= BACKLOG_SECONDS_MAX * 1000.0
    }
}

/// A load at this rate for this time, and what became of it.
pub(super) async fn measure(
    sessions: &Arc<[Session]>,
    followed: &FollowedOrders,
    costs: &mut Costs,
    rate: f64,
    time: Duration,
    delivery_time: Duration,
) -> Result<SustainedPhase> {
    followed.forget();
    let before = costs.read().await?;
    let mut posted = post_orders(sessions, CLIENTS, rate, time).await?;
    let unpaid_at_end = followed.missing(posted.iter().map(|order| order.order_id.as_str()), Milestone::Paid);
    let end = tokio::time::Instant::now();
    posted.sort_by_key(|order| order.due);
    let mut paid = Vec::with_capacity(posted.len());
    let mut complete = end;
    for order in &posted {
        let at = followed.when(&order.order_id, Milestone::Paid, COMPLETE_TIME_MAX).await?;
        paid.push(at.duration_since(order.due));
        complete =
            complete.max(followed.when(&order.order_id, Milestone::Complete, COMPLETE_TIME_MAX).await?);
    }
    let cost = before.until(&costs.read().await?, posted.len());
    let third = posted.len().div_ceil(3);
    let mut phase = SustainedPhase {
        rate,
        seconds: time.as_secs_f64(),
        refused: refused(&posted),
        post: Latency::of(posted.iter().map(|order: &Posted| order.post))?,
        post_to_paid_first: Latency::of(paid.iter().take(third).copied())?,
        post_to_paid_last: Latency::of(paid.iter().rev().take(third).copied())?,
        unpaid_at_end,
        complete_after_seconds: complete.duration_since(end).saturating_sub(delivery_time).as_secs_f64(),
        kept_up: false,
        cost,
    };
    phase.kept_up = phase.is_flat();
    Ok(phase)
}

/// Looks for the highest rate from `rate` on, and then holds it for `time`; if it can't be held for so long, lower ones.
pub(super) async fn search(
    sessions: &Arc<[Session]>,
    followed: &FollowedOrders,
    costs: &mut Costs,
    rate: f64,
    time: Duration,
    delivery_time: Duration,
) -> Result<SustainedPhase> {
    let mut search = Search::from(rate);
    while let Some(rate) = search.next() {
        let phase = measure(sessions, followed, costs, rate, STEP, delivery_time).await?;
        say!("{rate:.0} orders/s for {} s: {}", STEP.as_secs(), verdict(&phase));
        search.learn(rate, phase.kept_up);
    }
    let mut rate = search.highest;
    loop {
        let phase = measure(sessions, followed, costs, rate, time, delivery_time).await?;
        say!("{rate:.0} orders/s for {} s: {}", time.as_secs(), verdict(&phase));
        if phase.kept_up || rate <= 1.0 {
            return Ok(phase);
        }
        rate = (rate / PRECISION).max(1.0);
    }
}

/// How it went, in words.
pub(super) fn verdict(phase: &SustainedPhase) -> String {
    let kept_up = if phase.kept_up { "kept up" } else { "did not keep up" };
    format!(
        "{kept_up}, {} refused, {} unpaid at the end, PAID p99 {:.0} ms, then {:.0} ms",
        phase.refused, phase.unpaid_at_end, phase.post_to_paid_first.p99_ms, phase.post_to_paid_last.p99_ms
    )
}

/// Doubles the rate until it is too high, and then halves what is between, by factors.
#[derive(Debug)]
struct Search {
    /// The highest rate with which the stack kept up, or the one that is asked for before that is known.
    highest: f64,
    is_known: bool,
    /// The lowest rate with which it did not.
    too_high: Option<f64>,
}

impl Search {
    const fn from(rate: f64) -> Self {
        Self { highest: rate, is_known: false, too_high: None }
    }

    /// The rate to look at next; none when the highest is known well enough.
    fn next(&self) -> Option<f64> {
        match (self.is_known, self.too_high) {
            (false, None) => Some(self.highest),
            (true, None) => Some(self.highest * 2.0),
            (false, Some(too_high)) => (too_high > 1.0).then_some((too_high / 2.0).max(1.0)),
            (true, Some(too_high)) => {
                (too_high / self.highest > PRECISION).then(|| (too_high * self.highest).sqrt())
            }
        }
    }

    fn learn(&mut self, rate: f64, kept_up: bool) {
        if kept_up {
            (self.highest, self.is_known) = (rate, true);
        } else {
            self.too_high = Some(rate);
            if !self.is_known {
                self.highest = (rate / 2.0).max(1.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a stack keeps up with is found to a tenth, from any rate, in few steps.
    #[test]
    fn the_highest_rate_is_found() {
        for capacity in [3.0, 40.0, 99.0, 130.0, 585.0, 4000.0] {
            for from in [1.0, 100.0, 1000.0] {
                let mut search = Search::from(from);
                let mut steps = 0;
                while let Some(rate) = search.next() {
                    search.learn(rate, rate <= capacity);
                    steps += 1;
                    assert!(steps < 20, "from {from} to {capacity}");
                }
                assert!(search.is_known, "from {from} to {capacity}");
                assert!(
                    search.highest <= capacity && capacity < search.highest * PRECISION,
                    "{search:?}, {capacity}"
                );
            }
        }
    }

    /// A stack that keeps up with nothing ends the search.
    #[test]
    fn a_stack_that_never_keeps_up_ends_the_search() {
        let mut search = Search::from(100.0);
        let mut steps = 0;
        while let Some(rate) = search.next() {
            search.learn(rate, false);
            steps += 1;
            assert!(steps < 20);
        }
        assert!(!search.is_known);
    }

    fn latency(p99_ms: f64) -> Latency {
        Latency { count: 1000, p50_ms: p99_ms / 3.0, p99_ms, max_ms: p99_ms * 2.0 }
    }

    fn phase(refused: u64, unpaid_at_end: usize, first: f64, last: f64, complete_after_seconds: f64) -> bool {
        SustainedPhase {
            rate: 100.0,
            seconds: 60.0,
            refused,
            post: latency(10.0),
            post_to_paid_first: latency(first),
            post_to_paid_last: latency(last),
            unpaid_at_end,
            complete_after_seconds,
            kept_up: false,
            cost: Cost::default(),
        }
        .is_flat()
    }

    /// A backlog that grows is seen by what is left of it, by the times, or by the sagas that end late.
    #[test]
    fn a_growing_backlog_is_not_kept_up_with() {
        assert!(phase(0, 5, 40.0, 45.0, 0.1));
        assert!(!phase(1, 5, 40.0, 45.0, 0.1), "one was refused");
        assert!(phase(0, 5, 40.0, 200.0, 0.1), "below the floor a factor says nothing");
        assert!(!phase(0, 101, 40.0, 45.0, 0.1), "more than a second's orders wait");
        assert!(!phase(0, 5, 200.0, 500.0, 0.1), "the time to PAID grows");
        assert!(!phase(0, 5, 2000.0, 2000.0, 0.1), "late from the beginning");
        assert!(!phase(0, 5, 40.0, 45.0, 5.0), "deliveries lag behind");
    }
}
