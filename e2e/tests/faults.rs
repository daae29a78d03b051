//! Parts are killed with -9 while orders come in: nothing is lost, nothing is done twice, and everything continues on its own.

use std::{collections::HashMap, time::Duration};

use holdfast_chaos::{
    fault::Fault,
    rest::{Session, is_terminal, sample_order},
};
use holdfast_e2e::{World, eventually, id};
use holdfast_native::layout::{GATEWAY, PARTICIPANTS, participant_names, service_names};
use serde_json::Value;
use tokio::sync::Mutex;
use uuid::Uuid;

/// These tests kill parts of the one stack of this file: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Sends an order with one key until it is answered, as a careful client does.
async fn create_surely(user: &Session, address: &str, cents: u32) -> String {
    let key = Uuid::now_v7().to_string();
    let order = sample_order(address, cents);
    let until = tokio::time::Instant::now() + holdfast_e2e::PATIENCE;
    loop {
        match user.create_order(&order, Some(&key)).await {
            Ok(answer) if answer.status == 201 => return id(&answer.json()),
            Ok(answer) => assert!(
                [409, 500, 503, 504].contains(&answer.status.as_u16()),
                "{}: {:?}",
                answer.status,
                answer.body
            ),
            Err(_) => {}
        }
        assert!(tokio::time::Instant::now() < until, "the order was never accepted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Copies the logs of an unusual round: the stack's folder is deleted with the test.
fn keep_logs(world: &World, name: &str) {
    let from = world.stack.layout.log_file("order");
    let (from, to) =
        (from.parent().expect("a folder"), std::env::temp_dir().join(format!("holdfast-logs-{name}")));
    std::fs::create_dir_all(&to).expect("created");
    for log in std::fs::read_dir(from).expect("readable").filter_map(Result::ok) {
        std::fs::copy(log.path(), to.join(log.file_name())).expect("copied");
    }
    eprintln!("logs are kept in {}", to.display());
}

/// How many rounds a test runs; a soak sets more.
fn rounds(default: u32) -> u32 {
    std::env::var("HOLDFAST_TEST_ROUNDS").map_or(default, |text| text.parse().expect("a number"))
}

/// Whatever is killed, or stalls for a while: every order that was accepted ends, is charged once, delivered once, and the money
/// adds up. A round here; `HOLDFAST_TEST_ROUNDS=20 cargo test -p holdfast-e2e --test faults whatever -- --nocapture` is a soak.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_nothing_is_lost_or_done_twice() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("faults", "1000.00").await;
    let mut orders: HashMap<String, u32> = HashMap::new();
    let victims: Vec<String> =
        world.stack.report().components.into_iter().map(|component| component.name).collect();
    let rounds = rounds(1);
    for round in 0..rounds {
        for (victim, fault) in
            victims.iter().flat_map(|victim| [(victim, Fault::Kill), (victim, Fault::Stall)])
        {
            let load = {
                let user = user.clone();
                tokio::spawn(async move {
                    let mut created = Vec::new();
                    for n in 0..12 {
                        let (address, cents) =
                            if n % 4 == 0 { ("UNDELIVERABLE 1", 7) } else { ("1 Quay Street", 10) };
                        created.push((create_surely(&user, address, cents).await, cents));
                    }
                    created
                })
            };
            tokio::time::sleep(Duration::from_millis(60)).await;
            let before = world.stack.pid(victim);
            world.apply(fault, victim);
            if fault == Fault::Stall {
                let stall = if rounds == 1 { 1_000 } else { fastrand::u64(500..12_000) };
                tokio::time::sleep(Duration::from_millis(stall)).await;
                world.heal(fault, victim);
            }
            let created = load.await.expect("all were accepted in the end");
            eventually(&format!("{victim} is back"), || async {
                let pid = world.stack.pid(victim);
                pid.is_some() && (pid != before || fault == Fault::Stall)
            })
            .await;
            let begin = std::time::Instant::now();
            for (order_id, _) in &created {
                eventually("every order ends", || async {
                    user.order(order_id).await.is_ok_and(|order| is_terminal(&order))
                })
                .await;
            }
            let what = fault.name();
            eprintln!("round {round}: {victim} {what}, all orders ended after {:.1?}", begin.elapsed());
            orders.extend(created);
        }
    }
    let mut spent = 0;
    for (order_id, cents) in &orders {
        let order = user.order(order_id).await.expect("answered");
        let refunded = order["status"] == "REFUNDED";
        assert_eq!(refunded, *cents == 7, "{order}");
        spent += if refunded { 0 } else { i64::from(*cents) };
    }
    world.invariants_hold().await;
    let made = world.count("order", "select count(*) from orders where user_id = $1", &user.user).await;
    assert_eq!(made, i64::try_from(orders.len()).expect("few"), "one order for each key");
    let balance = "select balance_minor from accounts where user_id = $1";
    assert_eq!(world.count("payment", balance, &user.user).await, 100_000 - spent);
    for service in participant_names() {
        let letters = world.count(service, "select count(*) from dead_letters where subject <> $1", "").await;
        assert_eq!(letters, 0, "an absent part is never a dead letter, in {service}");
    }
    world.every_record_is_tallied().await;
}

/// Planted violations are found: money from nowhere, and a delivery that nobody ordered.
#[tokio::test(flavor = "multi_thread")]
async fn a_planted_violation_is_found() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("planted", "10.00").await;
    world.invariants_hold().await;
    let change = async |sql: &'static str| {
        let mut payments = world.connect("payment").await;
        sqlx::query(sql).bind(&user.user).execute(&mut payments).await.expect("changed");
    };
    change("update accounts set balance_minor = balance_minor + 1 where user_id = $1").await;
    let violations = world.violations().await;
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert!(violations[0].subject == user.user && violations[0].what.contains("1001"), "{violations:?}");
    change("update accounts set balance_minor = balance_minor - 1 where user_id = $1").await;

    let mut deliveries = world.connect("delivery").await;
    let nobody = Uuid::now_v7();
    sqlx::query(
        "insert into deliveries (delivery_id, order_id, user_id, delivery_address, status, will_fail, created_at, updated_at)
        values ($1, $1, 'planted', '1 Nowhere', 'DELIVERED', false, now(), now())",
    )
    .bind(nobody)
    .execute(&mut deliveries)
    .await
    .expect("planted");
    let violations = world.violations().await;
    assert!(violations.len() == 1 && violations[0].subject == nobody.to_string(), "{violations:?}");
    sqlx::query("delete from deliveries where delivery_id = $1")
        .bind(nobody)
        .execute(&mut deliveries)
        .await
        .expect("gone");
    world.invariants_hold().await;
}

