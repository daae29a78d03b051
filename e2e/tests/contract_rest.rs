//! The REST table of the contract, tested from outside on the real stack.

use std::{collections::HashSet, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use holdfast_certs::Claims;
use holdfast_chaos::rest::{Answer, is_terminal, sample_order};
use holdfast_e2e::{World, eventually, id};
use holdfast_native::layout::Gateway;
use http::{Method, Request};
use http_body_util::Full;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sqlx::error::DatabaseError;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Every failure has the same shape, and every answer has a request id.
fn assert_problem(answer: &Answer, status: u16, slug: &str) -> Value {
    assert_eq!(answer.status, status, "{:?}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert!(answer.headers.contains_key("x-request-id"));
    let problem = answer.json();
    assert_eq!(problem["type"], format!("https://holdfast.internal/problems/{slug}"), "{problem}");
    assert_eq!(problem["status"], status);
    for member in ["title", "detail", "instance"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {problem}");
    }
    problem
}

/// An order is created, paid and delivered; each step can be read.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_paid_and_delivered() {
    let world = World::patient();
    let user = world.user("happy", "100.00").await;
    let body = json!({
        "delivery_address": "1 Quay Street",
        "items": [
            {"product_id": "tea-100g", "quantity": 2, "price": serde_json::from_str::<Value>("12.50").expect("a number")},
            {"product_id": "cup", "quantity": 1, "price": 3},
        ],
    });
    let answer = user.create_order(&body, Some("first")).await.expect("answered");
    assert_eq!(answer.status, 201);
    let order = answer.json();
    assert_eq!(answer.headers["location"], format!("/api/orders/{}", id(&order)));
    assert_eq!(order["status"], "PENDING");
    assert_eq!(order["delivery_status"], Value::Null);
    assert_eq!(order["user_id"], user.user);
    assert_eq!(order["currency"], "EUR");
    assert_eq!(order["version"], 1);
    assert_eq!(order["created_at"], order["updated_at"]);
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(
        text.contains("\"total_amount\":28.00") && text.contains("\"price\":12.50"),
        "exact decimals: {text}"
    );
    assert_eq!(uuid::Uuid::parse_str(&id(&order)).expect("a UUID").get_version_num(), 7);

    let mut statuses = vec![];
    eventually("the order is delivered", || async {
        is_terminal(&user.order(&id(&order)).await.expect("answered"))
    })
    .await;
    let done = user.order(&id(&order)).await.expect("answered");
    assert_eq!((&done["status"], &done["delivery_status"]), (&json!("PAID"), &json!("DELIVERED")));
    assert!(done["version"].as_i64() > Some(1));

    let payment = user.get(&format!("/api/orders/{}/payment", id(&order))).await.expect("answered").json();
    assert_eq!(payment["status"], "SUCCESS");
    assert_eq!(payment["order_id"], order["order_id"]);
    assert_eq!(payment["user_id"], user.user);
    let delivery = user.get(&format!("/api/orders/{}/delivery", id(&order))).await.expect("answered").json();
    assert_eq!(delivery["status"], "DELIVERED");
    assert_eq!(delivery["delivery_address"], "1 Quay Street");
    for step in delivery["history"].as_array().expect("a history") {
        statuses.push(step["status"].as_str().expect("a status").to_owned());
    }
    assert_eq!(statuses, ["PENDING", "IN_TRANSIT", "OUT_FOR_DELIVERY", "DELIVERED"]);
    let account = user.get(&format!("/api/accounts/{}", user.user)).await.expect("answered");
    assert_eq!(account.status, 200);
    assert!(String::from_utf8_lossy(&account.body).contains("\"balance\":72.00"));
}

/// An order that can't be paid is declined for good: nothing is charged, nothing is delivered.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_without_funds_is_declined() {
    let world = World::patient();
    let user = world.user("poor", "0.99").await;
    let order = world.create(&user, "1 Quay Street", 100).await;
    eventually("the order is declined", || async {
        user.order(&id(&order)).await.expect("answered")["status"] == "INSUFFICIENT_FUNDS"
    })
    .await;
    let payment = user.get(&format!("/api/orders/{}/payment", id(&order))).await.expect("answered");
    assert_eq!(payment.json()["status"], "INSUFFICIENT_FUNDS");
    let delivery = user.get(&format!("/api/orders/{}/delivery", id(&order))).await.expect("answered");
    assert_problem(&delivery, 404, "not-found");
    let account = user.get(&format!("/api/accounts/{}", user.user)).await.expect("answered");
    assert!(String::from_utf8_lossy(&account.body).contains("\"balance\":0.99"));
}

