//! Whether to trip. How long to stay open, and when to close again, is up to the state machine ([`super`]).

use std::{iter, time::Duration};

use failsafe::{FailurePolicy, failure_policy};
use serde::Deserialize;

use crate::config::duration;

/// Settings of a breaker. The defaults are those of the design (`docs/adr/0006-client-column.md`).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// This many failures in a row trip it. Default 5.
    pub consecutive_failures: u32,
    /// Trips when the share of successes among the answers of `window` is smaller than this. Default 0.5.
    pub success_rate_min: f64,
    /// The window of the success rate; whole seconds. Default 10 s.
    #[serde(deserialize_with = "duration")]
    pub window: Duration,
    /// The success rate counts once there are this many answers in the window. Default 20.
    pub requests_min: u32,
    /// The first time it stays open. Default 250 ms.
    #[serde(deserialize_with = "duration")]
    pub open_min: Duration,
    /// Each time it trips again it stays open twice as long, up to this. Default 1 s: a probe a second costs a failing
    /// endpoint nothing, and one that recovers is back soon.
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

/// Whether a closed breaker trips: `failsafe`'s policies, which also come with pauses. The breaker uses its own
/// ([`crate::backoff`]): `failsafe`'s count in whole seconds.
pub(super) struct TripPolicy(Box<dyn FailurePolicy + Send>);

impl TripPolicy {
    pub(super) fn new(config: &BreakerConfig) -> Self {
        let no_pause = iter::repeat(Duration::ZERO);
        let in_a_row = failure_policy::consecutive_failures(config.consecutive_failures, no_pause.clone());
        let rate = failure_policy::success_rate_over_time_window(
            config.success_rate_min.clamp(0.0, 1.0),
            config.requests_min,
            config.window,
            no_pause,
        );
        Self(Box::new(in_a_row.or_else(rate)))
    }

    pub(super) fn count_success(&mut self) {
        self.0.record_success();
    }

    /// Counts a failure. True: the breaker trips.
    pub(super) fn trips_on_failure(&mut self) -> bool {
        self.0.mark_dead_on_failure().is_some()
    }

    /// Forgets what was counted before the endpoint recovered.
    pub(super) fn reset(&mut self) {
        self.0.revived();
    }
}