/// The broker and a service die within moments of one another, in any order: members of consumer groups are fenced by a
/// broker that comes back with its previous state, offsets are not committed, and all continues on its own. A few rounds
/// here; `HOLDFAST_TEST_ROUNDS=60 cargo test -p holdfast-e2e --test faults overlap -- --nocapture` is a soak.
#[tokio::test(flavor = "multi_thread")]
async fn kills_that_overlap_are_survived() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("overlap", "1000.00").await;
    let rounds = rounds(3);
    for round in 0..rounds {
        let service = PARTICIPANTS[fastrand::usize(..PARTICIPANTS.len())].name;
        let victims = match fastrand::u8(..5) {
            0 => vec!["kafka", service],
            1 => vec![service, "kafka"],
            2 => vec![service, "kafka", service],
            3 => vec!["kafka", "kafka"],
            _ => vec![service, service, "kafka"],
        };
        let pause = Duration::from_millis(fastrand::u64(..[100, 1_000, 4_000][fastrand::usize(..3)]));
        for victim in &victims {
            world.kill_what_is_left(victim);
            tokio::time::sleep(pause).await;
        }
        let begin = std::time::Instant::now();
        for _ in 0..6 {
            let order = create_surely(&user, "1 Overlap Street", 100).await;
            eventually(&format!("delivered after {victims:?}, {pause:?} apart"), || async {
                user.order(&order).await.is_ok_and(|order| order["delivery_status"] == "DELIVERED")
            })
            .await;
        }
        eprintln!("round {round}: {victims:?}, {pause:?} apart, well again after {:.1?}", begin.elapsed());
    }
    let lost = "select count(*) from dead_letters where subject <> $1";
    for service in participant_names() {
        assert_eq!(world.count(service, lost, "").await, 0, "never a dead letter, in {service}");
    }
    world.every_record_is_tallied().await;
}

