//! One quota for many keys, as this gateway counts it: a token bucket for each.

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    time::{Duration, Instant},
};

use governor::{NotUntil, Quota, RateLimiter, clock::Clock, middleware::StateInformationMiddleware};

use super::store::BoundedStore;
use crate::config::QuotaConfig;

/// Tokio's clock, so that a test can stop it.
#[derive(Debug, Clone, Copy)]
struct TokioClock;

impl Clock for TokioClock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// How a client stands after a request that a quota has allowed or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The quota's name.
    pub(super) policy: &'static str,
    /// Requests that a full bucket allows at once.
    pub(super) burst: u32,
    /// Time in which an empty bucket fills.
    pub(super) window: Duration,
    /// Requests that are left.
    pub(super) remaining: u32,
    /// Time until the bucket is full, or, if none is left, until there is one again.
    pub(super) reset: Duration,
}

/// What a quota says, and under which name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    policy: &'static str,
    quota: Quota,
}

impl Terms {
    pub(super) const fn new(policy: &'static str, config: QuotaConfig) -> Self {
        Self { policy, quota: Quota::per_second(config.per_second).allow_burst(config.burst) }
    }

    pub(super) const fn policy(&self) -> &'static str {
        self.policy
    }

    /// Requests that a full bucket allows at once.
    pub(super) const fn burst(&self) -> u32 {
        self.quota.burst_size().get()
    }

    /// The time in which one request's worth comes back.
    pub(super) const fn interval(&self) -> Duration {
        self.quota.replenish_interval()
    }

    /// The time in which an empty bucket fills.
    pub(super) fn window(&self) -> Duration {
        self.interval() * self.burst()
    }

    pub(super) fn standing(&self, remaining: u32, reset: Duration) -> Standing {
        let window = self.window();
        Standing { policy: self.policy, burst: self.burst(), window, remaining, reset }
    }
}

/// A quota, for each key on its own.
#[derive(Debug)]
pub(super) struct Buckets {
    terms: Terms,
    /// Keys are hashed with a secret of this process: nobody can choose two that share a bucket, and a key of any length
    /// takes the same room.
    hasher: RandomState,
    limiter: RateLimiter<u64, BoundedStore, TokioClock, StateInformationMiddleware>,
}

impl Buckets {
    pub(super) fn new(terms: Terms, keys_max: usize) -> Self {
        let store = BoundedStore::new(keys_max, terms.interval());
        let limiter = RateLimiter::new(terms.quota, store, TokioClock);
        Self { terms, hasher: RandomState::new(), limiter }
    }

    /// Takes one request's worth from the key's bucket, or refuses.
    pub(super) fn take(&self, key: impl Hash) -> Result<Standing, Standing> {
        match self.limiter.check_key(&self.hasher.hash_one(key)) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let missing = self.terms.burst().saturating_sub(remaining);
                Ok(self.terms.standing(remaining, self.terms.interval() * missing))
            }
            Err(refused) => Err(self.terms.standing(0, wait(&refused))),
        }
    }

    /// Drops the keys whose bucket is full again, and returns their memory. Returns how many keys are left.
    pub(super) fn sweep(&self) -> usize {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
        self.limiter.len()
    }

    pub(super) const fn policy(&self) -> &'static str {
        self.terms.policy()
    }
}

fn wait(refused: &NotUntil<Instant>) -> Duration {
    refused.wait_time_from(TokioClock.now())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn buckets(per_second: u32, burst: u32, keys_max: usize) -> Buckets {
        let number = |number| NonZeroU32::new(number).expect("not 0");
        let config = QuotaConfig { per_second: number(per_second), burst: number(burst) };
        Buckets::new(Terms::new("reads", config), keys_max)
    }

    /// A burst passes, then the rate; a refusal says when the next one will pass, and that is true.
    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_the_rate() {
        let buckets = buckets(50, 100, 1_000);
        for left in (0..100).rev() {
            let standing = buckets.take("alice").expect("within the burst");
            assert_eq!((standing.remaining, standing.burst), (left, 100));
            assert_eq!(standing.window, Duration::from_secs(2));
            assert_eq!(standing.reset, Duration::from_millis(20) * (100 - left));
        }
        let refused = buckets.take("alice").expect_err("the burst is used up");
        assert_eq!((refused.remaining, refused.reset), (0, Duration::from_millis(20)));
        buckets.take("bob").expect("bob has a bucket of his own");

        tokio::time::advance(refused.reset).await;
        buckets.take("alice").expect("one came back");
        buckets.take("alice").expect_err("one only");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..1_000).filter(|_| buckets.take("alice").is_ok()).count(), 50);
    }

    /// Whoever comes, the keys stay bounded, and who has used up the bucket does not get a new one by it (pitfalls P33).
    #[tokio::test(start_paused = true)]
    async fn a_million_keys_stay_bounded_and_excuse_nobody() {
        const KEYS_MAX: usize = 65_536;
        let buckets = buckets(50, 100, KEYS_MAX);
        for _ in 0..100 {
            buckets.take("alice").expect("within the burst");
        }
        for stranger in 0..1_000_000_u32 {
            buckets.take(stranger).expect("its first");
            if stranger % 65_536 == 0 {
                assert!(buckets.limiter.len() <= KEYS_MAX);
            }
        }
        assert!(buckets.limiter.len() <= KEYS_MAX);
        buckets.take("alice").expect_err("her bucket is still empty");

        // All are full again after two seconds, and forgotten.
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(buckets.sweep(), 0);
        buckets.take("alice").expect("full again");
    }
}
