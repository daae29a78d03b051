use std::{
    collections::HashSet,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use proptest::prelude::*;
use tokio::{task::JoinSet, time::advance};

use super::*;

fn breaker() -> Breaker {
    Breaker::new(&BreakerConfig::default(), "test", "test")
}

fn call(breaker: &Breaker, outcome: Outcome) {
    breaker.try_acquire().expect("calls pass").record(outcome);
}

fn tripped() -> Breaker {
    let breaker = breaker();
    for _ in 0..5 {
        call(&breaker, Outcome::Failure);
    }
    assert_eq!(breaker.state(), State::Open);
    breaker
}

/// Longer than any pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The fifth failure in a row trips it, the fourth does not, and a success in between resets the count.
#[tokio::test(start_paused = true)]
async fn five_failures_in_a_row_trip_it() {
    let breaker = breaker();
    for _ in 0..4 {
        call(&breaker, Outcome::Failure);
    }
    call(&breaker, Outcome::Success);
    for _ in 0..4 {
        call(&breaker, Outcome::Failure);
    }
    assert_eq!(breaker.state(), State::Closed);
    call(&breaker, Outcome::Failure);
    assert_eq!(breaker.state(), State::Open);
    assert!(breaker.try_acquire().is_err());
}

/// Ten thousand answers that blame the caller leave it closed, and don't hide the failures between them.
#[tokio::test(start_paused = true)]
async fn answers_that_blame_the_caller_leave_it_closed() {
    let breaker = breaker();
    for _ in 0..10_000 {
        call(&breaker, Outcome::Neutral);
    }
    assert_eq!(breaker.state(), State::Closed);
    for _ in 0..5 {
        call(&breaker, Outcome::Neutral);
        call(&breaker, Outcome::Failure);
    }
    assert_eq!(breaker.state(), State::Open);
}

/// Of a thousand callers that come at once when a probe is due, one gets through.
#[tokio::test(flavor = "multi_thread")]
async fn one_probe_among_a_thousand_callers() {
    let config = BreakerConfig {
        open_min: Duration::from_millis(1),
        open_max: Duration::from_millis(1),
        ..BreakerConfig::default()
    };
    let breaker = Breaker::new(&config, "test", "test");
    for _ in 0..5 {
        call(&breaker, Outcome::Failure);
    }
    while breaker.readiness() != Readiness::ProbeDue {
        tokio::task::yield_now().await;
    }
    let passed = Arc::new(AtomicU32::new(0));
    let mut callers = JoinSet::new();
    let all_here = Arc::new(tokio::sync::Barrier::new(1000));
    for _ in 0..1000 {
        let (breaker, passed, all_here) = (breaker.clone(), passed.clone(), all_here.clone());
        callers.spawn(async move {
            all_here.wait().await;
            let permit = breaker.try_acquire().ok();
            passed.fetch_add(u32::from(permit.is_some()), Ordering::SeqCst);
            // Held until all have asked.
            all_here.wait().await;
            if let Some(permit) = permit {
                permit.record(Outcome::Success);
            }
        });
    }
    callers.join_all().await;
    assert_eq!(passed.load(Ordering::SeqCst), 1);
    assert_eq!(breaker.state(), State::Closed);
}

/// A neutral answer to the probe neither closes nor opens the breaker; the next caller probes.
#[tokio::test(start_paused = true)]
async fn a_neutral_probe_decides_nothing() {
    let breaker = tripped();
    advance(LONGEST_PAUSE).await;
    call(&breaker, Outcome::Neutral);
    assert_eq!(breaker.state(), State::HalfOpen);
    call(&breaker, Outcome::Success);
    assert_eq!(breaker.state(), State::Closed);
}

/// A probe whose caller goes away gives its place back, once.
#[tokio::test(start_paused = true)]
async fn a_probe_that_goes_away_gives_its_place_back() {
    let breaker = tripped();
    advance(LONGEST_PAUSE).await;
    let probe = breaker.try_acquire().expect("the probe");
    assert!(breaker.try_acquire().is_err(), "one at a time");
    drop(probe);
    let probe = breaker.try_acquire().expect("the next probe");
    assert!(breaker.try_acquire().is_err(), "one at a time");
    probe.record(Outcome::Success);
    assert_eq!(breaker.state(), State::Closed);
}

/// The success of a call that began before the breaker tripped does not close it, and the failure of such a call does
/// not open it.
#[tokio::test(start_paused = true)]
async fn late_answers_are_discarded() {
    let breaker = breaker();
    let (late_success, late_failure) = (breaker.try_acquire(), breaker.try_acquire());
    let dropped_late = breaker.try_acquire();
    for _ in 0..5 {
        call(&breaker, Outcome::Failure);
    }
    advance(LONGEST_PAUSE).await;
    let probe = breaker.try_acquire().expect("the probe");
    late_success.expect("was closed").record(Outcome::Success);
    assert_eq!(breaker.state(), State::HalfOpen, "an old success does not count");
    drop(dropped_late);
    assert!(breaker.try_acquire().is_err(), "the probe is still under way");
    probe.record(Outcome::Success);
    late_failure.expect("was closed").record(Outcome::Failure);
    for _ in 0..4 {
        call(&breaker, Outcome::Failure);
    }
    assert_eq!(breaker.state(), State::Closed, "an old failure does not count");
}

/// Each failed probe opens it for longer, up to the limit; after a success the pauses start small again.
#[tokio::test(start_paused = true)]
async fn failed_probes_open_it_for_longer() {
    let breaker = tripped();
    for (at_least_ms, at_most_ms) in [(125, 250), (250, 500), (500, 1000), (500, 1000)] {
        advance(Duration::from_millis(at_least_ms - 1)).await;
        assert_eq!(breaker.readiness(), Readiness::Shut);
        advance(Duration::from_millis(at_most_ms - at_least_ms + 1)).await;
        assert_eq!(breaker.readiness(), Readiness::ProbeDue);
        call(&breaker, Outcome::Failure);
    }
    advance(LONGEST_PAUSE).await;
    call(&breaker, Outcome::Success);
    for _ in 0..5 {
        call(&breaker, Outcome::Failure);
    }
    advance(Duration::from_millis(250)).await;
    assert_eq!(breaker.readiness(), Readiness::ProbeDue);
}

/// Breakers that trip at the same moment, as in all instances of a client, probe at different moments (pitfalls P6).
#[tokio::test(start_paused = true)]
async fn breakers_that_trip_together_probe_apart() {
    let probes: HashSet<_> = (0..20).map(|_| tripped().inner.lock().open_until).collect();
    assert!(probes.len() > 10, "{probes:?}");
}

proptest! {
    /// Whatever happens in whatever order: while it is not closed at most one permit is out, and a breaker whose
    /// endpoint recovers is closed after the next pause.
    #[test]
    fn never_two_probes_and_always_a_way_back(steps in prop::collection::vec((0..6u8, 0..8usize), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let breaker = breaker();
            let mut held: Vec<(State, Permit)> = Vec::new();
            for (step, which) in steps {
                let permit = (which < held.len()).then(|| held.swap_remove(which));
                match (step, permit) {
                    (0 | 1, permit) => {
                        held.extend(permit);
                        if let Ok(permit) = breaker.try_acquire() {
                            held.push((breaker.state(), permit));
                        }
                    }
                    (2, Some((_, permit))) => permit.record(Outcome::Success),
                    (3, Some((_, permit))) => permit.record(Outcome::Failure),
                    (4, Some((_, permit))) => permit.record(Outcome::Neutral),
                    (_, permit) => {
                        drop(permit);
                        advance(Duration::from_millis(100)).await;
                    }
                }
                let generation = breaker.inner.lock().generation;
                if breaker.state() == State::HalfOpen {
                    let probes = held.iter().filter(|(_, permit)| permit.generation == generation).count();
                    prop_assert!(probes <= 1, "{} probes", probes);
                }
            }
            drop(held);
            advance(LONGEST_PAUSE).await;
            call(&breaker, Outcome::Success);
            prop_assert_eq!(breaker.state(), State::Closed);
            Ok(())
        })?;
    }
}