/// An order that can't be delivered is refunded to the cent.
#[tokio::test(flavor = "multi_thread")]
async fn an_undeliverable_order_is_refunded() {
    let world = World::patient();
    let user = world.user("far", "10.00").await;
    let order = world.create(&user, "UNDELIVERABLE lane 1", 400).await;
    eventually("the order is refunded", || async {
        user.order(&id(&order)).await.expect("answered")["status"] == "REFUNDED"
    })
    .await;
    let done = user.order(&id(&order)).await.expect("answered");
    assert_eq!(done["delivery_status"], "FAILED");
    let payment = user.get(&format!("/api/orders/{}/payment", id(&order))).await.expect("answered");
    assert_eq!(payment.json()["status"], "REFUNDED");
    let account = user.get(&format!("/api/accounts/{}", user.user)).await.expect("answered");
    assert!(String::from_utf8_lossy(&account.body).contains("\"balance\":10.00"));
}

/// One key makes one order, however often and however concurrently it is sent; different content is refused.
#[tokio::test(flavor = "multi_thread")]
async fn one_key_makes_one_order() {
    let world = World::patient();
    let user = world.user("once", "100.00").await;
    let order = sample_order("1 Quay Street", 100);
    let sends = (0..100).map(|_| {
        let (user, order) = (user.clone(), order.clone());
        tokio::spawn(async move { user.create_order(&order, Some("same")).await.expect("answered") })
    });
    let mut created = HashSet::new();
    let (mut first_answers, mut bodies) = (0, HashSet::new());
    for send in sends.collect::<Vec<_>>() {
        let answer = send.await.expect("sent");
        match answer.status.as_u16() {
            201 => {
                created.insert(id(&answer.json()));
                bodies.insert(answer.body.clone());
                first_answers += i32::from(!answer.headers.contains_key("idempotent-replayed"));
            }
            409 => {
                assert_problem(&answer, 409, "idempotency-key-in-use");
                assert_eq!(answer.headers["retry-after"], "1");
            }
            other => panic!("{other}: {:?}", answer.body),
        }
    }
    assert_eq!((created.len(), first_answers, bodies.len()), (1, 1, 1));

    let replay = user.create_order(&order, Some("same")).await.expect("answered");
    assert_eq!(replay.status, 201);
    assert_eq!(replay.headers["idempotent-replayed"], "true");
    assert!(bodies.contains(&replay.body), "the replay has the first answer's body, whatever happened since");
    let other = user.create_order(&sample_order("2 Quay Street", 100), Some("same")).await.expect("answered");
    assert_problem(&other, 422, "idempotency-key-reused");

    // The same key of another user is a different key.
    let neighbour = world.user("neighbour", "100.00").await;
    let theirs = neighbour.create_order(&order, Some("same")).await.expect("answered");
    assert_eq!(theirs.status, 201);
    assert!(!theirs.headers.contains_key("idempotent-replayed"));
    let listed = user.get("/api/orders").await.expect("answered").json();
    assert_eq!(listed["orders"].as_array().map(Vec::len), Some(1));
}

/// A key that is committed by another transaction after the statement of a `POST` began, and without the lock: the index decides, and the
/// answer is that of the order which has the key. If the other one is rolled back, the order is made.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_appears_meanwhile_is_found() {
    let world = World::patient();
    let user = world.user("meanwhile", "100.00").await;
    let order = sample_order("1 Quay Street", 100);
    let first = user.create_order(&order, Some("first")).await.expect("answered").json();
    for (key, end, replayed) in [("late", "commit", true), ("never", "rollback", false)] {
        let mut other = world.connect("order").await;
        sqlx::query("begin").execute(&mut other).await.expect("begun");
        sqlx::query(
            "insert into idempotency_keys (user_id, key, fingerprint, order_id)
            select user_id, $2, fingerprint, order_id from idempotency_keys where user_id = $1 and key = 'first'",
        )
        .bind(&user.user)
        .bind(key)
        .execute(&mut other)
        .await
        .expect("written");
        let send = tokio::spawn({
            let (user, order) = (user.clone(), order.clone());
            async move { user.create_order(&order, Some(key)).await.expect("answered") }
        });
        let waiting = "select count(*) from pg_stat_activity
            where wait_event_type = 'Lock' and query like '-- order.insert_order%' and $1 <> ''";
        eventually("it waits", || async { world.count("order", waiting, key).await == 1 }).await;
        sqlx::query(end).execute(&mut other).await.expect("ended");
        let answer = send.await.expect("sent");
        assert_eq!(answer.status, 201, "{end}");
        assert_eq!(answer.headers.contains_key("idempotent-replayed"), replayed, "{end}");
        assert_eq!(id(&answer.json()) == id(&first), replayed, "{end}");
    }
    let made = world.count("order", "select count(*) from orders where user_id = $1", &user.user).await;
    assert_eq!(made, 2);
}

