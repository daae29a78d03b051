//! Live status: what clients that follow orders see while orders change, parts die, and streams end.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use holdfast_certs::Claims;
use holdfast_chaos::{
    events::EventStream,
    fault::Fault,
    load::{Plan, open_loop},
    process::{self, Process},
    rest::{Session, is_terminal, sample_order},
};
use holdfast_e2e::{PATIENCE, World, eventually, id};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{timeout, timeout_at},
};
use uuid::Uuid;

/// Tests that kill parts of the shared stack, or need it undisturbed.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn version(order: &Value) -> i64 {
    order["version"].as_i64().expect("a version")
}

/// Reads events about orders until one is as it should be.
async fn read_until(stream: &mut EventStream, done: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut seen = Vec::new();
    let read = async {
        while let Some(order) = stream.next_order().await.expect("not cut off") {
            seen.push(order);
            if done(seen.last().expect("one")) {
                return;
            }
        }
        panic!("the stream has ended: {seen:?}");
    };
    timeout(PATIENCE, read).await.expect("in time");
    seen
}

/// Reads a stream to its end.
async fn read_to_end(mut stream: EventStream) -> Vec<Value> {
    let seen = read_until(&mut stream, is_terminal).await;
    let rest = timeout(PATIENCE, stream.next()).await.expect("closed").expect("in order");
    assert_eq!(rest, None, "nothing follows the end");
    // An order's own stream has its version as id.
    assert_eq!(stream.last_id, seen.last().map(|order| version(order).to_string()));
    assert_versions_rise(&seen);
    seen
}

/// No order goes back, and no state comes twice.
fn assert_versions_rise(seen: &[Value]) {
    let mut versions = HashMap::new();
    for order in seen {
        if let Some(before) = versions.insert(id(order), version(order)) {
            assert!(before < version(order), "{before} and then {order}");
        }
    }
}

async fn resume(user: &Session, world: &World, order: Option<&str>, last_id: &str) -> EventStream {
    let path = order.map_or("/api/orders/events".to_owned(), |id| format!("/api/orders/{id}/events"));
    world.rest.events(&path, &user.token, Some(last_id)).await.expect("answered")
}

/// The current state comes first, then each change, and the stream ends with the order. It can be resumed anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_followed_to_its_end() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::patient();
    let user = world.user("live", "100.00").await;
    let order = id(&world.create(&user, "1 Quay Street", 100).await);
    let stream = user.watch(Some(&order)).await.expect("opened");
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    assert_eq!(stream.headers["cache-control"], "no-cache");
    let seen = read_to_end(stream).await;
    let last = seen.last().expect("events");
    assert_eq!(last, &user.order(&order).await.expect("answered"), "the event is the order");
    assert_eq!(last["delivery_status"], "DELIVERED");

    // A client that knows less than everything gets what is now; one that knows the end is told not to come back.
    let end = version(last);
    for known in ["1", &(end - 1).to_string(), "0", "-1", "x", "99"] {
        let mut stream = resume(&user, &world, Some(&order), known).await;
        assert_eq!(read_until(&mut stream, is_terminal).await.len(), 1, "{known}");
    }
    assert_eq!(resume(&user, &world, Some(&order), &end.to_string()).await.status, 204);
}

