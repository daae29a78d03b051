//! Pauses between attempts: exponential, half of each random, and never longer than a limit.

use std::time::Duration;

/// A growing pause. Loops keep one each and [`Backoff::reset`] it after a success.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    /// Pauses of at most `first`, then of at most twice as much each time, up to `max`.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, attempt: 0 }
    }

    /// For loops that wait for a server on the same network: 50 ms to 2 s.
    #[must_use]
    pub const fn for_infrastructure() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(2))
    }

    /// How many pauses were taken since the last reset.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The upper end of the next pause.
    fn ceiling(&self) -> Duration {
        self.first.saturating_mul(1u32.checked_shl(self.attempt.min(31)).unwrap_or(u32::MAX)).min(self.max)
    }

    /// The next pause: half fixed and half random, so that it is never zero and loops don't run in step.
    pub fn next_pause(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.attempt = self.attempt.saturating_add(1);
        ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// After a success.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pauses grow to the limit, stay within it, are never zero, and start small again after a success.
    #[test]
    fn pauses_grow_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        for ceiling_ms in [10, 20, 40, 80, 100, 100, 100] {
            let pause = backoff.next_pause();
            assert!(pause >= Duration::from_millis(ceiling_ms) / 2, "{pause:?}");
            assert!(pause <= Duration::from_millis(ceiling_ms), "{pause:?}");
        }
        for _ in 0..100 {
            assert!(backoff.next_pause() <= Duration::from_millis(100));
        }
        backoff.reset();
        assert!(backoff.next_pause() <= Duration::from_millis(10));
    }
}
