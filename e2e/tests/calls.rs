//! Calls between the gateway and the services while endpoints hang, die and come back, on a stack with two replicas of
//! the order service.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use holdfast_certs::Pki;
use holdfast_chaos::{
    fault::Fault,
    load::{Plan, open_loop},
    rest::{is_terminal, sample_order},
};
use holdfast_common::{
    client::{self, CallsConfig, Destination, DestinationConfig},
    config::IdentityConfig,
    deadline::Deadline,
    identity::Identity,
    subject::Subject,
};
use holdfast_e2e::{PATIENCE, World, eventually, id};
use holdfast_native::layout::{CONSOLE, GATEWAY, Kind, OPERATOR, Replicas, identities};
use holdfast_proto::{
    UserId, delivery::v1 as delivery, order::v1 as order, payment::v1 as payment, scope, r#type::v1 as value,
};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::{sync::Mutex, time::Instant};
use tonic::{Code, Request};
use uuid::Uuid;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
/// Hangs in one of the tests, whose callers must not wait for long.
const TIMED: [&str; 1] = ["payment"];

/// Waits until everything is as at the start.
async fn settled(world: &World) {
    eventually("the gateway is ready", || async { world.readyz("gateway").await.0 == 200 }).await;
    let components = world.stack.report().components;
    for component in components.iter().filter(|component| component.kind == Kind::Service) {
        eventually("a service is ready", || async { world.readyz(&component.name).await.0 == 200 }).await;
    }
}

fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