/// Who may not read an order may not follow it, and can't tell whether it exists.
#[tokio::test(flavor = "multi_thread")]
async fn only_ones_own_orders_are_followed() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::patient();
    let user = world.user("live-owner", "100.00").await;
    let other = world.user("live-other", "100.00").await;
    let order = id(&world.create(&user, "1 Quay Street", 100).await);
    let foreign = other.get(&format!("/api/orders/{order}/events")).await.expect("answered");
    let unknown =
        other.get("/api/orders/01890000-0000-7000-8000-000000000000/events").await.expect("answered");
    for answer in [&foreign, &unknown] {
        assert_eq!(answer.status, 404);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    assert_eq!(foreign.json()["detail"], unknown.json()["detail"]);
    for path in ["/api/orders/events".to_owned(), format!("/api/orders/{order}/events")] {
        let no_token = world.rest.events(&path, "none", None).await.expect("answered");
        assert_eq!(no_token.status, 401);
        let scope = world.rest.token(&user.user, "orders:write").expect("a token");
        let no_scope = world.rest.events(&path, &scope, None).await.expect("answered");
        assert_eq!(no_scope.status, 403);
    }
    // Nothing of the other's order arrives here, although changes of it are under way.
    let mut quiet = other.watch(None).await.expect("opened");
    let end = read_to_end(user.watch(Some(&order)).await.expect("opened")).await;
    assert!(is_terminal(end.last().expect("an event")));
    let nothing = timeout(Duration::from_millis(200), quiet.next_order()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

/// The stream of all orders begins with what can still change, follows orders that are made later, and resumes without
/// repeating or losing anything.
#[tokio::test(flavor = "multi_thread")]
async fn all_orders_of_a_user_are_followed() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::patient();
    let user = world.user("live-all", "1000.00").await;
    let mut orders = vec![id(&world.create(&user, "1 Quay Street", 100).await)];
    let mut stream = user.watch(None).await.expect("opened");
    let mut seen = vec![stream.next_order().await.expect("read").expect("the order that is there")];
    assert_eq!(id(&seen[0]), orders[0]);
    for _ in 0..3 {
        orders.push(id(&world.create(&user, "1 Quay Street", 100).await));
    }
    // Away at any moment, while more orders are made.
    for _ in 0..8 {
        let next = timeout(PATIENCE, stream.next_order()).await.expect("in time");
        seen.push(next.expect("not cut off").expect("not ended"));
    }
    let last_id = stream.last_id.clone().expect("an id");
    drop(stream);
    orders.push(id(&world.create(&user, "1 Quay Street", 100).await));
    eventually("the order ends meanwhile", || async {
        is_terminal(&user.order(orders.last().expect("one")).await.expect("answered"))
    })
    .await;
    let mut stream = resume(&user, &world, None, &last_id).await;
    orders.push(id(&world.create(&user, "1 Quay Street", 100).await));

    let ended = loop {
        let ended: BTreeMap<String, &Value> =
            seen.iter().filter(|order| is_terminal(order)).map(|order| (id(order), order)).collect();
        if ended.len() == orders.len() {
            break ended.into_iter().map(|(id, order)| (id, order.clone())).collect::<BTreeMap<_, _>>();
        }
        let next = timeout(PATIENCE, stream.next_order()).await.expect("in time");
        seen.push(next.expect("not cut off").expect("not ended"));
    };
    assert_versions_rise(&seen);
    for order in &orders {
        assert_eq!(ended[order], user.order(order).await.expect("answered"));
    }

    // A new client gets nothing of what has ended, only where it is.
    let mut fresh = user.watch(None).await.expect("opened");
    let block = fresh.next().await.expect("read").expect("not ended");
    assert!(block.is_comment && block.order().is_none(), "{block:?}");
    assert_eq!(block.id, stream.last_id);
}

/// Follows new orders of new users, and returns what each stream saw when all have ended.
async fn follow_orders(world: &World, count: usize) -> JoinSet<Vec<Value>> {
    let mut streams = JoinSet::new();
    for number in 0..count {
        let user = world.user(&format!("live-{number}"), "100.00").await;
        let order = id(&world.create(&user, "1 Quay Street", 100).await);
        let stream = user.watch(Some(&order)).await.expect("opened");
        streams.spawn(read_to_end(stream));
    }
    streams
}

/// Order is killed with -9 in the middle: streams stay open, readiness says what is wrong, and they catch up afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_order_service_is_caught_up_with() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::patient();
    eventually("all is well", || world.is_well("gateway")).await;
    let looks = || world.metric("gateway", "holdfast_event_stream_looks_total", &["\"feed\""]);
    let before = looks().await;
    let streams = follow_orders(&world, 20).await;
    let pid = world.stack.pid("order");
    world.kill("order");
    eventually("readiness says so, and stays ready", || async {
        let (status, body) = world.readyz("gateway").await;
        status == 200 && body["components"]["order-changes"]["ready"] == false
    })
    .await;
    eventually("order is back", || async { world.stack.pid("order").is_some_and(|now| Some(now) != pid) })
        .await;
    for seen in streams.join_all().await {
        assert_eq!(seen.last().expect("events")["delivery_status"], "DELIVERED");
    }
    assert!(looks().await > before, "what may have been missed was read");
    eventually("all is well again", || world.is_well("gateway")).await;
}

