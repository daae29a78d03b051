//! What the gateway knows of orders, seen by a client: entity tags, no order that goes back, the last known state while order
//! is away, pages that are bounded in bytes, and how long an idempotency key is known.

use holdfast_chaos::{
    fault::Fault,
    rest::{Answer, Rest, Session, is_terminal, sample_order},
};
use holdfast_e2e::{PATIENCE, World, eventually, id};
use holdfast_native::layout::{Gateway, Scope};
use holdfast_testkit::stack::TestStack;
use http::Method;
use serde_json::{Value, json};
use sqlx::Row as _;
use tokio::{sync::Mutex, time::timeout};

/// Tests that take order away from the shared stack, or need it undisturbed.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).map(|value| value.to_str().expect("text"))
}

fn version(order: &Value) -> i64 {
    order["version"].as_i64().expect("a version")
}

async fn get(world: &World, user: &Session, order: &str, if_none_match: &str) -> Answer {
    let path = format!("/api/orders/{order}");
    let headers = [("if-none-match", if_none_match)];
    world.rest.call(Method::GET, &path, &user.token, &headers, None).await.expect("answered")
}

/// Follows an order to its end and returns it.
async fn end_of(user: &Session, order: &str) -> Value {
    let mut stream = user.watch(Some(order)).await.expect("opened");
    let read = async {
        loop {
            let order = stream.next_order().await.expect("not cut off").expect("not ended");
            if is_terminal(&order) {
                return order;
            }
        }
    };
    timeout(PATIENCE, read).await.expect("in time")
}

/// A client that has the state gets 304 and no body; one whose state is older, or who names something else, gets the order.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_the_state_gets_304() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::patient();
    let user = world.user("tags", "100.00").await;
    let order = id(&world.create(&user, "1 Quay Street", 100).await);
    let end = end_of(&user, &order).await;
    let tag = format!("\"{}\"", version(&end));
    for same in [tag.clone(), format!("W/{tag}"), format!("\"1\", {tag}"), "*".to_owned()] {
        let answer = get(&world, &user, &order, &same).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (304, 0), "{same}");
        assert_eq!(header(&answer, "etag"), Some(tag.as_str()));
    }
    for other in ["\"1\"", "7", "\"999999\""] {
        let answer = get(&world, &user, &order, other).await;
        assert_eq!((answer.status.as_u16(), &answer.json()), (200, &end), "{other}");
        assert_eq!(header(&answer, "etag"), Some(tag.as_str()));
    }
    // Whoever may not see it learns nothing by guessing its tag, also after it was read.
    let stranger = world.user("tags-stranger", "1.00").await;
    for guess in [tag.as_str(), "*"] {
        assert_eq!(get(&world, &stranger, &order, guess).await.status, 404);
    }
}

/// An order that can't change any more is not read again; its owner gets it, and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_order_is_not_read_again() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::patient();
    let user = world.user("known", "100.00").await;
    let order = id(&world.create(&user, "1 Quay Street", 100).await);
    let end = end_of(&user, &order).await;
    assert_eq!(user.order(&order).await.expect("answered"), end);
    let calls = || async { world.metric("order", "rpc_server_call_duration_seconds_count", &[]).await };
    let known = || async {
        world.metric("gateway", "holdfast_order_cache_reads_total", &["outcome=\"known\""]).await
    };
    let before = known().await;
    for _ in 0..20 {
        assert_eq!(user.order(&order).await.expect("answered"), end);
    }
    assert!(known().await >= before + 20.0);
    let stranger = world.user("known-stranger", "1.00").await;
    let calls_before = calls().await;
    assert_eq!(stranger.get(&format!("/api/orders/{order}")).await.expect("answered").status, 404);
    assert!(calls().await > calls_before, "whose it is decides order, not the cache");
}

/// A client that reads, lists and follows an order at the same time never sees it go back.
#[tokio::test(flavor = "multi_thread")]
async fn no_order_goes_back() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::patient();
    for round in 0..10 {
        let user = world.user("forward", "100.00").await;
        let order = id(&world.create(&user, "1 Quay Street", 100).await);
        let mut stream = user.watch(Some(&order)).await.expect("opened");
        let mut newest = 0;
        loop {
            let pushed = timeout(PATIENCE, stream.next_order()).await.expect("in time");
            let Some(pushed) = pushed.expect("not cut off") else { break };
            let mut seen = vec![("stream", version(&pushed))];
            let listed = user.get("/api/orders").await.expect("answered").json();
            seen.push(("list", version(&listed["orders"][0])));
            seen.push(("read", version(&user.order(&order).await.expect("answered"))));
            seen.push(("read", version(&user.order(&order).await.expect("answered"))));
            // The stream tells every state, so it may be behind what was read; what is read after it may not.
            for (how, version) in seen.into_iter().skip(1) {
                assert!(version >= newest, "round {round}: {how} shows {version} after {newest}");
                newest = newest.max(version);
            }
        }
        assert!(newest > 1, "{newest}");
    }
}

