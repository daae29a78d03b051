//! What all gateways know together: the last states that any of them has read, in Redis. It keeps what [`super`] promises to a
//! client whose requests go to several gateways: whoever has read a state puts it there before a client gets it, and nobody
//! takes one from there that is older than what this gateway has shown.

use std::{sync::Arc, time::Duration};

use holdfast_proto::{OrderId, order::v1 as pb};
use prost::Message as _;
use redis::{Script, ScriptInvocation};

use super::snapshot::OrderSnapshot;
use crate::{
    config::CacheConfig,
    redis::{Away, Redis},
};

/// The state and its age in microseconds, in Redis' own time, since the gateways' clocks differ.
const GET: &str = "
local known = redis.call('HMGET', KEYS[1], 'message', 'confirmed')
if not known[1] then
    return {false, 0}
end
local time = redis.call('TIME')
return {known[1], math.max(time[1] * 1000000 + time[2] - known[2], 0)}
";

/// Keeps a state of this version and age, unless a newer one is known, which is the answer.
const PUT: &str = "
local known = redis.call('HMGET', KEYS[1], 'version', 'message', 'confirmed')
local version, age = tonumber(ARGV[1]), tonumber(ARGV[3])
if known[1] and tonumber(known[1]) > version then
    return known[2]
end
local time = redis.call('TIME')
local confirmed = time[1] * 1000000 + time[2] - age
if known[1] and tonumber(known[1]) == version then
    confirmed = math.max(confirmed, tonumber(known[3]))
end
redis.call('HSET', KEYS[1], 'version', version, 'message', ARGV[2], 'confirmed', string.format('%.0f', confirmed))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return false
";

/// Forgets states that are older than these versions.
const FORGET: &str = "
for nth, key in ipairs(KEYS) do
    local version = redis.call('HGET', key, 'version')
    if version and tonumber(version) < tonumber(ARGV[nth]) then
        redis.call('DEL', key)
    end
end
";

/// See the module.
#[derive(Debug)]
pub(super) struct SharedStates {
    redis: Redis,
    /// How long any state is kept.
    time_max: Duration,
    get: Script,
    put: Script,
    forget: Script,
}

impl SharedStates {
    pub(super) fn new(redis: Redis, config: &CacheConfig) -> Self {
        let time_max = config.stale_time.max(config.terminal_time).max(config.unfinished_time);
        let [get, put, forget] = [GET, PUT, FORGET].map(Script::new);
        Self { redis, time_max, get, put, forget }
    }

    /// What is known of an order, and its age.
    pub(super) async fn get(&self, order_id: OrderId) -> Option<(OrderSnapshot, Duration)> {
        let invocation = self.get.key(name_of(order_id));
        let answer: Result<(Option<Vec<u8>>, u64), Away> = self.call(invocation).await;
        let (message, age) = answer.ok()?;
        Some((parse(&message?)?, Duration::from_micros(age)))
    }

    /// Lets the others know a state that was confirmed so long ago. The answer is a newer one, if there is one.
    pub(super) async fn put(&self, order: &OrderSnapshot, age: Duration) -> Option<OrderSnapshot> {
        let mut invocation = self.put.key(name_of(order.order_id));
        let age = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
        let time_max = u64::try_from(self.time_max.as_millis()).unwrap_or(u64::MAX).max(1);
        invocation.arg(order.version()).arg(order.message.encode_to_vec()).arg(age).arg(time_max);
        let newer: Result<Option<Vec<u8>>, Away> = self.call(invocation).await;
        parse(&newer.ok()??)
    }

    /// Has all gateways forget what is older than what a client is about to get.
    pub(super) async fn forget_older(&self, orders: impl IntoIterator<Item = &Arc<OrderSnapshot>>) {
        let mut invocation = self.forget.prepare_invoke();
        let mut any = false;
        for order in orders {
            invocation.key(name_of(order.order_id)).arg(order.version());
            any = true;
        }
        if any {
            // Away: then nobody takes anything from there either, until it is back.
            let _: Result<(), Away> = self.call(invocation).await;
        }
    }

    async fn call<T: redis::FromRedisValue>(&self, invocation: ScriptInvocation<'_>) -> Result<T, Away> {
        self.redis.call(|mut connection| async move { invocation.invoke_async(&mut connection).await }).await
    }
}

fn name_of(order_id: OrderId) -> String {
    format!("holdfast:order:{order_id}")
}

/// What is no order is as good as nothing: it can only come from a gateway of another version.
fn parse(message: &[u8]) -> Option<OrderSnapshot> {
    OrderSnapshot::new(pb::Order::decode(message).ok()?)
}

#[cfg(test)]
mod tests {
    use holdfast_testkit::redis::TestRedis;

    use super::*;
    use crate::{cache::snapshot::tests::pending, redis::tests::Kept};

    const PATIENT: Duration = Duration::from_secs(60);

    fn snapshot(order_id: OrderId, version: i64) -> Arc<OrderSnapshot> {
        Arc::new(OrderSnapshot::new(pending(order_id, version)).expect("valid"))
    }

    /// What one gateway puts, the other gets, with its age; what is older is not kept, and is told what is newer.
    #[tokio::test]
    async fn the_newest_state_is_shared() {
        let server = TestRedis::start();
        let kept = [Kept::of(&server, PATIENT), Kept::of(&server, PATIENT)];
        for kept in &kept {
            kept.is_connected().await;
        }
        let [first, second] =
            kept.each_ref().map(|kept| SharedStates::new(kept.redis.clone(), &CacheConfig::default()));
        let (order_id, other) = (OrderId::generate(), OrderId::generate());
        assert!(second.get(order_id).await.is_none());
        let hour = Duration::from_secs(3_600);
        assert!(first.put(&snapshot(order_id, 2), hour).await.is_none());
        let (order, age) = second.get(order_id).await.expect("known");
        assert_eq!((order.version(), &order.message), (2, &pending(order_id, 2)));
        assert!((hour..hour + PATIENT).contains(&age), "{age:?}");

        assert!(second.put(&snapshot(order_id, 3), Duration::ZERO).await.is_none());
        let newer = first.put(&snapshot(order_id, 2), Duration::ZERO).await.expect("a newer one is known");
        assert_eq!(newer.version(), 3);
        // An older confirmation of the same state does not make it older.
        assert!(first.put(&snapshot(order_id, 3), hour).await.is_none());
        let (order, age) = first.get(order_id).await.expect("known");
        assert!(order.version() == 3 && age < hour, "{age:?}");

        first.put(&snapshot(other, 1), Duration::ZERO).await;
        second.forget_older([&snapshot(order_id, 3), &snapshot(other, 2)]).await;
        assert!(first.get(order_id).await.is_some(), "it is not older");
        assert!(first.get(other).await.is_none());
        second.forget_older([]).await;
    }

    /// Without Redis nothing is known, and nobody is told.
    #[tokio::test]
    async fn without_redis_nothing_is_known() {
        let mut server = TestRedis::start();
        let kept = Kept::of(&server, PATIENT);
        kept.is_connected().await;
        let shared = SharedStates::new(kept.redis.clone(), &CacheConfig::default());
        let order = snapshot(OrderId::generate(), 1);
        shared.put(&order, Duration::ZERO).await;
        server.kill();
        assert!(shared.get(order.order_id).await.is_none());
        assert!(shared.put(&order, Duration::ZERO).await.is_none());
        shared.forget_older([&order]).await;
    }
}