/// The unique index decides about a key, not a check before the insert: writing the same key a second time always
/// fails, even without the lock (pitfalls P10).
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_written_once() {
    let world = World::patient();
    let user = world.user("index", "1.00").await;
    let order = user.create_order(&sample_order("1 Quay Street", 1), Some("same")).await.expect("answered");
    assert_eq!(order.status, 201);
    let credit = format!("credit-{}", user.user);
    world.rest.credit(&user.user, "1.00", &credit).await.expect("credited");
    for (service, sql, key) in [
        (
            "order",
            "insert into idempotency_keys select * from idempotency_keys where user_id = $1",
            &user.user,
        ),
        ("payment", "insert into credit_keys select * from credit_keys where key = $1", &credit),
    ] {
        let mut database = world.connect(service).await;
        let again = sqlx::query(sql).bind(key).execute(&mut database).await.expect_err("a second time");
        assert!(
            again.as_database_error().is_some_and(DatabaseError::is_unique_violation),
            "{service}: {again}"
        );
    }
}

/// An invalid key is refused, before anything is created.
#[tokio::test(flavor = "multi_thread")]
async fn keys_keep_to_their_limits() {
    let world = World::patient();
    let user = world.user("keys", "1.00").await;
    let order = sample_order("1 Quay Street", 1);
    for bad in ["", &"k".repeat(256), &"k".repeat(10 * 1024), "schlüssel"] {
        let answer = user.create_order(&order, Some(bad)).await.expect("answered");
        assert_problem(&answer, 400, "idempotency-key-invalid");
    }
    let answer = user.create_order(&order, Some(&"k".repeat(255))).await.expect("answered");
    assert_eq!(answer.status, 201);
}

/// A list shows only the user's own orders, newest first, and pages follow each other without gap or overlap.
#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_newest_first() {
    let world = World::patient();
    let user = world.user("lists", "100.00").await;
    let mut created = Vec::new();
    for n in 0..7 {
        created.push(id(&world.create(&user, &format!("{n} Quay Street"), 1).await));
    }
    created.reverse();
    let mut listed = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = user.get(&format!("/api/orders?limit=3&cursor={cursor}")).await.expect("answered").json();
        let orders = page["orders"].as_array().expect("orders").clone();
        assert!(orders.len() <= 3);
        listed.extend(orders.iter().map(id));
        match page["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(listed, created);
    for bad in ["limit=0", "limit=-1", "limit=101", "limit=1000000000", "limit=x", "cursor=x", "page=2"] {
        let answer = user.get(&format!("/api/orders?{bad}")).await.expect("answered");
        assert_problem(&answer, 422, "invalid-content");
    }
}

/// Nobody sees or changes what belongs to another user, which looks as if it never existed.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_order_looks_as_if_it_never_existed() {
    let world = World::patient();
    let (owner, stranger) = (world.user("owner", "10.00").await, world.user("stranger", "10.00").await);
    let order = id(&world.create(&owner, "1 Quay Street", 100).await);
    let never = uuid::Uuid::now_v7().to_string();
    for suffix in ["", "/payment", "/delivery"] {
        let mut bodies = HashSet::new();
        for path in
            [&order, &never, "not-an-id", "00000000-0000-0000-0000-000000000000", "%00", "..%2f..%2fhealthz"]
        {
            let answer = stranger.get(&format!("/api/orders/{path}{suffix}")).await.expect("answered");
            let mut problem = assert_problem(&answer, 404, "not-found");
            problem["instance"] = Value::Null;
            bodies.insert(problem.to_string());
            assert!(!answer.headers.contains_key("retry-after"));
        }
        assert_eq!(bodies.len(), 1, "{bodies:?}");
    }
    let body = json!({"user_id": owner.user, "delivery_address": "x", "items": [{"product_id": "a", "quantity": 1, "price": 1}]});
    assert_problem(&stranger.create_order(&body, None).await.expect("answered"), 403, "foreign-user");
    let body = json!({"user_id": stranger.user, "delivery_address": "x", "items": [{"product_id": "a", "quantity": 1, "price": 1}]});
    assert_eq!(stranger.create_order(&body, None).await.expect("answered").status, 201);
    let foreign = stranger.get(&format!("/api/accounts/{}", owner.user)).await.expect("answered");
    assert_problem(&foreign, 403, "foreign-user");
    let listed = stranger.get("/api/orders").await.expect("answered").json();
    assert_eq!(listed["orders"].as_array().map(Vec::len), Some(1));
}

