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

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Instant};

    use holdfast_testkit::{eventually, redis::TestRedis};

    use super::*;
    use crate::{config::QuotaConfig, limit::quota::Quota, redis::tests::Kept};

    const PATIENT: Duration = Duration::from_secs(60);
    /// So slow that no request's worth comes back during a test.
    const HOUR_US: u64 = 3_600_000_000;
    const BURST: u32 = 5;

    /// The script itself, at a pace of the test's own.
    async fn take(redis: &Redis, key: &str, cost_us: u64) -> (bool, u64) {
        let script = Script::new(TAKE);
        let mut invocation = script.key(key);
        invocation.arg(cost_us).arg(BURST);
        redis
            .call(|mut connection| async move { invocation.invoke_async(&mut connection).await })
            .await
            .expect("answered")
    }

    async fn command<T: redis::FromRedisValue>(redis: &Redis, words: &[&str]) -> T {
        let mut command = redis::Cmd::new();
        command.arg(words);
        redis
            .call(|mut connection| async move { command.query_async(&mut connection).await })
            .await
            .expect("answered")
    }

    async fn redis(server: &TestRedis) -> Kept {
        let kept = Kept::of(server, PATIENT);
        kept.is_connected().await;
        kept
    }

    /// A burst passes, the next request is told how long to wait, and others have buckets of their own. A key lives for as long as
    /// its bucket is not full.
    #[tokio::test]
    async fn a_burst_passes_then_nothing_until_its_time() {
        let server = TestRedis::start();
        let kept = redis(&server).await;
        for taken in 1..=u64::from(BURST) {
            let (allowed, full_after) = take(&kept.redis, "alice", HOUR_US).await;
            assert!(allowed);
            assert_eq!(full_after.div_ceil(HOUR_US), taken, "{full_after}");
        }
        let (allowed, wait) = take(&kept.redis, "alice", HOUR_US).await;
        assert!(!allowed && (1..=HOUR_US).contains(&wait), "{wait}");
        assert!(take(&kept.redis, "bob", HOUR_US).await.0, "bob has a bucket of his own");
        let lives_ms: u64 = command(&kept.redis, &["PTTL", "alice"]).await;
        let full_ms = HOUR_US / 1_000 * u64::from(BURST);
        assert!((full_ms - 60_000..=full_ms).contains(&lives_ms), "{lives_ms}");

        assert!(take(&kept.redis, "carol", 1_000).await.0);
        eventually("a full bucket has no key", || async {
            command::<u64>(&kept.redis, &["EXISTS", "carol"]).await == 0
        })
        .await;
    }

    /// A bucket that was full long ago is full; one that is full too far ahead, because the clock was set back, is empty and no
    /// worse.
    #[tokio::test]
    async fn a_clock_that_jumps_locks_nobody_out() {
        let server = TestRedis::start();
        let kept = redis(&server).await;
        let (seconds, _): (u64, u64) = command(&kept.redis, &["TIME"]).await;
        let _: () = command(&kept.redis, &["SET", "old", &((seconds - 3_600) * 1_000_000).to_string()]).await;
        assert_eq!(take(&kept.redis, "old", HOUR_US).await, (true, HOUR_US));
        let _: () = command(&kept.redis, &["SET", "ahead", &((seconds * 2) * 1_000_000).to_string()]).await;
        assert_eq!(take(&kept.redis, "ahead", HOUR_US).await, (false, HOUR_US));
    }

    fn quota(kept: &Kept, per_second: u32, burst: u32) -> Quota {
        let number = |number| NonZeroU32::new(number).expect("not 0");
        let config = QuotaConfig { per_second: number(per_second), burst: number(burst) };
        Quota::new("reads", config, Some(&kept.redis))
    }

    /// Two gateways allow together what one may allow, and say the same of it. A Redis that has forgotten the script is told it
    /// again.
    #[tokio::test]
    async fn gateways_share_a_bucket() {
        let server = TestRedis::start();
        let (first, second) = (redis(&server).await, redis(&server).await);
        let (first, second) = ((quota(&first, 1, 10), first), (quota(&second, 1, 10), second));
        let begin = Instant::now();
        let mut allowed = 0;
        let mut refused = None;
        for turn in 0..20_u32 {
            if turn == 4 {
                let _: () = command(&first.1.redis, &["SCRIPT", "FLUSH"]).await;
            }
            let (quota, _) = if turn % 2 == 0 { &first } else { &second };
            match quota.take("alice").await {
                Ok(standing) => {
                    if allowed == 0 {
                        assert_eq!((standing.burst, standing.remaining), (10, 9));
                        assert_eq!(standing.window, Duration::from_secs(10));
                        assert_eq!(standing.reset, Duration::from_secs(1));
                    }
                    allowed += 1;
                }
                Err(standing) => refused = Some(standing),
            }
        }
        let came_back = begin.elapsed().as_secs() + 1;
        assert!((10..=10 + came_back).contains(&allowed), "{allowed} in {:?}", begin.elapsed());
        let refused = refused.expect("more than a burst");
        assert_eq!(refused.remaining, 0);
        assert!(refused.reset <= Duration::from_secs(1), "{refused:?}");
        second.0.take("bob").await.expect("bob has a bucket of his own");
        let keys: Vec<String> = command(&first.1.redis, &["KEYS", "*"]).await;
        assert!(
            keys.iter().all(|key| key.starts_with("holdfast:limit:reads:") && !key.contains("alice")),
            "{keys:?}"
        );
    }

    /// Without Redis each gateway has the limit for itself, and has counted before.
    #[tokio::test]
    async fn without_redis_each_gateway_has_its_own() {
        let mut server = TestRedis::start();
        let kept = redis(&server).await;
        let quota = quota(&kept, 1, 10);
        let begin = Instant::now();
        for _ in 0..5 {
            quota.take("alice").await.expect("within the burst");
        }
        server.kill();
        let mut allowed = 5;
        while quota.take("alice").await.is_ok() {
            allowed += 1;
        }
        let came_back = begin.elapsed().as_secs() + 1;
        assert!((10..=10 + came_back).contains(&allowed), "{allowed} in {:?}", begin.elapsed());
    }
}
