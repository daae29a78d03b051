//! Faults of the network between components: work that is not concerned goes on, calls end within their deadline, and once the
//! network is healed everything continues on its own.

use std::{
    fmt::Debug,
    sync::OnceLock,
    time::{Duration, Instant},
};

use holdfast_chaos::{
    fault::{
        links::Links,
        network::{Condition, Direction},
    },
    rest::{Answer, Session, is_terminal, sample_order},
};
use holdfast_e2e::{PATIENCE, World, eventually, id};
use holdfast_testkit::stack::TestStack;
use uuid::Uuid;

/// The gateway's own deadline, three times, for a loaded machine.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(9);
/// A fault that is survived keeps nobody waiting for longer; the keepalive of calls takes 4 s of it, and a loaded machine its time.
const SURVIVED_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// Looks during a fault: more than the failures that open a breaker.
const LOOKS_MIN: u32 = 8;

/// A fault, how long it lasts at least, and whether everything works again while it lasts.
struct Case {
    links: &'static str,
    condition: Condition,
    lasts: Duration,
    is_survived: bool,
}

const CASES: [Case; 8] = [
    case("gateway->order", Condition::BlackHole, false),
    // Longer than a session: the member is expelled from its group, and events wait to be published.
    Case {
        lasts: Duration::from_secs(12),
        ..case("order->kafka", Condition::OneWay(Direction::ToServer), true)
    },
    case("payment->payments-db", Condition::Reset, false),
    case(
        "*->kafka",
        Condition::Latency { delay: Duration::from_millis(50), jitter: Duration::from_millis(10) },
        true,
    ),
    // A silent connection is found by its keepalive and replaced; so are those of a pool, when they are tested or time out.
    case("gateway->payment", Condition::HalfOpen, true),
    case("*->*-db", Condition::HalfOpen, true),
    // Now and then a handshake fails, and so may every attempt of a call.
    case("gateway->delivery", Condition::Corrupt, false),
    case("*", Condition::Reset, false),
];

const fn case(links: &'static str, condition: Condition, is_survived: bool) -> Case {
    Case { links, condition, lasts: Duration::from_secs(1), is_survived }
}

/// A user whose first order was delivered before any fault, and the keys of those that they have sent since.
struct Shopper<'a> {
    world: &'a World,
    user: Session,
    first: String,
    keys: Vec<String>,
}

impl Shopper<'_> {
    /// Orders something, and looks after the payment and the delivery of the first order. Returns whether all of it worked; what
    /// did not has failed within its time, and in a way that a client can act on.
    async fn look_around(&mut self) -> bool {
        let key = Uuid::now_v7().to_string();
        self.keys.push(key.clone());
        let mut all_worked = try_order(&self.user, &key).await.is_some();
        for part in ["payment", "delivery"] {
            let path = format!("/api/orders/{}/{part}", self.first);
            all_worked &= answered_well(&path, self.user.get(&path)).await.is_some();
        }
        all_worked
    }

    /// Every order that was sent is delivered, those that were refused by being sent again.
    async fn all_is_delivered(&mut self, what: &str) {
        let mut orders = Vec::new();
        for key in self.keys.drain(..) {
            orders.push(accepted(&self.user, &key, what).await);
        }
        for order in &orders {
            eventually(&format!("{what}: delivered"), || async {
                self.user.order(order).await.is_ok_and(|order| is_terminal(&order))
            })
            .await;
        }
        for service in ["order", "payment", "delivery", "gateway"] {
            eventually(&format!("{what}: {service} is well"), || async { self.world.is_well(service).await })
                .await;
        }
    }
}

/// Sends an order until it is accepted.
async fn accepted(user: &Session, key: &str, what: &str) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(order) = try_order(user, key).await {
            return order;
        }
        assert!(Instant::now() < until, "{what}: an order is never accepted");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn try_order(user: &Session, key: &str) -> Option<String> {
    let order = sample_order("1 Network Street", 1);
    let answer = answered_well("POST /api/orders", user.create_order(&order, Some(key))).await;
    answer.map(|answer| id(&answer.json()))
}

