//! The circuit breaker of one endpoint: stops calling an endpoint that does not answer, and finds out when it answers
//! again.
//!
//! - **closed**: calls pass; the [`policy`] watches their outcomes and says when to trip.
//! - **open**: calls are refused for a while.
//! - **half-open**: exactly one call passes, the probe; the others are refused. Its success closes the breaker, its
//!   failure opens it again for longer.
//!
//! The policy, which says whether to trip, is `failsafe`'s; the state machine is ours, because `failsafe` lets every
//! caller probe at once (pitfalls P1), takes the late answer of an old call for a current one (P2), and knows two
//! outcomes where three are needed (P3).

mod outcome;
mod policy;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;

pub(crate) use self::outcome::CutShort;
use self::policy::TripPolicy;
pub use self::{outcome::Outcome, policy::BreakerConfig};
use crate::backoff::Backoff;

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Calls pass.
    Closed,
    /// Calls are refused.
    Open,
    /// One call passes, as a probe.
    HalfOpen,
}

impl State {
    const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// Its name in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// What would happen to a call.
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
    machine: Mutex<Machine>,
}

/// The state machine.
///
/// - A **closed** breaker trips on 5 failures in a row, or when fewer than half of at least 20 answers within 10 s are
///   successes ([`BreakerConfig`] has the numbers).
/// - An **open** one refuses for 250 ms, then for twice as long each time it opens again, up to 1 s; half of each pause is
///   random, so that the instances of a client don't all probe at once (pitfalls P6).
/// - A **half-open** one waits for the answer of its one probe. A probe without a verdict (the caller went away, or the
///   answer blames the caller) gives its place to the next.
///
/// An answer counts only if the breaker has not changed its state since the call began.
struct Machine {
    state: State,
    /// Grows with each change of state.
    generation: u64,
    /// While open: when a probe may pass.
    open_until: Instant,
    /// While half-open: a probe is under way.
    probing: bool,
    trip: TripPolicy,
    pauses: Backoff,
}

impl Machine {
    fn closed(config: &BreakerConfig) -> Self {
        Self {
            state: State::Closed,
            generation: 0,
            open_until: Instant::now(),
            probing: false,
            trip: TripPolicy::new(config),
            pauses: Backoff::new(config.open_min.min(config.open_max), config.open_max),
        }
    }

    fn readiness(&self) -> Readiness {
        match self.state {
            State::Closed => Readiness::Closed,
            State::Open if Instant::now() >= self.open_until => Readiness::ProbeDue,
            State::HalfOpen if !self.probing => Readiness::ProbeDue,
            State::Open | State::HalfOpen => Readiness::Shut,
        }
    }

    /// Lets the due probe pass.
    fn probe(&mut self) {
        if self.state == State::Open {
            self.enter(State::HalfOpen);
        }
        self.probing = true;
    }

    /// The answer of a call that began in this generation.
    fn record(&mut self, outcome: Outcome) {
        self.probing = false;
        match (self.state, outcome) {
            // Nothing passes while it is open, and what began before is of another generation.
            (_, Outcome::Neutral) | (State::Open, _) => {}
            (State::Closed, Outcome::Success) => self.trip.count_success(),
            (State::Closed, Outcome::Failure) => {
                if self.trip.trips_on_failure() {
                    self.open();
                }
            }
            (State::HalfOpen, Outcome::Success) => self.close(),
            (State::HalfOpen, Outcome::Failure) => self.open(),
        }
    }

    fn open(&mut self) {
        self.open_until = Instant::now() + self.pauses.next_pause();
        self.enter(State::Open);
    }

    fn close(&mut self) {
        self.trip.reset();
        self.pauses.reset();
        self.enter(State::Closed);
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

impl Breaker {
    /// A closed breaker. The names are for logs and metrics.
    #[must_use]
    pub fn new(config: &BreakerConfig, destination: &str, endpoint: &str) -> Self {
        let (destination, endpoint) = (destination.to_owned(), endpoint.to_owned());
        let inner = Inner { destination, endpoint, machine: Mutex::new(Machine::closed(config)) };
        inner.publish(Some(State::Closed));
        Self { inner: Arc::new(inner) }
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> State {
        self.inner.lock().state
    }

    /// What would happen to a call now. Changes nothing.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.inner.lock().readiness()
    }

    /// Asks for a call. Whoever gets a permit makes the call and records how it went; a permit that is dropped gives
    /// its place back (pitfalls P5).
    pub fn try_acquire(&self) -> Result<Permit, Rejected> {
        let mut machine = self.inner.lock();
        match machine.readiness() {
            Readiness::Closed => {}
            Readiness::ProbeDue => {
                let before = machine.state;
                machine.probe();
                self.inner.report_transition(before, machine.state);
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
        metrics::counter!(crate::metric::CIRCUIT_BREAKER_REJECTED_TOTAL, &self.inner.labels()).increment(1);
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

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Machine> {
        // Nothing panics while it holds the lock.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn labels(&self) -> [(&'static str, String); 2] {
        [("destination", self.destination.clone()), ("endpoint", self.endpoint.clone())]
    }

    /// Records an outcome, unless the breaker has changed since the call began.
    fn record(&self, generation: u64, outcome: Outcome) {
        let mut machine = self.lock();
        if machine.generation == generation {
            let before = machine.state;
            machine.record(outcome);
            self.report_transition(before, machine.state);
        }
    }

    /// Reports a change, if there was one, to logs and metrics.
    fn report_transition(&self, before: State, now: State) {
        if before == now {
            return;
        }
        self.publish(Some(now));
        let [destination, endpoint] = self.labels();
        metrics::counter!(
            crate::metric::CIRCUIT_BREAKER_TRANSITIONS_TOTAL, "destination" => destination.1, "endpoint" => endpoint.1,
            "to" => now.name()
        )
        .increment(1);
        let (destination, endpoint) = (&self.destination, &self.endpoint);
        let (from, to) = (before.name(), now.name());
        if now == State::Open {
            tracing::warn!(destination, endpoint, from, to, "circuit breaker tripped");
        } else {
            tracing::info!(destination, endpoint, from, to, "circuit breaker changed");
        }
    }

    /// One series per state, 1 for the current one; all 0 when the endpoint is gone.
    fn publish(&self, present: Option<State>) {
        for state in State::ALL {
            let [destination, endpoint] = self.labels();
            metrics::gauge!(
                crate::metric::CIRCUIT_BREAKER_STATE, "destination" => destination.1, "endpoint" => endpoint.1,
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
    /// Records how the call went.
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