/// A client whose requests go to two gateways in turn never sees an order go back: without Redis because neither keeps what can
/// change, with Redis because they share it.
#[tokio::test(flavor = "multi_thread")]
async fn no_order_goes_back_between_gateways() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for with_redis in [false, true] {
        let start = move || {
            let environment = [("HOLDFAST__DELIVERY__STEP", "100ms")];
            if with_redis {
                TestStack::start_with_redis(&["gateway=2"], &environment)
            } else {
                TestStack::start(Scope::Everything, &["gateway=2"], &environment)
            }
        };
        let stack: &TestStack =
            Box::leak(Box::new(tokio::task::spawn_blocking(start).await.expect("it starts")));
        let urls = [0, 1]
            .map(|number| format!("http://127.0.0.1:{}", stack.layout.gateway_port(Gateway { number })));
        let rest = Rest::of_all(urls.to_vec(), World::issuer(stack), 64).patient(PATIENCE);
        let world = World { stack, rest };
        for round in 0..5 {
            watched_to_its_end(&world, &format!("with Redis: {with_redis}, round {round}")).await;
        }
        for gateway in ["gateway", "gateway-2"] {
            let settings =
                std::fs::read_to_string(stack.layout.data_dir.join(format!("config/{gateway}.toml")));
            assert_eq!(settings.expect("written").contains("unfinished_time = \"0s\""), !with_redis);
        }
        let shared = async || {
            let of =
                |gateway| world.metric(gateway, "holdfast_order_cache_reads_total", &["outcome=\"shared\""]);
            of("gateway").await + of("gateway-2").await
        };
        if !with_redis {
            assert!(shared().await < 0.5, "there is nothing to take a state from");
            continue;
        }
        // A late answer of Redis is not waited for, so one order is not enough on a slow machine.
        eventually("a state is taken from the other gateway", || async {
            watched_to_its_end(&world, "with Redis, until a state is shared").await;
            shared().await > 0.5
        })
        .await;
    }
}

/// Creates an order and reads it at all gateways in turn until it has ended and each of them has shown that: it never goes back.
async fn watched_to_its_end(world: &World, when: &str) {
    let user = world.user("between", "100.00").await;
    let id = id(&world.create(&user, "1 Quay Street", 100).await);
    let (mut newest, mut ended) = (0, 0);
    let read = async {
        while ended < 2 {
            // An odd number of requests, so that neither kind always meets the same gateway.
            let reads = [user.order(&id).await.expect("answered"), user.order(&id).await.expect("answered")];
            let listed = user.get("/api/orders").await.expect("answered").json();
            for (how, order) in
                [("read", &reads[0]), ("read again", &reads[1]), ("list", &listed["orders"][0])]
            {
                let version = version(order);
                assert!(version >= newest, "{when}: {how} shows {version} after {newest}");
                newest = version;
            }
            ended += usize::from(is_terminal(&reads[0]));
        }
    };
    timeout(PATIENCE, read).await.expect("in time");
}