/// A payment service that accepts calls and never answers: the breaker opens within five calls, the gateway then
/// answers 503 with Retry-After as quickly as a healthy service would, and serves again on its own after the service
/// recovers.
#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_service_is_answered_for_at_once() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::with_two_order_replicas(&TIMED);
    settled(&world).await;
    let user = world.user("hanging", "10.00").await;
    let path = format!("/api/accounts/{}", user.user);
    let mut times = Vec::new();
    for _ in 0..100 {
        let asked = Instant::now();
        assert_eq!(user.get(&path).await.expect("answered").status, 200);
        times.push(asked.elapsed());
    }
    let healthy = percentile(times, 50);
    let open = || world.metric("gateway", "holdfast_circuit_breaker_state", &["\"payment\"", "\"open\""]);
    assert!(open().await < 0.5, "closed at the start");

    world.apply(Fault::Stall, "payment");
    let mut calls = 0;
    while open().await < 0.5 {
        calls += 1;
        assert!(calls <= 5, "open within five calls");
        let answer = user.get(&path).await.expect("answered");
        assert!([503, 504].contains(&answer.status.as_u16()), "{}", answer.status);
    }
    let rejected = || world.metric("gateway", "holdfast_circuit_breaker_rejected_total", &["\"payment\""]);
    let (begin, before) = (Instant::now(), rejected().await);
    let mut times = Vec::new();
    for _ in 0..400 {
        let asked = Instant::now();
        let answer = user.get(&path).await.expect("answered");
        assert!([503, 504].contains(&answer.status.as_u16()), "{}", answer.status);
        if answer.status == 503 {
            assert_eq!(answer.headers["retry-after"], "1");
            assert_eq!(answer.headers["content-type"], "application/problem+json");
        }
        times.push(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The others were probes, one for each pause of the breaker: at least half a second of them, once it has grown.
    let probes = 400.0 - (rejected().await - before);
    assert!(probes <= 5.0 + 2.0 * begin.elapsed().as_secs_f64(), "{probes} of 400 asked the service");
    let refused = percentile(times, 50);
    assert!(refused <= healthy * 2, "a refusal takes {refused:?}, an answer {healthy:?} (medians)");
    // Other services are not affected.
    assert_eq!(user.get("/api/orders").await.expect("answered").status, 200);

    world.heal(Fault::Stall, "payment");
    let recovered = Instant::now();
    eventually("it is served again", || async { user.get(&path).await.expect("answered").status == 200 })
        .await;
    println!(
        "opened within {calls} calls, answered in {refused:?} while open ({healthy:?} before; medians), back after {:?}",
        recovered.elapsed()
    );
}

/// One of two order replicas is killed with -9 under load, three times: clients see no read and no write fail, and both
/// replicas are used before and after.
#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_a_replica_is_not_seen_by_clients() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::with_two_order_replicas(&TIMED);
    settled(&world).await;
    let user = world.user("replica", "1000.00").await;
    let order = id(&world.create(&user, "1 Replica Road", 100).await);
    eventually("the order is delivered", || async {
        is_terminal(&user.order(&order).await.expect("answered"))
    })
    .await;
    let calls =
        async |component: &str| world.metric(component, "rpc_server_call_duration_seconds_count", &[]).await;
    let before = (calls("order").await, calls("order-2").await);
    assert!(before.0 > 0.0 && before.1 > 0.0, "both are used: {before:?}");

    let killer = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            world.kill("order-2");
            eventually("it is back", || async { world.readyz("order-2").await.0 == 200 }).await;
        }
    };
    // Two at a time: what is left of a slow machine must not be overloaded by this test, whose subject is the death. With
    // more of them the replica that lives opens further connections to its database just then, and calls wait for these.
    let plan = Plan { rate: 100.0, requests: 900, clients: 2 };
    let client = user.clone();
    let load = open_loop(plan, move |number, _| {
        let user = client.clone();
        async move {
            let (asked, write) = (Instant::now(), number % 10 == 0);
            let answer = if write {
                user.create_order(&sample_order("1 Replica Road", 100), None).await
            } else {
                // Not one that the gateway knows: each must be a call.
                user.get("/api/orders?limit=1").await
            };
            let failure = match answer {
                Ok(answer) if [200, 201].contains(&answer.status.as_u16()) => None,
                Ok(answer) => Some(format!("write: {write}, {}", answer.json())),
                Err(error) => Some(format!("write: {write}, {error:#}")),
            };
            (failure, asked.elapsed())
        }
    });
    let (answers, ()) = tokio::join!(load, killer);
    let times: Vec<Duration> = answers.iter().map(|(_, time)| *time).collect();
    println!(
        "{} requests; p50 {:?}, p99 {:?}, slowest {:?}",
        answers.len(),
        percentile(times.clone(), 50),
        percentile(times.clone(), 99),
        percentile(times, 100)
    );
    let failed: Vec<&String> = answers.iter().filter_map(|(failure, _)| failure.as_ref()).collect();
    assert!(
        failed.is_empty(),
        "{} of {} failed: {:?}\n{}",
        failed.len(),
        answers.len(),
        &failed[..failed.len().min(5)],
        world.stack.log_ends(|component| component.kind == Kind::Service)
    );
    let retries = world.metric("gateway", "holdfast_grpc_client_retries_total", &["\"order\""]).await;
    assert!(retries > 0.0, "it was not by chance");
    settled(&world).await;
    let after = calls("order-2").await;
    eventually("the replica gets calls again", || async {
        user.get("/api/orders?limit=1").await.expect("answered");
        calls("order-2").await > after
    })
    .await;
}

