//! The circuit breaker of one endpoint: stops calling what does not answer, and finds out when it does again.
//!
//! - **closed**: calls pass; the [`policy`] watches their outcomes and trips the breaker.
//! - **open**: calls are refused for a while.
//! - **half-open**: exactly one call passes, the probe; the others are refused. Its success closes the breaker, its
//!   failure opens it again for longer.
//!
//! The policy is `failsafe`'s; the state machine is ours, because `failsafe` lets every caller probe at once (pitfalls
//! P1), takes the late answer of an old call for news (P2), and knows two outcomes where three are needed (P3).

mod outcome;
mod policy;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

pub(crate) use self::outcome::CutShort;
use self::policy::{Pauses, Policy, policy};
pub use self::{outcome::Outcome, policy::BreakerConfig};

/// Where a breaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Calls pass.
    Closed,
    /// Calls are refused.
    Open,
    /// One call passes, to see.
    HalfOpen,
}

impl State {
    const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// As logs and metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// What a call would meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It would pass.
    Closed,
    /// It would be the probe.
    ProbeDue,
    /// It would be refused.
    Shut,
}

/// The breaker refuses the call; nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("circuit breaker is open")]
pub struct Rejected;

/// A breaker; clones share it.
#[derive(Clone)]
pub struct Breaker {
    inner: Arc<Inner>,
}

struct Inner {
    destination: String,
    endpoint: String,
    first_pauses: Pauses,
    machine: Mutex<Machine>,
}

struct Machine {
    state: State,
    /// Grows with each change of state; an answer of an earlier generation is discarded.
    generation: u64,
    /// While open: when the first probe may pass.
    open_until: Instant,
    /// While half-open: a probe is under way.
    probing: bool,
    policy: Policy,
    /// For a failed probe when the policy names no pause (the success rate needs more than one answer).
    pauses: Pauses,
}

impl Breaker {
    /// A closed breaker. The names are for logs and metrics.
    #[must_use]
    pub fn new(config: &BreakerConfig, destination: &str, endpoint: &str) -> Self {
        let first_pauses = Pauses::new(config);
        let machine = Machine {
            state: State::Closed,
            generation: 0,
            open_until: Instant::now(),
            probing: false,
            policy: policy(config),
            pauses: first_pauses.clone(),
        };
        let (destination, endpoint) = (destination.to_owned(), endpoint.to_owned());
        let inner = Inner { destination, endpoint, first_pauses, machine: Mutex::new(machine) };
        inner.publish(Some(State::Closed));
        Self { inner: Arc::new(inner) }
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.inner.lock().state
    }

    /// What a call would meet now. Changes nothing.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.inner.lock().readiness()
    }

    /// Asks for a call. Whoever gets a permit calls, and tells the permit how it went; a permit that is dropped gives
    /// its place back (pitfalls P5).
    pub fn try_acquire(&self) -> Result<Permit, Rejected> {
        let mut machine = self.inner.lock();
        match machine.readiness() {
            Readiness::Closed => {}
            Readiness::ProbeDue => {
                if machine.state == State::Open {
                    self.inner.enter(&mut machine, State::HalfOpen);
                }
                machine.probing = true;
            }
            Readiness::Shut => {
                drop(machine);
                self.count_rejected();
                return Err(Rejected);
            }
        }
        Ok(Permit { inner: Some(self.inner.clone()), generation: machine.generation })
    }
}

impl Breaker {
    /// For a call that was refused because of what [`Breaker::readiness`] said.
    pub(super) fn count_rejected(&self) {
        metrics::counter!("circuit_breaker_rejected_total", &self.inner.labels()).increment(1);
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("endpoint", &self.inner.endpoint)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl Machine {
    fn readiness(&self) -> Readiness {
        match self.state {
            State::Closed => Readiness::Closed,
            State::Open if Instant::now() >= self.open_until => Readiness::ProbeDue,
            State::HalfOpen if !self.probing => Readiness::ProbeDue,
            State::Open | State::HalfOpen => Readiness::Shut,
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Machine> {
        // Nothing in here panics half way.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn labels(&self) -> [(&'static str, String); 2] {
        [("destination", self.destination.clone()), ("endpoint", self.endpoint.clone())]
    }

    /// Records an outcome, unless the breaker has changed since the call began.
    fn record(&self, generation: u64, outcome: Outcome) {
        let mut machine = self.lock();
        if machine.generation != generation {
            return;
        }
        machine.probing = false;
        match (machine.state, outcome) {
            (_, Outcome::Neutral) => {}
            (State::HalfOpen, Outcome::Success) => {
                machine.policy.revived();
                machine.pauses = self.first_pauses.clone();
                self.enter(&mut machine, State::Closed);
            }
            (_, Outcome::Success) => machine.policy.record_success(),
            (state, Outcome::Failure) => {
                let named = machine.policy.mark_dead_on_failure();
                let pause = match (named, state) {
                    (Some(pause), _) => pause,
                    // A failed probe says enough by itself.
                    (None, State::HalfOpen) => machine.pauses.next().unwrap_or_default(),
                    (None, _) => return,
                };
                machine.open_until = Instant::now() + pause;
                self.enter(&mut machine, State::Open);
            }
        }
    }

    fn enter(&self, machine: &mut Machine, state: State) {
        let before = machine.state;
        machine.state = state;
        machine.generation += 1;
        self.publish(Some(state));
        let [destination, endpoint] = self.labels();
        metrics::counter!(
            "circuit_breaker_transitions_total", "destination" => destination.1, "endpoint" => endpoint.1,
            "to" => state.name()
        )
        .increment(1);
        let (destination, endpoint) = (&self.destination, &self.endpoint);
        let (from, to) = (before.name(), state.name());
        if state == State::Open {
            tracing::warn!(destination, endpoint, from, to, "circuit breaker tripped");
        } else {
            tracing::info!(destination, endpoint, from, to, "circuit breaker changed");
        }
    }

    /// One series per state, 1 for the present one; all 0 when the endpoint is gone.
    fn publish(&self, present: Option<State>) {
        for state in State::ALL {
            let [destination, endpoint] = self.labels();
            metrics::gauge!(
                "circuit_breaker_state", "destination" => destination.1, "endpoint" => endpoint.1,
                "state" => state.name()
            )
            .set(if present == Some(state) { 1.0 } else { 0.0 });
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.publish(None);
    }
}

/// The right to make one call.
#[must_use = "a permit that is dropped says nothing about the endpoint"]
pub struct Permit {
    /// Taken when the outcome is recorded: a second record could give away the place of the next probe.
    inner: Option<Arc<Inner>>,
    generation: u64,
}

impl Permit {
    /// Tells how the call went.
    pub fn record(mut self, outcome: Outcome) {
        if let Some(inner) = self.inner.take() {
            inner.record(self.generation, outcome);
        }
    }
}

impl Drop for Permit {
    /// The caller went away: the place is free again, and nothing is known.
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            inner.record(self.generation, Outcome::Neutral);
        }
    }
}

#[cfg(test)]
mod tests;