/// A database is away while orders come in: every one is accepted, none becomes a dead letter, the backlog grows, and
/// once the database is back it drains and the money adds up. Some seconds here; `HOLDFAST_OUTAGE_SECONDS=300 cargo test
/// -p holdfast-e2e --test faults backlog -- --nocapture` is an outage of minutes.
#[tokio::test(flavor = "multi_thread")]
async fn the_backlog_of_an_outage_drains() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("outage", "1000.00").await;
    let seconds: i64 =
        std::env::var("HOLDFAST_OUTAGE_SECONDS").map_or(12, |text| text.parse().expect("a number"));
    world.apply(Fault::Stall, "payments-db");
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut orders = Vec::new();
    for _ in 0..seconds {
        tick.tick().await;
        orders.push(create_surely(&user, "1 Outage Street", 100).await);
    }
    let pending = "select count(*) from orders where user_id = $1 and status = 'PENDING'";
    assert_eq!(world.count("order", pending, &user.user).await, seconds, "nothing bypassed the database");
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let expected = seconds as f64;
    let lag = async || world.metric("payment", "holdfast_consumer_lag_records", &["order.created"]).await;
    eventually("the lag has grown", || async { (lag().await - expected).abs() < 0.5 }).await;
    world.heal(Fault::Stall, "payments-db");
    let back = std::time::Instant::now();
    eventually("all are paid", || async {
        let paid = "select count(*) from orders where user_id = $1 and status = 'PAID'";
        world.count("order", paid, &user.user).await == seconds
    })
    .await;
    eprintln!("{seconds} orders in {seconds} s without a database, paid {:.1?} after it", back.elapsed());
    let letters = "select count(*) from dead_letters where subject <> $1";
    assert_eq!(world.count("payment", letters, "").await, 0, "an absent database is never a dead letter");
    let balance = "select balance_minor from accounts where user_id = $1";
    assert_eq!(world.count("payment", balance, &user.user).await, 100_000 - 100 * seconds);
    eventually("the lag is gone", || async { lag().await < 0.5 }).await;
    eventually("the gateway is well", || async { world.is_well("gateway").await }).await;
    world.every_record_is_tallied().await;
}

/// While a database is away its service says so, the gateway answers quickly with a problem, and reads from the others
/// still work; then everything recovers on its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_absent_database_is_reported_and_survived() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("absent", "10.00").await;
    // Stopped rather than killed: nobody restarts it, and connections hang instead of being refused.
    world.apply(Fault::Stall, "payments-db");
    eventually("payment says so", || async {
        let (status, body) = world.readyz("payment").await;
        status == 503 && body["components"]["database"]["ready"] == false
    })
    .await;
    eventually("the gateway says so, and can serve", || async {
        let (status, body) = world.readyz("gateway").await;
        status == 200 && body["degraded"] == true && body["components"]["payment"]["ready"] == false
    })
    .await;
    // A slow machine may be late with one answer, not with each.
    eventually("the deadline is kept", || async {
        let begin = std::time::Instant::now();
        let answer = user.get(&format!("/api/accounts/{}", user.user)).await.expect("answered");
        assert!([503, 504].contains(&answer.status.as_u16()), "{}", answer.status);
        begin.elapsed() < Duration::from_secs(4)
    })
    .await;
    let order = create_surely(&user, "1 Quay Street", 100).await;
    assert_eq!(user.order(&order).await.expect("answered")["status"], "PENDING");
    world.heal(Fault::Stall, "payments-db");
    eventually("the order is delivered", || async {
        is_terminal(&user.order(&order).await.expect("answered"))
    })
    .await;
    eventually("the gateway is well", || async { world.is_well("gateway").await }).await;
}