/// The answer, if it is a success; else a failure that the contract allows while a part is away.
async fn answered_well(what: &str, call: impl Future<Output = Result<Answer, impl Debug>>) -> Option<Answer> {
    let begin = Instant::now();
    let answer = call.await.expect("the gateway itself is well");
    assert!(begin.elapsed() < ANSWER_TIME_MAX, "{what} was answered after {:?}", begin.elapsed());
    if answer.status.is_success() {
        return Some(answer);
    }
    // 409: the same key is still being worked on.
    assert!([409, 503, 504].contains(&answer.status.as_u16()), "{what}: {answer:?}");
    assert!(answer.status != 503 || answer.headers.contains_key("retry-after"), "{what}: {answer:?}");
    None
}

/// One fault: it lands, it is healed, and what was ordered during it and after it is delivered.
async fn is_survived(case: &Case, links: &Links, shopper: &mut Shopper<'_>) {
    let what = format!("{} {:?}", case.links, case.condition);
    let before = links.counters(case.links).expect("there are such links");
    links.set(case.links, case.condition).expect("there are such links");
    let begin = Instant::now();
    let (mut looks, mut first_worked) = (0, None);
    let evidence = loop {
        looks += 1;
        if shopper.look_around().await {
            first_worked.get_or_insert(begin.elapsed());
        }
        let seen = links.counters(case.links).expect("as before").since(&before);
        let works = first_worked.is_some() || !case.is_survived;
        let enough = looks >= LOOKS_MIN && begin.elapsed() >= case.lasts && works;
        if let Some(evidence) = case.condition.evidence(&seen).filter(|_| enough) {
            break evidence;
        }
        assert!(works || begin.elapsed() < SURVIVED_WITHIN, "{what}: nothing works, {seen:?}");
        assert!(begin.elapsed() < PATIENCE, "{what}: it does not land, {seen:?}");
        tokio::time::sleep(PAUSE).await;
    };
    let lasted = begin.elapsed();
    links.clear();
    let healed = Instant::now();
    shopper.look_around().await;
    shopper.all_is_delivered(&what).await;
    eprintln!(
        "{what}: {evidence} in {lasted:.1?}; works first after {first_worked:.1?}; well {:.1?} after it was healed",
        healed.elapsed()
    );
}

/// Whatever happens between two components, nothing is lost, nobody waits longer than the deadline, and all is well by itself
/// afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_network_are_survived() {
    static STACK: OnceLock<TestStack> = OnceLock::new();
    let stack =
        STACK.get_or_init(|| TestStack::start_with_links(&[], &[("HOLDFAST__DELIVERY__STEP", "50ms")]));
    let (world, links) = World::linked(stack).await;
    let user = world.user("network", "100.00").await;
    let first = id(&world.create(&user, "1 Network Street", 1).await);
    let mut shopper = Shopper { world: &world, user: user.clone(), first: first.clone(), keys: Vec::new() };
    eventually("delivered", || async { user.order(&first).await.is_ok_and(|order| is_terminal(&order)) })
        .await;
    assert!(shopper.look_around().await, "all works before any fault");
    shopper.all_is_delivered("before any fault").await;
    for (pattern, what) in [("gateway->*", "calls"), ("*->*-db", "statements"), ("*->kafka", "events")] {
        let counters = links.counters(pattern).expect("there are such links");
        assert!(counters.bytes_to_server > 0 && counters.bytes_to_client > 0, "{what} take the links");
    }
    for case in &CASES {
        is_survived(case, &links, &mut shopper).await;
    }
    world.invariants_hold().await;
    for service in ["order", "payment", "delivery"] {
        let letters = world.count(service, "select count(*) from dead_letters where subject <> $1", "").await;
        assert_eq!(letters, 0, "no fault of the network is a dead letter, in {service}");
    }
}