/// Only the treasury can credit; a credit needs a key, and happens once.
#[tokio::test(flavor = "multi_thread")]
async fn credits_happen_once() {
    let world = World::patient();
    let user = world.user("saver", "1.00").await;
    let treasury = world.rest.token("treasury", "accounts:credit").expect("a token");
    let path = format!("/api/accounts/{}/credits", user.user);
    let credit = async |amount: &str, key: Option<&str>| {
        let mut request = Request::post(format!("{}{path}", world.rest.base_url()))
            .header("authorization", format!("Bearer {treasury}"))
            .header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let body = Full::new(Bytes::from(format!("{{\"amount\": {amount}}}")));
        world.rest.send(request.body(body).expect("a request")).await.expect("answered")
    };
    let key = format!("credit-{}", user.user);
    let first = credit("2.50", Some(&key)).await;
    assert_eq!(first.status, 201);
    assert_eq!(
        String::from_utf8_lossy(&first.body),
        format!("{{\"user_id\":\"{}\",\"balance\":3.50,\"currency\":\"EUR\"}}", user.user)
    );
    let again = credit("2.50", Some(&key)).await;
    assert_eq!((again.status.as_u16(), &again.body), (201, &first.body));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_problem(&credit("9.00", Some(&key)).await, 422, "idempotency-key-reused");
    assert_problem(&credit("1.00", None).await, 400, "idempotency-key-required");
    for bad in ["0", "-1", "0.001", "1000000.01", "1e400", "\"1\"", "null", "{}"] {
        assert_problem(&credit(bad, Some("bad")).await, 422, "invalid-content");
    }
    // Not by the user, and not for a name that can't be a user's.
    let body = json!({"amount": 1});
    let own = world
        .rest
        .call(Method::POST, &path, &user.token, &[("idempotency-key", "k")], Some(&body))
        .await
        .expect("answered");
    let problem = assert_problem(&own, 403, "insufficient-scope");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("accounts:credit")));
    assert_eq!(own.headers["www-authenticate"], "Bearer error=\"insufficient_scope\"");
    let odd = "/api/accounts/a%20b/credits";
    let odd = world
        .rest
        .call(Method::POST, odd, &treasury, &[("idempotency-key", "k")], Some(&body))
        .await
        .expect("answered");
    assert_problem(&odd, 422, "invalid-content");
    let nobody = world.rest.user("nobody-has-seen-this-one").expect("a token");
    let account = nobody.get("/api/accounts/nobody-has-seen-this-one").await.expect("answered");
    assert!(String::from_utf8_lossy(&account.body).contains("\"balance\":0.00"));
}