/// While Kafka is stopped, and while payment is dead, order and gateway can serve: they are ready, degraded and say
/// why, and orders are accepted. Then everything is delivered.
#[tokio::test(flavor = "multi_thread")]
async fn what_callers_do_not_need_now_degrades_only() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("degraded", "10.00").await;
    world.apply(Fault::Stall, "kafka");
    for component in ["kafka", "consumer"] {
        eventually(&format!("order says that its {component} waits"), || async {
            world.readyz("order").await.1["components"][component]["ready"] == false
        })
        .await;
    }
    let mut orders = vec![create_surely(&user, "1 Quay Street", 100).await];
    for component in service_names() {
        let (status, body) = world.readyz(component).await;
        assert_eq!((status, &body["ready"]), (200, &Value::Bool(true)), "{component}: {body}");
    }
    assert_eq!(world.readyz("order").await.1["degraded"], true);
    assert_eq!(world.healthz("order").await, 200, "an absent broker is no reason to restart");
    world.heal(Fault::Stall, "kafka");
    eventually("the order is delivered", || async {
        user.order(&orders[0]).await.is_ok_and(|order| order["delivery_status"] == "DELIVERED")
    })
    .await;

    world.apply(Fault::Stall, "payment");
    eventually("the gateway says that payment is away", || async {
        let (status, body) = world.readyz("gateway").await;
        status == 200 && body["degraded"] == true && body["components"]["payment"]["ready"] == false
    })
    .await;
    orders.push(create_surely(&user, "2 Quay Street", 100).await);
    assert_eq!(world.readyz("order").await.0, 200, "order does not need payment");
    world.heal(Fault::Stall, "payment");
    for component in service_names() {
        eventually(&format!("{component} is well"), || async { world.is_well(component).await }).await;
    }
    for order in &orders {
        eventually("delivered", || async {
            user.order(order).await.is_ok_and(|order| order["delivery_status"] == "DELIVERED")
        })
        .await;
    }
}

/// When asked to stop, every service stops cleanly: it says that it drains while calls are in progress, and then that
/// it has stopped. Orders keep being processed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn every_service_ends_in_order() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("terminate", "10.00").await;
    eventually("all is well", || async { world.is_well("gateway").await }).await;

    // A call is in progress for a while, because its database is stopped.
    let calls = || world.metric("order", "holdfast_grpc_calls_in_progress", &[]);
    world.apply(Fault::Stall, "orders-db");
    let held = tokio::spawn({
        let user = user.clone();
        async move { user.get("/api/orders").await.map(|answer| answer.status) }
    });
    eventually("the call is in progress", || async { calls().await > 0.5 }).await;
    world.apply(Fault::Terminate, "order");
    eventually("it says that it drains", || async {
        let (status, body) = world.readyz("order").await;
        status == 503 && body["components"]["process"]["detail"] == "draining"
    })
    .await;
    world.heal(Fault::Stall, "orders-db");
    held.await.expect("no panic").expect("answered");

    for service in participant_names().chain([GATEWAY]) {
        let ends = || {
            let log = std::fs::read_to_string(world.stack.layout.log_file(service)).expect("a log");
            assert!(!log.contains("stopped by a failure"), "{service}");
            log.lines().filter(|line| line.contains("\"message\":\"stopped\"")).count()
        };
        // The first was asked to stop above.
        let before = if service == "order" { 0 } else { ends() };
        if service != "order" {
            world.apply(Fault::Terminate, service);
        }
        let order = create_surely(&user, "1 Ending Street", 100).await;
        eventually(&format!("{service} has stopped"), || async { ends() > before }).await;
        eventually("the order is delivered", || async {
            user.order(&order).await.is_ok_and(|order| is_terminal(&order))
        })
        .await;
    }
}

