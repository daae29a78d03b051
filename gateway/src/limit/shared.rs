//! A quota that all gateways share: its buckets are in Redis.

use std::{fmt::Write as _, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use redis::Script;

use super::bucket::{Standing, Terms};
use crate::redis::{Away, Redis};

/// One decision, in Redis' own time, since the gateways' clocks differ. A bucket is the time at which it is full again, in
/// microseconds; one that is full needs no key. Returns whether the request is allowed, and the time until the bucket is full, or
/// until there is room for one.
///
/// Numbers are doubles, which are exact up to 2^53; `tostring` would round them to 14 digits.
const TAKE: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local cost, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local full_at = tonumber(redis.call('GET', KEYS[1]) or now)
-- Of the past after a pause; too far ahead if the clock was set back, or the quota was changed.
full_at = math.min(math.max(full_at, now), now + cost * burst)
local missing = full_at + cost - now
if missing > cost * burst then
    return {0, missing - cost * burst}
end
redis.call('SET', KEYS[1], string.format('%.0f', full_at + cost), 'PX', math.ceil(missing / 1000))
return {1, missing}
";

/// See the module.
#[derive(Debug)]
pub(super) struct SharedBuckets {
    terms: Terms,
    redis: Redis,
    script: Script,
}

impl SharedBuckets {
    pub(super) fn new(terms: Terms, redis: Redis) -> Self {
        Self { terms, redis, script: Script::new(TAKE) }
    }

    /// Takes one request's worth from the key's bucket, or refuses.
    pub(super) async fn take(&self, key: &str) -> Result<Result<Standing, Standing>, Away> {
        let (cost, burst) = (micros(self.terms.interval()).max(1), self.terms.burst());
        let mut invocation = self.script.key(self.name_of(key));
        invocation.arg(cost).arg(burst);
        // By its hash; the text is sent only if Redis does not know it.
        let ask = |mut connection| async move { invocation.invoke_async(&mut connection).await };
        let (allowed, time): (bool, u64) = self.redis.call(ask).await?;
        if !allowed {
            return Ok(Err(self.terms.standing(0, Duration::from_micros(time))));
        }
        let spent = u32::try_from(time.div_ceil(cost)).unwrap_or(burst).min(burst);
        Ok(Ok(self.terms.standing(burst - spent, self.terms.interval() * spent)))
    }

    /// Who it is stays here: Redis learns half a hash, which is long enough that no two share one.
    fn name_of(&self, key: &str) -> String {
        let mut name = format!("holdfast:limit:{}:", self.terms.policy());
        for byte in &digest(&SHA256, key.as_bytes()).as_ref()[..16] {
            // Writing to a String can't fail.
            let _ = write!(name, "{byte:02x}");
        }
        name
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
