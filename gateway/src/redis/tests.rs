//! Against a Redis of its own for each test.

use holdfast_common::health::Health;
use holdfast_testkit::{eventually, redis::TestRedis};
use tokio::task::JoinHandle;

use super::*;

/// Longer than anything takes, so that no answer is late on a slow machine.
const PATIENT: Duration = Duration::from_secs(60);

/// A connection that is kept, and its state of health.
pub(crate) struct Kept {
    pub(crate) redis: Redis,
    health: Health,
    keeper: JoinHandle<()>,
}

impl Kept {
    pub(crate) fn of(server: &TestRedis, call_time: Duration) -> Self {
        Self::with_password(server, call_time, TestRedis::PASSWORD)
    }

    fn with_password(server: &TestRedis, call_time: Duration, password: &str) -> Self {
        let config = RedisConfig {
            address: server.address(),
            password: Some(password.to_owned().into()),
            call_time,
            connect_time: Duration::from_millis(500),
        };
        let (redis, health) = (Redis::new(&config).expect("an address"), Health::default());
        let component = health.component("redis");
        let keeper = tokio::spawn(redis.clone().keep_connected(component, CancellationToken::new()));
        Self { redis, health, keeper }
    }

    pub(crate) async fn is_connected(&self) {
        eventually("it is connected", || async { self.detail().is_empty() }).await;
    }

    fn detail(&self) -> String {
        self.health.components()["redis"].detail.clone()
    }

    async fn ping(&self) -> Result<(), Away> {
        self.redis.call(ping).await
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// A Redis that is killed is away at once, which is reported, and is used again when it is back.
#[tokio::test]
async fn a_killed_redis_is_away_until_it_is_back() {
    let mut server = TestRedis::start();
    let kept = Kept::of(&server, PATIENT);
    kept.is_connected().await;
    assert_eq!(kept.ping().await, Ok(()));
    assert!(!kept.health.is_degraded());

    server.kill();
    eventually("it is noticed without a call", || async { !kept.detail().is_empty() }).await;
    assert_eq!(kept.ping().await, Err(Away));
    assert!(kept.health.is_degraded() && kept.health.is_ready(), "the gateway serves without it");

    server.start_again();
    kept.is_connected().await;
    assert_eq!(kept.ping().await, Ok(()));
}

/// A Redis that is paused costs the calls that are in progress their time, and later ones nothing.
#[tokio::test]
async fn a_paused_redis_costs_nobody_but_the_first() {
    let server = TestRedis::start();
    // The bound is for the test only: a call that waited for the connection would take longer than the test does.
    let kept = Kept::of(&server, Duration::from_millis(500));
    kept.is_connected().await;
    server.pause();
    assert_eq!(kept.ping().await, Err(Away));
    for _ in 0..10_000 {
        assert_eq!(kept.ping().await, Err(Away));
    }
    assert!(kept.redis.0.state.borrow().why_away().is_some());
    eventually("it is reported", || async { kept.detail().contains("within") }).await;

    server.resume();
    kept.is_connected().await;
    eventually("it answers", || async { kept.ping().await.is_ok() }).await;
}

/// No more calls wait for a Redis that stalls than may be in progress; the others do without at once.
#[tokio::test]
async fn calls_in_progress_are_bounded() {
    let server = TestRedis::start();
    let kept = Kept::of(&server, PATIENT);
    kept.is_connected().await;
    server.pause();
    let calls: Vec<_> = (0..CALLS_MAX)
        .map(|_| {
            let redis = kept.redis.clone();
            tokio::spawn(async move { redis.call(ping).await })
        })
        .collect();
    // The keeper's own call takes a place too, if it comes before one of them.
    eventually("all wait", || async { kept.redis.0.calls.available_permits() == 0 }).await;
    assert_eq!(kept.ping().await, Err(Away));
    server.resume();
    let mut answered = 0;
    for call in calls {
        answered += usize::from(call.await.expect("no panic").is_ok());
    }
    assert!(answered >= CALLS_MAX - 1, "{answered} were answered");
}

/// A refusal, as of a wrong password, is reported in its own words, and nobody waits.
#[tokio::test]
async fn a_refusal_is_reported() {
    let server = TestRedis::start();
    let kept = Kept::with_password(&server, PATIENT, "wrong");
    eventually("it is reported", || async { kept.detail().to_lowercase().contains("password") }).await;
    assert_eq!(kept.ping().await, Err(Away));
    assert!(!kept.detail().contains("wrong"), "{}", kept.detail());
}

/// What is no address is refused before anything is started.
#[test]
fn an_address_is_checked_at_the_start() {
    let config = |address: &str| RedisConfig {
        address: address.to_owned(),
        password: None,
        call_time: PATIENT,
        connect_time: PATIENT,
    };
    assert!(Redis::new(&config("127.0.0.1:6379")).is_ok());
    assert!(Redis::new(&config("[::1]:6379")).is_ok());
    for wrong in ["", "127.0.0.1:x", "127.0.0.1:6379/x"] {
        assert!(Redis::new(&config(wrong)).is_err(), "{wrong}");
    }
}
