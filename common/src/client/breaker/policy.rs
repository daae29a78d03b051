//! When to trip, and for how long: `failsafe`'s policies with our own pauses. The mechanism is next door ([`super`]).

use std::time::Duration;

use failsafe::{FailurePolicy, failure_policy};
use serde::Deserialize;

use crate::config::duration;

/// Settings of a breaker. The defaults are those of the design (`docs/adr/0006-client-column.md`).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// This many failures in a row trip it. Default 5.
    pub consecutive_failures: u32,
    /// Trips when a smaller part of the answers of `window` are successes. Default 0.5.
    pub success_rate_min: f64,
    /// The window of the success rate; whole seconds. Default 10 s.
    #[serde(deserialize_with = "duration")]
    pub window: Duration,
    /// The success rate counts from this many answers in the window on. Default 20.
    pub requests_min: u32,
    /// The first time it stays open. Default 250 ms.
    #[serde(deserialize_with = "duration")]
    pub open_min: Duration,
    /// Each time it trips again it stays open twice as long, up to this. Default 1 s: a probe a second costs an ill
    /// endpoint nothing, and a healthy one is back soon.
    #[serde(deserialize_with = "duration")]
    pub open_max: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            success_rate_min: 0.5,
            window: Duration::from_secs(10),
            requests_min: 20,
            open_min: Duration::from_millis(250),
            open_max: Duration::from_secs(1),
        }
    }
}

/// `failsafe`'s: failures in a row, or a low success rate.
pub(super) type Policy = Box<dyn FailurePolicy + Send>;

pub(super) fn policy(config: &BreakerConfig) -> Policy {
    let pauses = Pauses::new(config);
    let in_a_row = failure_policy::consecutive_failures(config.consecutive_failures, pauses.clone());
    let rate = failure_policy::success_rate_over_time_window(
        config.success_rate_min.clamp(0.0, 1.0),
        config.requests_min,
        config.window,
        pauses,
    );
    Box::new(in_a_row.or_else(rate))
}

/// How long to stay open: twice as long each time, half of it random, so that the instances of a client don't all probe
/// at once (pitfalls P6). `failsafe`'s own jittered backoffs count in whole seconds.
#[derive(Debug, Clone)]
pub(super) struct Pauses {
    next: Duration,
    max: Duration,
}

impl Pauses {
    pub(super) fn new(config: &BreakerConfig) -> Self {
        Self { next: config.open_min.min(config.open_max), max: config.open_max }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let ceiling = self.next;
        self.next = ceiling.saturating_mul(2).min(self.max);
        Some(ceiling.mul_f64(0.5 + fastrand::f64() / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pauses grow to their limit, never pass it, and differ between breakers that trip together.
    #[test]
    fn pauses_grow_and_differ() {
        let config = BreakerConfig::default();
        let mut pauses = Pauses::new(&config);
        for ceiling_ms in [250, 500, 1000, 1000] {
            let pause = pauses.next().expect("without end");
            let ceiling = Duration::from_millis(ceiling_ms);
            assert!((ceiling / 2..=ceiling).contains(&pause), "{pause:?}");
        }
        let firsts: std::collections::HashSet<_> =
            (0..100).filter_map(|_| Pauses::new(&config).next()).collect();
        assert!(firsts.len() > 50, "{} different pauses", firsts.len());
    }
}