/// While order is away, who asks for an order that this gateway knows gets its last known state, and is told so. Other orders,
/// and everybody else's, are 503. When order is back, so is the present.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_known_state_is_shown_while_order_is_away() {
    let _alone = ONE_AT_A_TIME.lock().await;
    // Deliveries take their time, so that the order is not finished.
    let stack = tokio::task::spawn_blocking(|| {
        TestStack::start(Scope::Everything, &[], &[("HOLDFAST__DELIVERY__STEP", "1h")])
    });
    let world = World::of(Box::leak(Box::new(stack.await.expect("it starts"))));
    let (user, stranger) = (world.user("away", "100.00").await, world.user("away-stranger", "1.00").await);
    let [known, unknown] = [
        id(&world.create(&user, "1 Quay Street", 100).await),
        id(&world.create(&user, "2 Quay Street", 100).await),
    ];
    let paid = || async {
        let order = user.order(&known).await.expect("answered");
        (order["delivery_status"] == "PENDING").then_some(order)
    };
    eventually("it is paid and its delivery waits", || async { paid().await.is_some() }).await;
    let last = paid().await.expect("it was");

    // Stopped, so that the supervisor does not start it again.
    world.apply(Fault::Stall, "order");
    let path = format!("/api/orders/{known}");
    eventually("the last known state is shown", || async {
        let answer = user.get(&path).await.expect("answered");
        header(&answer, "holdfast-stale") == Some("true")
    })
    .await;
    let answer = user.get(&path).await.expect("answered");
    assert_eq!((answer.status.as_u16(), &answer.json()), (200, &last));
    let age: u64 = header(&answer, "age").expect("an age").parse().expect("seconds");
    assert!((1..300).contains(&age), "{age}");
    let tag = format!("\"{}\"", version(&last));
    assert_eq!(get(&world, &user, &known, &tag).await.status, 304);
    // A newer one that the client claims to have is not answered by an older one.
    let newer = format!("\"{}\"", version(&last) + 1);
    assert_eq!(get(&world, &user, &known, &newer).await.status, 503);
    for (session, order) in [(&user, &unknown), (&stranger, &known)] {
        let answer = session.get(&format!("/api/orders/{order}")).await.expect("answered");
        assert!([503, 504].contains(&answer.status.as_u16()), "{}", answer.status);
        assert_eq!(header(&answer, "holdfast-stale"), None);
    }
    // A payment belongs to whoever the order belongs to, which never changes.
    assert_eq!(user.get(&format!("{path}/payment")).await.expect("answered").status, 200);
    assert!(world.metric("gateway", "holdfast_order_cache_reads_total", &["outcome=\"stale\""]).await >= 1.0);

    world.heal(Fault::Stall, "order");
    eventually("order answers again", || async {
        let answer = user.get(&path).await.expect("answered");
        answer.status == 200 && header(&answer, "holdfast-stale").is_none()
    })
    .await;
    assert_eq!(user.order(&unknown).await.expect("answered")["order_id"], unknown.as_str());
}

/// However long orders are, a page is bounded; following the cursor finds each order once.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_bounded_in_bytes() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::patient();
    let user = world.user("long", "1.00").await;
    let item = json!({"product_id": "x".repeat(64), "quantity": 10_000, "price": 1_000_000.00});
    let long = json!({"delivery_address": "é".repeat(500), "items": vec![item; 100]});
    let mut created = Vec::new();
    for nth in 0..30 {
        let order = if nth % 3 == 0 { sample_order("1 Quay Street", 100) } else { long.clone() };
        let answer = user.create_order(&order, None).await.expect("answered");
        assert_eq!(answer.status, 201, "{:?}", answer.body);
        created.push(id(&answer.json()));
    }
    created.reverse();
    let (mut listed, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let answer = user.get(&format!("/api/orders?limit=100&cursor={cursor}")).await.expect("answered");
        assert_eq!(answer.status, 200);
        assert!(answer.body.len() <= 256 * 1024, "{} bytes", answer.body.len());
        let page = answer.json();
        let orders = page["orders"].as_array().expect("a list");
        assert!(!orders.is_empty());
        listed.extend(orders.iter().map(id));
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(listed, created);
    assert!(pages > 1, "all of it in one page");
}

/// A key is known across restarts of order, and for its time: then the same request is a new one, and the order stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_known_for_its_time() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::patient();
    let user = world.user("keys", "100.00").await;
    let order = sample_order("1 Quay Street", 100);
    let first = user.create_order(&order, Some("key-1")).await.expect("answered");
    let age = |days: i32| {
        let (world, user) = (&world, user.user.clone());
        async move {
            let mut connection = world.connect("order").await;
            sqlx::query("update idempotency_keys set created_at = now() - make_interval(days => $2) where user_id = $1")
                .bind(&user)
                .bind(days)
                .execute(&mut connection)
                .await
                .expect("aged");
        }
    };
    let keys = || async {
        let mut connection = world.connect("order").await;
        let row = sqlx::query("select count(*) from idempotency_keys where user_id = $1").bind(&user.user);
        row.fetch_one(&mut connection).await.expect("counted").get::<i64, _>(0)
    };
    // The janitor looks when a service starts, and each hour.
    age(6).await;
    world.restart("order").await;
    eventually("order is well", || world.is_well("order")).await;
    let again = user.create_order(&order, Some("key-1")).await.expect("answered");
    assert_eq!((again.status, &again.body), (first.status, &first.body), "byte for byte");
    assert_eq!(header(&again, "idempotent-replayed"), Some("true"));

    age(8).await;
    world.restart("order").await;
    eventually("the key is gone", || async { keys().await == 0 }).await;
    let fresh = user.create_order(&order, Some("key-1")).await.expect("answered");
    assert_eq!((fresh.status.as_u16(), header(&fresh, "idempotent-replayed")), (201, None));
    assert_ne!(id(&fresh.json()), id(&first.json()));
    assert_eq!(user.order(&id(&first.json())).await.expect("it stays")["order_id"], first.json()["order_id"]);
}