/// Each limit on an order's content: everything that is wrong is named by a pointer, and no order is created.
#[tokio::test(flavor = "multi_thread")]
async fn content_keeps_to_its_limits() {
    let world = World::patient();
    let user = world.user("limits", "1.00").await;
    let item = r#"{"product_id":"a","quantity":1,"price":0.01}"#;
    let with = |address: &str, items: &str| {
        format!("{{\"delivery_address\":{},\"items\":[{items}]}}", json!(address))
    };
    let one = |product: &str, quantity: &str, price: &str| {
        with("x", &format!("{{\"product_id\":{},\"quantity\":{quantity},\"price\":{price}}}", json!(product)))
    };
    let many = vec![item; 101].join(",");
    for (body, pointer) in [
        (with("", item), "/delivery_address"),
        (with("   ", item), "/delivery_address"),
        (with(&"a".repeat(501), item), "/delivery_address"),
        (with("a\u{0}b", item), "/delivery_address"),
        (with("a\u{202e}b", item), "/delivery_address"),
        (with("x", ""), "/items"),
        (with("x", &many), "/items"),
        (one("", "1", "1"), "/items/0/product_id"),
        (one("a b", "1", "1"), "/items/0/product_id"),
        (one(&"a".repeat(65), "1", "1"), "/items/0/product_id"),
        (one("a", "0", "1"), "/items/0/quantity"),
        (one("a", "10001", "1"), "/items/0/quantity"),
        (one("a", "-1", "1"), "/items/0/quantity"),
        (one("a", "1.5", "1"), "/items/0/quantity"),
        (one("a", "9223372036854775808", "1"), "/items/0/quantity"),
        (one("a", "1", "0"), "/items/0/price"),
        (one("a", "1", "-0"), "/items/0/price"),
        (one("a", "1", "-0.01"), "/items/0/price"),
        (one("a", "1", "0.001"), "/items/0/price"),
        (one("a", "1", "0.30000000000000004"), "/items/0/price"),
        (one("a", "1", "1000000.01"), "/items/0/price"),
        (one("a", "1", "9223372036854775808"), "/items/0/price"),
        (one("a", "1", "1e400"), "/items/0/price"),
        (one("a", "1", "\"1.00\""), "/items/0/price"),
        (one("a", "1", "[1]"), "/items/0/price"),
        (format!("{{\"delivery_address\":\"x\",\"items\":[{item}],\"status\":\"PAID\"}}"), "/status"),
        (format!("{{\"delivery_address\":\"x\",\"items\":[{item}],\"owner\":\"me\"}}"), "/owner"),
        (format!("{{\"delivery_address\":\"x\",\"delivery_address\":\"y\",\"items\":[{item}]}}"), ""),
        ("[]".to_owned(), ""),
        ("null".to_owned(), ""),
        ("{}".to_owned(), ""),
    ] {
        let answer = post_raw(&world, &user.token, "application/json", body.clone()).await;
        let problem = assert_problem(&answer, 422, "invalid-content");
        let errors = problem["errors"].as_array().expect("errors");
        assert!(errors.iter().any(|error| error["pointer"] == pointer), "{pointer} in {problem} for {body}");
        assert!(errors.iter().all(|error| error["detail"].as_str().is_some_and(|detail| !detail.is_empty())));
    }
    // At the limits, all is well.
    let body = with(
        &"ü".repeat(500),
        &vec![r#"{"product_id":"A-z.9_:","quantity":10000,"price":1000000.00}"#; 100].join(","),
    );
    assert_eq!(post_raw(&world, &user.token, "application/json; charset=utf-8", body).await.status, 201);
    let listed = user.get("/api/orders").await.expect("answered").json();
    assert_eq!(listed["orders"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed["orders"][0]["total_amount"].to_string(), "1000000000000.0");
}

async fn post_raw(world: &World, token: &str, content_type: &str, body: impl Into<Bytes>) -> Answer {
    let mut request = Request::post(format!("{}/api/orders", world.rest.base_url()))
        .header("authorization", format!("Bearer {token}"));
    if !content_type.is_empty() {
        request = request.header("content-type", content_type);
    }
    world.rest.send(request.body(Full::new(body.into())).expect("a request")).await.expect("answered")
}

/// Invalid JSON is 400, a body that is too long 413, another media type 415.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_cannot_be_read() {
    let world = World::patient();
    let token = world.user("bodies", "1.00").await.token;
    let good = sample_order("x", 1).to_string();
    let deep = "{\"a\":".repeat(10_000);
    for body in [
        Bytes::new(),
        Bytes::from_static(b"{"),
        Bytes::from(format!("{good} x")),
        Bytes::from(format!("\u{feff}{good}")),
        Bytes::from(good.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()),
        Bytes::from_static(b"{\"delivery_address\":\"\xff\xfe\"}"),
        Bytes::from_static(b"{\"delivery_address\":NaN}"),
    ] {
        assert_problem(&post_raw(&world, &token, "application/json", body).await, 400, "malformed");
    }
    // However deep, parsing ends at the first field that doesn't belong there.
    let answer = post_raw(&world, &token, "application/json", deep).await;
    assert_problem(&answer, 422, "invalid-content");
    for content_type in [
        "",
        "text/plain",
        "application/jsonx",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
    ] {
        let answer = post_raw(&world, &token, content_type, good.clone()).await;
        assert_problem(&answer, 415, "unsupported-media-type");
    }
    let padded = |length: usize| format!("{}{good}", " ".repeat(length - good.len()));
    assert_eq!(post_raw(&world, &token, "application/json", padded(64 * 1024)).await.status, 201);
    let answer = post_raw(&world, &token, "application/json", padded(64 * 1024 + 1)).await;
    assert_problem(&answer, 413, "too-large");
    // An encoded body is not unpacked.
    let request = Request::post(format!("{}/api/orders", world.rest.base_url()))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .body(Full::new(Bytes::from(good)))
        .expect("a request");
    assert_problem(&world.rest.send(request).await.expect("answered"), 415, "unsupported-media-type");
}

/// Sends bytes as they are and returns the status, or 0 if the connection just ends.
async fn raw(world: &World, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", world.stack.layout.gateway_port(Gateway::FIRST)))
        .await
        .expect("connected");
    // The server may refuse before everything was sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
        match tokio::time::timeout(Duration::from_secs(15), stream.read(&mut buffer)).await.expect("answered")
        {
            Ok(read) if read > 0 => answer.extend_from_slice(&buffer[..read]),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, text)
}

/// Heads that are ambiguous, oversized or wrong are refused; the process keeps running.
#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_wrong_are_refused() {
    let world = World::patient();
    let token = world.user("heads", "1.00").await.token;
    let auth = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
    let long = "x".repeat(100 * 1024);
    let fields = "x-many: 1\r\n".repeat(200);
    // Each of these orders would be created, if its head were taken.
    let order = sample_order("x", 1).to_string();
    let chunked = format!("{:x}\r\n{order}\r\n0\r\n\r\n", order.len());
    let length = format!("Content-Length: {}\r\n", chunked.len());
    for (fields, expected) in [
        ("Host: a\r\nTransfer-Encoding: chunked\r\n".to_owned(), 201),
        (format!("Host: a\r\n{length}Transfer-Encoding: chunked\r\n"), 400),
        (format!("Host: a\r\nTransfer-Encoding: chunked\r\n{length}"), 400),
        ("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n".to_owned(), 400),
        ("Host: a\r\nTransfer-Encoding: chunked, chunked\r\n".to_owned(), 400),
        ("Host: a\r\nTransfer-Encoding: identity, chunked\r\n".to_owned(), 400),
        ("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n".to_owned(), 400),
        ("Transfer-Encoding: chunked\r\n".to_owned(), 400),
        ("Host: a b\r\nTransfer-Encoding: chunked\r\n".to_owned(), 400),
        ("Host: u@a\r\nTransfer-Encoding: chunked\r\n".to_owned(), 400),
    ] {
        let request = format!("POST /api/orders HTTP/1.1\r\n{fields}{auth}\r\n{chunked}");
        let (status, text) = raw(&world, request.as_bytes()).await;
        assert_eq!(status, expected, "{fields}: {text}");
    }
    for (head, expected) in [
        (format!("GET /api/orders HTTP/1.1\r\nHost: a\r\nHost: b\r\n{auth}\r\n"), 400),
        (format!("GET /api/orders HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n"), 431),
        (format!("GET /api/orders HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), 431),
        ("GET /api/orders HTTP/1.1\r\nHost: a\r\nX-Bad: a\0b\r\n\r\n".to_owned(), 400),
        ("nonsense\r\n\r\n".to_owned(), 400),
        ("TRACE /api/orders HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405),
        ("BREW /api/orders HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405),
        ("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 404),
        ("GET /api/orders/..%2f..%2fetc HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 401),
        (format!("POST /api/orders HTTP/1.1\r\nHost: a\r\n{auth}Content-Length: 1073741824\r\n\r\n"), 413),
    ] {
        let (status, text) = raw(&world, head.as_bytes()).await;
        assert_eq!(status, expected, "{}: {text}", head.lines().next().unwrap_or_default());
        for field in ["content-type: application/problem+json", "x-request-id: ", "cache-control: no-store"] {
            assert!(text.contains(field), "{field} in {text}");
        }
    }
    // More than is allowed, without declaring it first.
    let mut chunked =
        format!("POST /api/orders HTTP/1.1\r\nHost: a\r\n{auth}Transfer-Encoding: chunked\r\n\r\n")
            .into_bytes();
    for _ in 0..20 {
        chunked.extend_from_slice(format!("2000\r\n{}\r\n", " ".repeat(0x2000)).as_bytes());
    }
    assert_eq!(raw(&world, &chunked).await.0, 413);
    // A request id comes back; one that can't be a header's value is replaced.
    let (_, text) = raw(&world, b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine-1\r\n\r\n").await;
    assert!(text.contains("x-request-id: mine-1"), "{text}");
    let (_, text) = raw(&world, b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Request-Id: \xff\xfe\r\n\r\n").await;
    assert!(text.contains("x-request-id: ") && !text.contains('\u{fffd}'), "{text}");
    let request = Request::delete(format!("{}/api/orders", world.rest.base_url()))
        .body(Full::default())
        .expect("a request");
    assert_problem(&world.rest.send(request).await.expect("answered"), 405, "method-not-allowed");
    let request =
        Request::get(format!("{}/nowhere", world.rest.base_url())).body(Full::default()).expect("a request");
    assert_problem(&world.rest.send(request).await.expect("answered"), 404, "not-found");
}

/// A body that arrives slowly is refused before the deadline, as the client's doing.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_is_refused_before_the_deadline() {
    let world = World::patient();
    let token = world.user("slow", "1.00").await.token;
    let head = format!(
        "POST /api/orders HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{"
    );
    let (status, text) = raw(&world, head.as_bytes()).await;
    assert!(status == 408 && text.contains("connection: close\r\n"), "{text}");
}

/// Makes tokens that are wrong in one way, from a good one.
struct Forge {
    /// A good token.
    good: String,
    /// Its header, for the library.
    header: Header,
    claims: Value,
    /// The issuer's own key, to sign claims of any shape.
    key: EncodingKey,
    /// The public half of it.
    public: Vec<u8>,
}

impl Forge {
    fn new(world: &World) -> Self {
        let claims = Claims::new("alice", "orders:read", Duration::from_secs(60)).expect("short");
        let good = World::issuer(world.stack).sign(&claims).expect("signed");
        let file = |name: &str| {
            std::fs::read_to_string(world.stack.layout.pki_dir().join(name)).expect("the installation has it")
        };
        let key = URL_SAFE_NO_PAD.decode(file("token.key").trim()).expect("base64");
        let jwks: Value = serde_json::from_str(&file("jwks.json")).expect("JSON");
        let public = URL_SAFE_NO_PAD.decode(jwks["keys"][0]["x"].as_str().expect("a key")).expect("base64");
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some("at+jwt".to_owned());
        header.kid = Some(decoded(&good, 0)["kid"].as_str().expect("a kid").to_owned());
        let claims = serde_json::to_value(claims).expect("claims");
        Self { good, header, claims, key: EncodingKey::from_ed_der(&key), public }
    }

    /// One of the three parts of the good token.
    fn part(&self, index: usize) -> &str {
        self.good.split('.').nth(index).expect("three parts")
    }

    /// Signed by the right key, with this claim, or without it.
    fn with_claim(&self, name: &str, value: Option<Value>) -> String {
        let mut claims = self.claims.clone();
        match value {
            Some(value) => claims[name] = value,
            None => drop(claims.as_object_mut().expect("an object").remove(name)),
        }
        jsonwebtoken::encode(&self.header, &claims, &self.key).expect("signed")
    }

    /// Signed by the right key, with another header.
    fn with_header(&self, change: impl FnOnce(&mut Header)) -> String {
        let mut header = self.header.clone();
        change(&mut header);
        jsonwebtoken::encode(&header, &self.claims, &self.key).expect("signed")
    }

    /// With fields of the header changed after it was signed.
    fn with_forged_header(&self, change: &Value) -> String {
        let mut header = decoded(&self.good, 0);
        for (name, value) in change.as_object().expect("an object") {
            header[name] = value.clone();
        }
        format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), self.part(1), self.part(2))
    }

    /// Signed with the public key as if it were a shared secret.
    fn signed_with_public_key(&self) -> String {
        let header = Header { alg: Algorithm::HS256, ..self.header.clone() };
        jsonwebtoken::encode(&header, &self.claims, &EncodingKey::from_secret(&self.public)).expect("signed")
    }
}

/// A part of a token as JSON.
fn decoded(token: &str, part: usize) -> Value {
    let part = token.split('.').nth(part).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
}

/// Tokens whose form, signature or header is wrong.
fn malformed_tokens(forge: &Forge) -> Vec<(&'static str, String)> {
    let (good, header, claims, signature) = (&forge.good, forge.part(0), forge.part(1), forge.part(2));
    let mut bad = vec![
        ("no token", String::new()),
        ("not a token", "x".to_owned()),
        ("four parts", format!("{good}.x")),
        ("two parts", format!("{header}.{claims}")),
        ("cut short", good[..good.len() - 10].to_owned()),
        ("another signature", format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode([0; 64]))),
        ("no signature", format!("{header}.{claims}.")),
        ("signed with the public key", forge.signed_with_public_key()),
        ("too long", format!("{header}.{}.{signature}", "A".repeat(20 * 1024))),
        ("unknown kid", forge.with_header(|header| header.kid = Some("../../token.key".to_owned()))),
        ("no kid", forge.with_header(|header| header.kid = None)),
        ("an id token", forge.with_header(|header| header.typ = Some("JWT".to_owned()))),
        ("no typ", forge.with_header(|header| header.typ = None)),
        ("crit", forge.with_header(|header| header.crit = Some(vec!["exp".to_owned()]))),
    ];
    for algorithm in ["none", "None", "nOnE", "HS256", "RS256", "ES256"] {
        bad.push(("another algorithm", forge.with_forged_header(&json!({"alg": algorithm}))));
    }
    let own_key = json!({"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "AA"}, "kid": "mine"});
    bad.push(("an own key", forge.with_forged_header(&own_key)));
    bad
}

/// Tokens with a wrong claim, or without one that is required.
fn tokens_with_wrong_claims(forge: &Forge, now: i64) -> Vec<(&'static str, String)> {
    let claims = [
        ("exp", Some(json!(now - 10))),
        ("exp", None),
        ("exp", Some(json!((now + 60).to_string()))),
        ("exp", Some(Value::Null)),
        ("exp", Some(json!(-1))),
        ("exp", Some(json!(1e300))),
        ("nbf", Some(json!(now + 60))),
        ("nbf", Some(json!("soon"))),
        ("nbf", Some(Value::Null)),
        ("aud", None),
        ("aud", Some(json!("another-api"))),
        ("aud", Some(json!(["another-api", "third"]))),
        ("iss", Some(json!("https://elsewhere.example"))),
        ("iss", Some(json!(["https://elsewhere.example", "https://auth.holdfast.internal"]))),
        ("iss", None),
        ("sub", None),
        ("sub", Some(json!(""))),
        ("sub", Some(json!("a b"))),
        ("sub", Some(json!(5))),
        ("iat", None),
        ("iat", Some(json!(4_102_444_800_i64))),
        ("jti", None),
        ("jti", Some(json!(""))),
        ("exp", Some(json!(now + 25 * 3_600))),
        ("scope", None),
        ("scope", Some(json!(["orders:read"]))),
    ];
    claims.into_iter().map(|(name, value)| (name, forge.with_claim(name, value))).collect()
}

/// A token is accepted only if everything about it is right; every cause of refusal gets the same answer.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_checked_strictly() {
    let world = World::patient();
    let forge = Forge::new(&world);
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let list = async |token: &str| {
        world.rest.call(Method::GET, "/api/orders", token, &[], None).await.expect("answered")
    };
    let mut bodies = HashSet::new();
    for (what, token) in malformed_tokens(&forge).into_iter().chain(tokens_with_wrong_claims(&forge, now)) {
        let answer = list(&token).await;
        assert_eq!(answer.status, 401, "{what}");
        let mut problem = assert_problem(&answer, 401, "invalid-token");
        assert_eq!(answer.headers["www-authenticate"], "Bearer error=\"invalid_token\"", "{what}");
        problem["instance"] = Value::Null;
        bodies.insert(problem.to_string());
    }
    assert_eq!(bodies.len(), 1, "one body for every cause: {bodies:?}");

    // Valid tokens are accepted, including those within the leeway and with a list of audiences.
    for (name, value) in
        [("nbf", json!(now)), ("exp", json!(now + 30)), ("aud", json!(["x", "holdfast-api"]))]
    {
        assert_eq!(list(&forge.with_claim(name, Some(value))).await.status, 200, "{name}");
    }
    // Two Authorization headers count as none.
    let request = Request::get(format!("{}/api/orders", world.rest.base_url()))
        .header("authorization", format!("Bearer {}", forge.good))
        .header("authorization", format!("Bearer {}", forge.good))
        .body(Full::default())
        .expect("a request");
    assert_problem(&world.rest.send(request).await.expect("answered"), 401, "invalid-token");
}

/// Each call needs its scope.
#[tokio::test(flavor = "multi_thread")]
async fn each_call_needs_its_scope() {
    let world = World::patient();
    let id = uuid::Uuid::now_v7();
    let body = sample_order("x", 1);
    for (method, path, scope, body) in [
        (Method::POST, "/api/orders".to_owned(), "orders:write", Some(&body)),
        (Method::GET, "/api/orders".to_owned(), "orders:read", None),
        (Method::GET, format!("/api/orders/{id}"), "orders:read", None),
        (Method::GET, format!("/api/orders/{id}/payment"), "orders:read", None),
        (Method::GET, format!("/api/orders/{id}/delivery"), "orders:read", None),
        (Method::GET, "/api/accounts/alice".to_owned(), "accounts:read", None),
        (Method::POST, "/api/accounts/alice/credits".to_owned(), "accounts:credit", Some(&body)),
    ] {
        let all = ["orders:write", "orders:read", "accounts:read", "accounts:credit"];
        let others = all.into_iter().filter(|other| *other != scope).collect::<Vec<_>>().join(" ");
        for scopes in ["", &others, "ORDERS:READ", "orders", "orders:*"] {
            let token = world.rest.token("alice", scopes).expect("a token");
            let answer = world.rest.call(method.clone(), &path, &token, &[], body).await.expect("answered");
            assert_problem(&answer, 403, "insufficient-scope");
        }
    }
}