/// Every identity is refused every method that the contract does not allow it, and gets an answer of the service itself
/// from the others.
#[tokio::test(flavor = "multi_thread")]
async fn each_identity_may_call_what_the_contract_says() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::with_two_order_replicas(&TIMED);
    settled(&world).await;
    let all = FileDescriptorSet::decode(holdfast_proto::DESCRIPTORS).expect("descriptors");
    let methods: Vec<(String, String)> = all
        .file
        .iter()
        .flat_map(|file| file.service.iter().map(|service| (file.package().to_owned(), service)))
        .flat_map(|(package, service)| {
            let full = format!("{package}.{}", service.name());
            service.method.iter().map(move |method| (full.clone(), method.name().to_owned()))
        })
        .collect();
    assert!(methods.len() >= 9, "{methods:?}");
    Pki::open(&world.stack.layout.pki_dir()).expect("there").ensure_leaf(CONSOLE).expect("issued");
    for caller in identities().chain([CONSOLE]) {
        for replica in Replicas::default().all() {
            let target = replica.participant.name;
            let destination = destination(&world, caller, target, world.stack.layout.grpc_port(replica));
            for (service, method) in &methods {
                let code = call(&destination, service, method).await;
                // The contract's table.
                let own = service.starts_with(&format!("holdfast.{target}."));
                let operators = service.starts_with("holdfast.ops.");
                let allowed =
                    (caller == GATEWAY && own) || ([OPERATOR, CONSOLE].contains(&caller) && operators);
                let refused = code == Code::PermissionDenied;
                assert_eq!(refused, !allowed, "{caller} -> {target}: {service}/{method} is {code:?}");
                if allowed && own {
                    assert_eq!(code, Code::InvalidArgument, "an empty message reaches the handler");
                }
            }
            assert_eq!(call(&destination, "grpc.health.v1.Health", "Check").await, Code::Ok, "{caller}");
        }
    }
}

/// A gateway that calls for one user and names another in its message, or whose user lacks the scope, is refused by each service.
/// One of an earlier version, which does not say for whom it calls, is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_somebody_else_is_refused() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::with_two_order_replicas(&TIMED);
    settled(&world).await;
    let alice = || "alice".to_owned();
    let order_id = || "01890000-0000-7000-8000-000000000000".to_owned();
    let to = |name: &str| {
        let mut replicas = Replicas::default().all();
        let replica = replicas.find(|replica| replica.participant.name == name).expect("it runs");
        destination(&world, GATEWAY, name, world.stack.layout.grpc_port(replica))
    };
    let mut orders = order::order_service_client::OrderServiceClient::new(to("order"));
    let mut payments = payment::payment_service_client::PaymentServiceClient::new(to("payment"));
    let mut deliveries = delivery::delivery_service_client::DeliveryServiceClient::new(to("delivery"));
    let everything = scope::ALL.as_slice();
    for (user, scopes, expected) in [
        (Some("alice"), everything, false),
        (Some("mallory"), everything, true),
        (Some("alice"), &["orders:none"][..], true),
        (None, &[][..], false),
    ] {
        let subject = user.map(|user| UserId::parse(user).expect("a user"));
        let subject = subject.map(|user| Subject::new(&user, scopes).expect("text"));
        macro_rules! refused {
            ($client:ident . $method:ident ( $message:expr )) => {{
                let mut request = Deadline::after(PATIENCE).request($message).expect("time");
                if let Some(subject) = &subject {
                    subject.write(request.metadata_mut());
                }
                let code = $client.$method(request).await.map_or_else(|status| status.code(), |_| Code::Ok);
                let refused = code == Code::PermissionDenied;
                assert_eq!(refused, expected, "{} for {user:?} is {code:?}", stringify!($method));
            }};
        }
        refused!(orders.create_order(order::CreateOrderRequest { user_id: alice(), ..Default::default() }));
        refused!(orders.get_order(order::GetOrderRequest { user_id: alice(), order_id: order_id() }));
        refused!(orders.list_orders(order::ListOrdersRequest { user_id: alice(), ..Default::default() }));
        refused!(orders.list_changed_orders(order::ListChangedOrdersRequest {
            user_id: alice(),
            page_size: 1,
            ..Default::default()
        }));
        refused!(payments.get_payment(payment::GetPaymentRequest { user_id: alice(), order_id: order_id() }));
        refused!(payments.get_account(payment::GetAccountRequest { user_id: alice() }));
        refused!(payments.credit_account(payment::CreditAccountRequest {
            user_id: "anybody".to_owned(),
            requested_by: alice(),
            ..Default::default()
        }));
        refused!(
            deliveries.get_delivery(delivery::GetDeliveryRequest { user_id: alice(), order_id: order_id() })
        );
    }
}

