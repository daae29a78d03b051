//! What tests on the real stack share: a stack of their own ([`stack`]), a Redis of their own ([`redis`]), and waiting for a
//! condition with a bound.

pub mod redis;
pub mod stack;

use std::{io::Write as _, time::Duration};

/// Longer than anything here takes on a machine that has far more to do than it can.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for a condition with a bound.
///
/// # Panics
///
/// If it does not come true within [`PATIENCE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < until, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a number has become `target`, as long as it keeps changing: a slow machine may take its time, but must
/// not stall.
///
/// # Panics
///
/// If it does not change for [`PATIENCE`].
pub async fn reaches<F: Future<Output = i64>>(what: &str, target: i64, mut number: impl FnMut() -> F) {
    let (mut last, mut changed) = (number().await, tokio::time::Instant::now());
    while last != target {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = number().await;
        if now != last {
            (last, changed) = (now, tokio::time::Instant::now());
        }
        assert!(changed.elapsed() < PATIENCE, "{what}: it is at {last}, not at {target}");
    }
}

/// Says that a test was not run. Not by a macro: the harness keeps to itself what those print in a test that passes.
pub fn skipped(reason: &str) {
    // There is nobody else to tell.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}
