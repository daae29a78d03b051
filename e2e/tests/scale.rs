//! Replicas come and go while the stack serves.

use std::{
    process::{Command, Output},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use holdfast_chaos::rest::{Rest, Session, is_terminal, sample_order};
use holdfast_common::metric::RPC_SERVER_CALL_DURATION_SECONDS;
use holdfast_e2e::{World, eventually, id};
use holdfast_native::{
    layout::{Gateway, Scope},
    remembered,
};
use holdfast_testkit::stack::{TestStack, binary};
use tokio::task::JoinSet;

/// Clients at a time: enough to be there at every moment, few enough for a machine that does much else.
const CLIENTS: usize = 3;
const PAUSE: Duration = Duration::from_millis(30);
/// Before and after, in which nothing comes or goes.
const CONTROL_TIME: Duration = Duration::from_secs(5);

/// What the clients have seen.
#[derive(Debug, Default)]
struct Seen {
    failures: Mutex<Vec<String>>,
    requests: AtomicUsize,
    is_enough: AtomicBool,
}

impl Seen {
    fn failures(&self) -> MutexGuard<'_, Vec<String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order and a look at it, neither of them tried again. Returns the order's id.
    async fn request(&self, user: &Session) -> Option<String> {
        self.requests.fetch_add(2, Ordering::Relaxed);
        let order = match user.create_order(&sample_order("1 Quay Street", 1), None).await {
            Ok(answer) if answer.status == 201 => id(&answer.json()),
            other => {
                self.failures().push(format!("POST: {other:?}"));
                return None;
            }
        };
        match user.get(&format!("/api/orders/{order}")).await {
            Ok(answer) if answer.status == 200 => {}
            other => self.failures().push(format!("GET {order}: {other:?}")),
        }
        Some(order)
    }

    /// Requests until it is enough. Then every order ends.
    async fn load(self: Arc<Self>, user: Session) {
        let mut orders = Vec::new();
        while !self.is_enough.load(Ordering::Relaxed) {
            orders.extend(self.request(&user).await);
            tokio::time::sleep(PAUSE).await;
        }
        for order in orders {
            eventually("every order ends", || async {
                user.order(&order).await.is_ok_and(|order| is_terminal(&order))
            })
            .await;
        }
    }
}

async fn holdfast(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binary());
    command.args(arguments).arg("--data-dir").arg(&world.stack.layout.data_dir);
    let run = move || command.output();
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(run).await.expect("no panic").expect("it runs");
    (status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

fn names(world: &World) -> Vec<String> {
    world.stack.report().components.into_iter().map(|component| component.name).collect()
}

/// Under load order gets a second replica, which takes its share, and loses it again; then the same of a gateway. No request fails,
/// unless the machine is so busy that some fail without; no other component is restarted, every order ends, and a later start knows how
/// many replicas there were.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_come_and_go_and_no_request_fails() {
    let environment = [("HOLDFAST__DELIVERY__STEP", "50ms")];
    let start = move || TestStack::start(Scope::Everything, &[], &environment);
    let stack = tokio::task::spawn_blocking(start).await.expect("it starts");
    let world = World::of(Box::leak(Box::new(stack)));
    let layout = &world.stack.layout;
    let (seen, mut clients) = (Arc::new(Seen::default()), JoinSet::new());
    for number in 0..CLIENTS {
        let user = world.user(&format!("scale-{number}"), "10000.00").await;
        clients.spawn(seen.clone().load(user));
    }
    // A machine that fails requests by itself can't show whose fault one is.
    tokio::time::sleep(CONTROL_TIME).await;
    let failed_before = seen.failures().len();
    let (before, pids) = (names(&world), world.stack.report().components);

    let (code, words) = holdfast(&world, &["scale", "order=2"]).await;
    assert_eq!(code, Some(0), "{words}");
    let place = |of: &str| names(&world).iter().position(|name| name == of);
    assert_eq!(place("order-2"), place("order").map(|place| place + 1), "in its place");
    eventually("the second replica is called", || async {
        world.metric("order-2", &format!("{RPC_SERVER_CALL_DURATION_SECONDS}_count"), &["CreateOrder"]).await
            > 0.0
    })
    .await;
    assert_eq!(remembered::recall(layout).expect("written").replicas, ["order=2"]);
    let (code, words) = holdfast(&world, &["scale", "order=2"]).await;
    assert!(code == Some(0) && words.contains("that is what runs"), "{words}");
    let (code, words) = holdfast(&world, &["up", "--replicas", "order=3"]).await;
    assert_eq!(code, Some(1), "{words}");
    for part in ["it runs with --replicas order=2", "holdfast scale order=3 --data-dir"] {
        assert!(words.contains(part), "{part} in {words}");
    }

    let (code, words) = holdfast(&world, &["scale", "order=1", "gateway=2"]).await;
    assert_eq!(code, Some(0), "{words}");
    for part in ["order-2 has ended", "gateway-2 serves on port"] {
        assert!(words.contains(part), "{part} in {words}");
    }
    // The second one serves, and neither keeps for itself what the other might have shown otherwise.
    let second = format!("http://127.0.0.1:{}", layout.gateway_port(Gateway { number: 1 }));
    let there = Rest::new(second, World::issuer(world.stack), 1).user("scale-there").expect("a token");
    eventually("the second gateway serves", || async { seen.request(&there).await.is_some() }).await;
    let config = std::fs::read_to_string(layout.data_dir.join("config/gateway.toml")).expect("there");
    assert!(config.contains("unfinished_time = \"0s\""), "{config}");
    let (code, words) = holdfast(&world, &["scale", "gateway=1"]).await;
    assert_eq!(code, Some(0), "{words}");
    assert_eq!(names(&world), before);
    assert_eq!(remembered::recall(layout).expect("written").replicas, [""; 0]);

    let failed = seen.failures().len() - failed_before;
    tokio::time::sleep(CONTROL_TIME).await;
    let failed_without = seen.failures().len() - failed;
    seen.is_enough.store(true, Ordering::Relaxed);
    // Those too whose events lay in the partitions of the replica that went.
    while let Some(client) = clients.join_next().await {
        client.expect("every order has ended");
    }
    let requests = seen.requests.load(Ordering::Relaxed);
    println!("{requests} requests: {failed} failed while replicas came and went, {failed_without} without");
    assert!(failed == 0 || failed_without > 0, "of {requests} requests: {:?}", seen.failures());
    for component in pids {
        let now = world.stack.report().components.into_iter().find(|now| now.name == component.name);
        let now = now.expect("it is still there");
        assert_eq!((now.pid, now.restarts), (component.pid, component.restarts), "{}", component.name);
    }
    world.invariants_hold().await;
}
