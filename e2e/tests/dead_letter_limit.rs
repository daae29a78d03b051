//! Nothing but poison, for a minute, against a stack with its default settings.

use std::{sync::OnceLock, time::Duration};

use holdfast_e2e::{World, events::send_created, eventually, id, reaches};
use holdfast_native::layout::Scope;
use holdfast_testkit::stack::TestStack;
use serde_json::Value;
use uuid::Uuid;

fn world() -> World {
    static STACK: OnceLock<TestStack> = OnceLock::new();
    let steps = [("HOLDFAST__DELIVERY__STEP", "50ms")];
    World::of(STACK.get_or_init(|| TestStack::start(Scope::Everything, &[], &steps)))
}

/// The consumer stops at its limit, says so, and its service keeps serving calls; what it did not read stays in the
/// topic, and all of it is parked once an operator resumes it. Nothing is lost, and nothing is parked twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_nothing_but_poison_loses_nothing() {
    const POISON: i64 = 3_000;
    const EVERY: Duration = Duration::from_millis(20);
    let world = world();
    let user = world.user("patient", "10.00").await;
    let producer = world.producer();
    let flood = tokio::spawn(async move {
        let mut tick = tokio::time::interval(EVERY);
        for n in 0..POISON {
            tick.tick().await;
            send_created(&producer, &format!("user-{}", n % 50), &Uuid::now_v7().to_string(), b"\xff").await;
        }
    });
    eventually("readiness says that it stopped", || async {
        let (status, page) = world.readyz("payment").await;
        let detail = page["components"]["consumer"]["detail"].as_str().unwrap_or_default().to_owned();
        status == 200 && page["degraded"] == true && detail.contains("dead letters in a row): stopped")
    })
    .await;
    assert!(
        (world.metric("payment", "holdfast_consumer_stopped_by_dead_letters", &[]).await - 1.0).abs() < 0.1
    );
    // An order is accepted meanwhile, and waits in its topic.
    let order = id(&world.create(&user, "1 Patience Road", 100).await);
    flood.await.expect("sent");

    let rows = "select count(*) from dead_letters where topic = $1";
    let parked = world.count("payment", rows, "order.created").await;
    // The limit, what was in the same batch, and one from time to time. If the one that is tried happens to be the good
    // order, the consumer rightly resumes, and stops again at the limit.
    let stopped = world.metric("payment", "holdfast_consumer_stops_total", &[]).await;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let parked_per_stop = parked as f64 / stopped;
    assert!((100.0..=220.0).contains(&parked_per_stop), "{parked} were parked in a minute, {stopped} stops");
    let (stats, _) = world.dlq_json(&["stats"]).await;
    let stops = stats["stopped_consumers"].as_array().expect("a list");
    assert_eq!((stops.len(), &stops[0]["service"]), (1, &Value::from("payment")), "{stats}");

    let resume = ["resume", "--service", "payment", "--park", "3000", "--reason", "the sender is fixed"];
    let resumed = world.dlq(&resume).await;
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    reaches("all is parked", POISON, || world.count("payment", rows, "order.created")).await;
    eventually("the order went through", || async {
        user.order(&order).await.is_ok_and(|order| order["status"] == "PAID")
    })
    .await;
    eventually("it is well again", || async { world.is_well("payment").await }).await;
    assert_eq!(world.records_of("order.created"), Some(POISON + 1));
    world.every_record_is_tallied().await;
    eventually("each has its copy", || async {
        world.records_of("order.created.payment.dlq") == Some(POISON)
    })
    .await;
    let (audit, _) = world.dlq_json(&["audit"]).await;
    let entry = &audit["audit"][0];
    assert_eq!(
        (&entry["action"], &entry["actor"]),
        (&"resume".into(), &"operator (tester)".into()),
        "{audit}"
    );
    assert_eq!(entry["detail"], "the sender is fixed: 3000 more may be parked", "{audit}");
    // There is nobody left to resume.
    assert_eq!(world.dlq(&resume).await.status.code(), Some(3));
}