/// Money in a currency in which nobody has an account is refused by the service that would take it first: an order would never be
/// paid, an account opened in it could pay nothing.
#[tokio::test(flavor = "multi_thread")]
async fn money_of_another_currency_is_refused() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::with_two_order_replicas(&TIMED);
    settled(&world).await;
    let to = |name: &str| {
        let mut replicas = Replicas::default().all();
        let replica = replicas.find(|replica| replica.participant.name == name).expect("it runs");
        destination(&world, GATEWAY, name, world.stack.layout.grpc_port(replica))
    };
    let mut orders = order::order_service_client::OrderServiceClient::new(to("order"));
    let mut payments = payment::payment_service_client::PaymentServiceClient::new(to("payment"));
    let user = format!("currency-{}", Uuid::now_v7().simple());
    for (currency, expected) in [("USD", Code::InvalidArgument), ("EUR", Code::Ok)] {
        let money = Some(value::Money { minor_units: 100, currency: currency.to_owned() });
        let key = Uuid::now_v7().to_string();
        let credit = payment::CreditAccountRequest {
            user_id: user.clone(),
            amount: money.clone(),
            requested_by: user.clone(),
            idempotency_key: key.clone(),
        };
        let item = order::OrderItem { product_id: "tea".to_owned(), quantity: 1, price: money };
        let create = order::CreateOrderRequest {
            user_id: user.clone(),
            idempotency_key: key,
            delivery_address: "1 Quay Street".to_owned(),
            items: vec![item],
        };
        let code_of =
            |outcome: Result<(), tonic::Status>| outcome.map_or_else(|status| status.code(), |()| Code::Ok);
        // On a slow machine an attempt may take longer than it has; with its key it can be made again.
        let until = Instant::now() + PATIENCE;
        let codes = loop {
            let credited = code_of(payments.credit_account(credit.clone()).await.map(drop));
            let created = code_of(orders.create_order(create.clone()).await.map(drop));
            if ![credited, created].contains(&Code::Unavailable) {
                break [credited, created];
            }
            assert!(Instant::now() < until, "{currency}: {credited:?} and {created:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(codes, [expected; 2], "{currency}");
    }
}

fn destination(world: &World, caller: &str, target: &str, port: u16) -> Destination {
    let folder = world.stack.layout.pki_dir().join(caller);
    let identity = Identity::load(IdentityConfig::in_folder(&folder)).expect("issued at the start");
    let config = DestinationConfig {
        address: format!("127.0.0.1:{port}"),
        name: target.to_owned(),
        calls: CallsConfig::default(),
    };
    client::destination(&config, &identity, |_, _| false).expect("an address")
}

/// Calls any method with an empty message.
async fn call(destination: &Destination, service: &str, method: &str) -> Code {
    let mut client = tonic::client::Grpc::new(destination.clone());
    client.ready().await.expect("always");
    let path = http::uri::PathAndQuery::try_from(format!("/{service}/{method}")).expect("a path");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let request: Request<()> = Deadline::after(PATIENCE).request(()).expect("time is left");
    // An answer with fields doesn't decode as an empty message, but it is an answer.
    client.unary(request, path, codec).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// While one service is killed again and again, requests that don't need it succeed.
#[tokio::test(flavor = "multi_thread")]
async fn the_fall_of_one_service_takes_no_other_along() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::with_two_order_replicas(&TIMED);
    settled(&world).await;
    let user = world.user("bulkhead", "10.00").await;
    let stop = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (user, stop) = (user.clone(), stop.clone());
        async move {
            let mut answers = 0;
            while !stop.load(Ordering::SeqCst) {
                let answer = user.get("/api/orders").await.expect("answered");
                assert_eq!(answer.status, 200);
                answers += 1;
            }
            answers
        }
    });
    for _ in 0..3 {
        world.kill("delivery");
        eventually("it is back", || async { world.readyz("delivery").await.0 == 200 }).await;
    }
    stop.store(true, Ordering::SeqCst);
    assert!(reader.await.expect("no request failed") > 10);
}
