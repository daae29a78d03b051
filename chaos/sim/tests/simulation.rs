//! Thousands of drawn runs, and the proof that they would find something.

use std::{env, ops::Range, thread};

use holdfast_simulation::{
    bug::Bug,
    operation::draw,
    shrink::{as_test, shrink},
    world::run,
};

/// Runs of `whatever_happens_every_order_ends_well`, unless `HOLDFAST_SIMULATION_RUNS` says otherwise.
const RUNS: u64 = 10_000;
/// Runs within which each planted bug must be found.
const RUNS_TO_FIND: u64 = 1_000;

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// The first of these seeds whose run finds something.
fn first_failure(seeds: Range<u64>, bug: Option<Bug>) -> Option<u64> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|index| {
                let mut seeds = seeds.clone().skip(index).step_by(threads);
                scope.spawn(move || seeds.find(|seed| run(&draw(*seed), bug).is_err()))
            })
            .collect();
        running.into_iter().filter_map(|thread| thread.join().expect("no panic")).min()
    })
}

/// In ten thousand lists of operations with crashes, repetitions, delays, poison and redrives at any step, no invariant
/// is violated. `HOLDFAST_SIMULATION_SEED` begins elsewhere.
#[test]
fn whatever_happens_every_order_ends_well() {
    let begin = setting("HOLDFAST_SIMULATION_SEED").unwrap_or(0);
    let runs = setting("HOLDFAST_SIMULATION_RUNS").unwrap_or(RUNS);
    let started = std::time::Instant::now();
    if let Some(seed) = first_failure(begin..begin + runs, None) {
        let operations = shrink(&draw(seed), None);
        let violation = run(&operations, None).expect_err("it still fails");
        panic!("seed {seed}: {violation}\n\n{}", as_test(&operations, seed, &violation.to_string()));
    }
    println!("{runs} runs in {:?}", started.elapsed());
}

/// Each planted bug is found, and its list can be made short.
#[test]
fn every_planted_bug_is_found() {
    for bug in Bug::ALL {
        let Some(seed) = first_failure(0..RUNS_TO_FIND, Some(bug)) else {
            panic!("{bug:?} is not found in {RUNS_TO_FIND} runs");
        };
        let operations = shrink(&draw(seed), Some(bug));
        let violation = run(&operations, Some(bug)).expect_err("it still fails");
        println!("{bug:?}: seed {seed}, {} operations: {violation}", operations.len());
        assert!(operations.len() <= 40, "{bug:?} needs only a few operations: {operations:?}");
        assert_eq!(run(&operations, None), Ok(()), "without {bug:?} the list passes");
    }
}

/// A list is all that a run depends on.
#[test]
fn a_list_runs_the_same_each_time() {
    for bug in [Bug::NoInbox, Bug::BlockedNotParked] {
        let steps = |seed| run(&draw(seed), Some(bug)).map_err(|violation| violation.step);
        for seed in 0..20 {
            assert_eq!(steps(seed), steps(seed), "{bug:?}, seed {seed}");
        }
    }
}
