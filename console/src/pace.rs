//! How many pages a second one person may ask for. Each page asks every service, so somebody's script would cost them more than their
//! callers do ([measurements](../../docs/measurements.md#the-console)).

use std::{num::NonZeroU32, time::Duration};

use governor::{
    DefaultKeyedRateLimiter, Quota,
    clock::{Clock as _, DefaultClock},
};

/// So many seconds' worth may be asked for at once: a browser that is opened again loads all of its tabs.
const BURST_SECONDS: u32 = 10;
/// Beyond so many names those are forgotten that have asked for nothing lately.
const NAMES_MAX: usize = 1_000;

/// For each person, by their names.
#[derive(Debug)]
pub(crate) struct Pace {
    limiter: DefaultKeyedRateLimiter<String>,
    clock: DefaultClock,
}

impl Pace {
    pub(crate) fn new(pages_per_second: NonZeroU32) -> Self {
        let burst = pages_per_second.saturating_mul(NonZeroU32::MIN.saturating_add(BURST_SECONDS - 1));
        let quota = Quota::per_second(pages_per_second).allow_burst(burst);
        Self { limiter: DefaultKeyedRateLimiter::keyed(quota), clock: DefaultClock::default() }
    }

    /// Takes a page; an error says how long until there is one.
    pub(crate) fn take(&self, name: &str) -> Result<(), Duration> {
        if self.limiter.len() > NAMES_MAX {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(&name.to_owned()).map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Ten seconds' worth at once, then no more than the rate; others have their own.
    #[test]
    fn one_person_takes_no_pages_of_others() {
        let pace = Pace::new(NonZeroU32::MIN);
        let begun = Instant::now();
        let taken = std::iter::repeat_with(|| pace.take("alice")).take_while(Result::is_ok).count();
        let most = 10 + usize::try_from(begun.elapsed().as_secs()).expect("soon") + 1;
        assert!((10..=most).contains(&taken), "{taken}");
        assert!(pace.take("bob").is_ok());
    }

    /// Names come from a proxy, which may know many people.
    #[test]
    fn names_are_forgotten() {
        let pace = Pace::new(NonZeroU32::new(1_000_000).expect("not zero"));
        for n in 0..NAMES_MAX * 3 {
            assert!(pace.take(&n.to_string()).is_ok());
        }
        assert!(pace.limiter.len() <= NAMES_MAX * 2, "{}", pace.limiter.len());
    }
}