/// The broker is killed, comes back, and a while later stalls for about the session timeout: every member is fenced,
/// and a client may be left deaf or a member without partitions (pitfalls P38). All orders are delivered without help.
/// A round here; `HOLDFAST_TEST_ROUNDS=200 cargo test -p holdfast-e2e --test faults stalls -- --nocapture` is a soak.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stalls_is_survived() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("stalls", "1000.00").await;
    let rounds = rounds(1);
    for round in 0..rounds {
        world.restart("kafka").await;
        let wait = Duration::from_millis(fastrand::u64(10_000..30_000));
        let stall = Duration::from_millis(fastrand::u64(9_000..10_600));
        tokio::time::sleep(wait).await;
        world.apply(Fault::Stall, "kafka");
        let mut orders = Vec::new();
        let resumed = tokio::time::Instant::now() + stall;
        while tokio::time::Instant::now() < resumed {
            orders.push(create_surely(&user, "1 Stall Street", 1).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        world.heal(Fault::Stall, "kafka");
        let begin = std::time::Instant::now();
        for order in &orders {
            eventually(&format!("delivered after {wait:?} and {stall:?}"), || async {
                user.order(order).await.is_ok_and(|order| order["delivery_status"] == "DELIVERED")
            })
            .await;
        }
        let delivered = begin.elapsed();
        for service in service_names() {
            eventually(&format!("{service} is well"), || async { world.is_well(service).await }).await;
        }
        let (mut lost, mut replaced) = (Vec::new(), Vec::new());
        for service in participant_names() {
            lost.push(world.metric(service, "holdfast_consumer_memberships_lost_total", &[]).await);
            replaced.push(world.metric(service, "holdfast_outbox_producer_replacements_total", &[]).await);
        }
        if rounds > 1 && delivered > Duration::from_secs(12) {
            keep_logs(&world, &format!("stall-{round}"));
        }
        eprintln!(
            "round {round}: {} orders, stalled for {stall:.1?} after {wait:.1?}, delivered after {delivered:.1?}, well \
             after {:.1?}, memberships lost so far {lost:?}, producers replaced {replaced:?}",
            orders.len(),
            begin.elapsed()
        );
    }
    world.every_record_is_tallied().await;
}

/// A deaf service (its process lives) shows as such in `holdfast status`, which asks the service and not a file, and
/// the supervisor restarts it. Orders keep being processed.
#[tokio::test(flavor = "multi_thread")]
async fn a_deaf_service_is_started_again() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("deaf", "10.00").await;
    let state = async || world.status().await["delivery"].clone();
    eventually("all is well", || async { state().await["state"] == "ready" }).await;
    let deaf = world.stack.pid("delivery");
    world.apply(Fault::Stall, "delivery");
    eventually("status says so", || async {
        let state = state().await;
        state["state"] == "unready"
            && state["detail"].as_str().is_some_and(|detail| detail.contains("answer"))
    })
    .await;
    let order = create_surely(&user, "1 Deaf Street", 100).await;
    eventually("it is started again", || async {
        let pid = world.stack.pid("delivery");
        pid.is_some() && pid != deaf
    })
    .await;
    eventually("the order is delivered", || async {
        user.order(&order).await.is_ok_and(|order| order["delivery_status"] == "DELIVERED")
    })
    .await;
    eventually("all is well", || async { state().await["state"] == "ready" }).await;
}