/// Changes reach a client whichever replica commits them, also when one of them dies.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_every_replica_arrive() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::with_two_order_replicas(&[]);
    let world = World { rest: world.rest.patient(PATIENCE), ..world };
    eventually("both are followed", || world.is_well("gateway")).await;
    let records = async |component: &str| {
        world.metric(component, "messaging_client_consumed_messages_total", &["\"applied\""]).await
    };
    let before = (records("order").await, records("order-2").await);
    let pushed = || world.metric("gateway", "holdfast_event_stream_delay_seconds_count", &[]);
    let pushed_before = pushed().await;
    follow_orders(&world, 30).await.join_all().await;
    let after = (records("order").await, records("order-2").await);
    assert!(after.0 > before.0 && after.1 > before.1, "both have committed changes: {before:?}, {after:?}");
    assert!(pushed().await - pushed_before > 30.0, "they were pushed, not read");

    let streams = follow_orders(&world, 10).await;
    world.restart("order-2").await;
    streams.join_all().await;
}

/// A gateway that stops tells its clients when to come back, and ends their streams at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_gateway_says_when_to_come_back() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::patient();
    let user = world.user("live-stop", "100.00").await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = user.watch(None).await.expect("opened");
        assert!(stream.next().await.expect("read").expect("open").is_comment);
        streams.push(stream);
    }
    let pid = world.stack.pid("gateway");
    world.apply(Fault::Terminate, "gateway");
    let end = async {
        for stream in &mut streams {
            let block = stream.next().await.expect("not cut off").expect("a last word");
            assert!(block.retry_ms.is_some_and(|retry| (500..=2_500).contains(&retry)), "{block:?}");
            assert_eq!(stream.next().await.expect("not cut off"), None);
        }
    };
    // One that is not told is cut off when the time to stop is over.
    timeout(PATIENCE, end).await.expect("told");
    eventually("the gateway is back", || async {
        world.stack.pid("gateway") != pid && world.readyz("gateway").await.0 == 200
    })
    .await;
}

/// A stream does not outlive its token.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::patient();
    let user = world.user("live-token", "100.00").await;
    let claims = Claims::new(&user.user, "orders:read", Duration::from_secs(10)).expect("claims");
    let token = World::issuer(world.stack).sign(&claims).expect("signed");
    let mut stream = world.rest.events("/api/orders/events", &token, None).await.expect("answered");
    assert_eq!(stream.status, 200);
    let begin = tokio::time::Instant::now();
    let end = async { while stream.next().await.expect("not cut off").is_some() {} };
    timeout(PATIENCE, end).await.expect("ended");
    assert!(begin.elapsed() > Duration::from_secs(1), "{:?}", begin.elapsed());
}

/// A user has so many streams and no more; one that ends makes room.
#[tokio::test(flavor = "multi_thread")]
async fn the_streams_of_a_user_are_bounded() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::patient();
    let user = world.user("live-many", "100.00").await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(user.watch(None).await.expect("opened"));
    }
    let refused = user.get("/api/orders/events").await.expect("answered");
    assert_eq!(refused.status, 429);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(refused.json()["type"], "https://holdfast.internal/problems/too-many-streams");
    streams.pop();
    eventually("there is room again", || async { user.watch(None).await.is_ok() }).await;
}

/// What one stream of the measurement saw.
struct Seen {
    orders: Vec<Value>,
    /// From the decision of each change, which is before its commit, to its arrival here.
    delays: Vec<Duration>,
}

/// Reads a stream until this many orders have ended.
async fn measure(mut stream: EventStream, orders: usize) -> Seen {
    let mut seen = Seen { orders: Vec::new(), delays: Vec::new() };
    let (mut ended, until) = (0, tokio::time::Instant::now() + PATIENCE * 8);
    while ended < orders {
        let order = timeout_at(until, stream.next_order()).await.expect("in time");
        let order = order.expect("not cut off").expect("not ended");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let updated = OffsetDateTime::parse(order["updated_at"].as_str().expect("a time"), &Rfc3339);
        let updated = updated.expect("RFC 3339").unix_timestamp_nanos();
        seen.delays
            .push(now.saturating_sub(Duration::from_nanos(u64::try_from(updated).expect("after 1970"))));
        ended += usize::from(is_terminal(&order));
        seen.orders.push(order);
    }
    seen
}

/// Memory of the gateway in bytes.
fn gateway_memory(world: &World) -> u64 {
    let pid = world.stack.pid("gateway").expect("it runs");
    let gateway = Process { name: "gateway".to_owned(), is_service: true, pid };
    process::usage(&[gateway]).expect("it runs")["gateway"].memory_bytes
}

/// How often streams of the gateway have read for themselves, because of a feed, a gap, and a slow client.
async fn looks_by_reason(world: &World) -> [f64; 3] {
    let mut looks = [0.0; 3];
    for (looks, reason) in looks.iter_mut().zip(["\"feed\"", "\"gap\"", "\"slow\""]) {
        *looks = world.metric("gateway", "holdfast_event_stream_looks_total", &[reason]).await;
    }
    looks
}

/// Creates an order, however busy the machine is.
async fn create_surely(user: &Session) {
    let key = Uuid::now_v7().to_string();
    loop {
        let answer = user.create_order(&sample_order("1 Quay Street", 100), Some(&key)).await;
        if answer.is_ok_and(|answer| answer.status == 201) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Opens a stream of all orders, however busy the machine is.
async fn watch_surely(user: &Session) -> EventStream {
    loop {
        match user.watch(None).await {
            Ok(stream) => return stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

const STREAMS_PER_USER: usize = 10;
const ORDERS_PER_USER: usize = 3;

/// Many streams at once, ten for each user: each gets every change of its user's orders exactly once and in order.
/// `HOLDFAST_TEST_STREAMS=1000` and `--nocapture` measure it; that many need
/// `HOLDFAST__GATEWAY__SOCKETS__CONNECTIONS_PER_ADDRESS_MAX=2048` too, as all come from one address.
#[tokio::test(flavor = "multi_thread")]
async fn many_streams_get_every_change() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let count = std::env::var("HOLDFAST_TEST_STREAMS").map_or(100, |text| text.parse().expect("a number"));
    let world = World::patient();
    eventually("all is well", || world.is_well("gateway")).await;
    let mut users = Vec::new();
    for number in 0..count / STREAMS_PER_USER {
        users.push(world.user(&format!("live-many-{number}"), "100.00").await);
    }
    let before = gateway_memory(&world);
    let mut streams: Vec<JoinSet<Seen>> = Vec::new();
    for user in &users {
        let mut of_user = JoinSet::new();
        for _ in 0..STREAMS_PER_USER {
            let mut stream = watch_surely(user).await;
            assert!(stream.next().await.expect("read").expect("open").is_comment, "there is no order yet");
            of_user.spawn(measure(stream, ORDERS_PER_USER));
        }
        streams.push(of_user);
    }
    let open = world.metric("gateway", "holdfast_event_streams_open", &[]).await;
    let per_stream = gateway_memory(&world).saturating_sub(before) / count as u64;
    let looks = || looks_by_reason(&world);
    let looks_before = looks().await;

    let begin = tokio::time::Instant::now();
    let plan = Plan { rate: 20.0, requests: (users.len() * ORDERS_PER_USER) as u64, clients: 8 };
    let created = open_loop(plan, {
        let users = users.clone();
        move |number, _| {
            let user = users[usize::try_from(number).expect("small") % users.len()].clone();
            async move { create_surely(&user).await }
        }
    });
    created.await;
    let (mut delays, mut events) = (Vec::new(), 0);
    for of_user in streams {
        let mut sequences = HashSet::new();
        for seen in of_user.join_all().await {
            assert_versions_rise(&seen.orders);
            sequences.insert(seen.orders.iter().map(|order| (id(order), version(order))).collect::<Vec<_>>());
            events += seen.orders.len();
            delays.extend(seen.delays);
        }
        // Every stream of a user sees the same, if it was pushed: each commit once.
        let looked = looks().await.iter().sum::<f64>() > looks_before.iter().sum::<f64>();
        assert!(sequences.len() == 1 || looked, "{sequences:?}");
    }
    delays.sort_unstable();
    let percentile = |percent: usize| delays[(delays.len() - 1) * percent / 100];
    println!(
        "{open} streams, {events} events in {:?}, looks {looks_before:?} to {:?}: from decision to client p50 {:?}, p99 {:?}, max {:?}; {} KiB a stream",
        begin.elapsed(),
        looks().await,
        percentile(50),
        percentile(99),
        percentile(100),
        per_stream / 1024,
    );
}
