//! Traces as a collector gets them: one order is one trace, a redrive another one that is linked to it, and a collector that is away
//! is nobody's problem.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    sync::OnceLock,
};

use holdfast_chaos::{fault::Fault, rest::is_terminal};
use holdfast_e2e::{
    World,
    collector::{Collector, Mood, Received},
    eventually, id,
    log_collection::Collection,
};
use holdfast_native::layout::{Replicas, Scope, service_names};
use holdfast_proto::hexadecimal;
use holdfast_testkit::stack::TestStack;
use serde_json::Value;
use tokio::sync::Mutex;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
/// An address that must not be in any span.
const ADDRESS: &str = "7 Sentinel Street";
const ABSENT: &str = "a span that is not there";
/// Of a delivery, its creation included.
const STEPS: usize = 4;

fn collector() -> &'static Collector {
    static COLLECTOR: OnceLock<Collector> = OnceLock::new();
    COLLECTOR.get_or_init(Collector::start)
}

fn world() -> World {
    static STACK: OnceLock<TestStack> = OnceLock::new();
    World::of(STACK.get_or_init(|| {
        let endpoint = format!("http://{}", collector().address);
        TestStack::start(
            Scope::Everything,
            &[],
            &[
                ("HOLDFAST__DELIVERY__STEP", "50ms"),
                ("HOLDFAST__SERVICE__TRACES__ENDPOINT", endpoint.as_str()),
            ],
        )
    }))
}

async fn delivered(world: &World, order_id: &str) {
    let sql = "select count(*) from orders where order_id::text = $1 and delivery_status = 'DELIVERED'";
    eventually("the order is delivered", || async { world.count("order", sql, order_id).await == 1 }).await;
}

/// The id of the one trace that an order has so far.
async fn trace_of(order_id: &str) -> Vec<u8> {
    let traces = || collector().traces_with("holdfast.subject", order_id);
    eventually("a span of the order arrives", || async { !traces().is_empty() }).await;
    only(traces())
}

fn named(spans: Vec<Received>, title: &str) -> Vec<Received> {
    spans.into_iter().filter(|received| received.title() == title).collect()
}

/// The one span of a trace with this title.
async fn span_of(trace_id: &[u8], title: &str) -> Received {
    let found = || named(collector().trace(trace_id), title);
    eventually(&format!("{title} is reported"), || async { !found().is_empty() }).await;
    only(found())
}

/// Each span of a trace with its parent, by their titles, and how often.
fn tree(spans: &[Received]) -> BTreeMap<(String, String), usize> {
    let titles: HashMap<&[u8], String> =
        spans.iter().map(|received| (received.span.span_id.as_slice(), received.title())).collect();
    let mut tree = BTreeMap::new();
    for received in spans {
        let parent = received.span.parent_span_id.as_slice();
        let parent = if parent.is_empty() {
            "-".to_owned()
        } else {
            titles.get(parent).cloned().unwrap_or_else(|| ABSENT.to_owned())
        };
        *tree.entry((received.title(), parent)).or_default() += 1;
    }
    tree
}

fn only<T: Clone>(items: impl IntoIterator<Item = T>) -> T {
    let items: Vec<T> = items.into_iter().collect();
    assert_eq!(items.len(), 1, "exactly one");
    items[0].clone()
}

/// What must not be in any span.
fn nothing_is_private(user: &str) {
    let text = format!("{:?}", collector().received());
    for private in [ADDRESS, user, "postgres://", "Bearer", "eyJ"] {
        assert!(!text.contains(private), "{private} is in a span");
    }
}

/// From the request to the last step of the delivery, over three services and Kafka: one trace, each span below the one that has
/// caused it, and nothing in it that is private.
#[tokio::test(flavor = "multi_thread")]
async fn one_order_is_one_trace() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, collector) = (world(), collector());
    let session = world.user("traced", "100.00").await;
    let order_id = id(&world.create(&session, ADDRESS, 300).await);
    delivered(&world, &order_id).await;

    let call = "holdfast.order.v1.OrderService/CreateOrder";
    let statement = |name: &str| (format!("order client {name}"), format!("order server {call}"), 1);
    let expected: BTreeMap<(String, String), usize> = [
        ("gateway server POST /api/orders".to_owned(), "-".to_owned(), 1),
        (format!("gateway client {call}"), "gateway server POST /api/orders".to_owned(), 1),
        (format!("order server {call}"), format!("gateway client {call}"), 1),
        ("order producer create order.created".to_owned(), format!("order server {call}"), 1),
        statement("order.insert_order"),
        (
            "payment consumer process order.created".to_owned(),
            "order producer create order.created".to_owned(),
            1,
        ),
        (
            "payment producer create payment.completed".to_owned(),
            "payment consumer process order.created".to_owned(),
            1,
        ),
        (
            "order consumer process payment.completed".to_owned(),
            "payment producer create payment.completed".to_owned(),
            1,
        ),
        (
            "delivery consumer process payment.completed".to_owned(),
            "payment producer create payment.completed".to_owned(),
            1,
        ),
        (
            "delivery producer create delivery.status.updated".to_owned(),
            "delivery consumer process payment.completed".to_owned(),
            STEPS,
        ),
        (
            "order consumer process delivery.status.updated".to_owned(),
            "delivery producer create delivery.status.updated".to_owned(),
            STEPS,
        ),
        (
            "payment consumer process delivery.status.updated".to_owned(),
            "delivery producer create delivery.status.updated".to_owned(),
            STEPS,
        ),
    ]
    .into_iter()
    .map(|(span, parent, count)| ((span, parent), count))
    .collect();
    let trace_id = trace_of(&order_id).await;
    let all = expected.values().sum::<usize>();
    eventually("all spans have arrived", || async { collector.trace(&trace_id).len() >= all }).await;
    let spans = collector.trace(&trace_id);
    assert_eq!(tree(&spans), expected);
    for received in &spans {
        let span = &received.span;
        assert!(!received.is_failed() && span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        assert_eq!(span.flags & 1, 1, "it is sampled");
    }

    // What sends records belongs to no order, and is linked to the creation of each.
    let creations: Vec<&Received> =
        spans.iter().filter(|received| received.span.name.starts_with("create ")).collect();
    for creation in creations {
        let id = &creation.span.span_id;
        eventually("it was sent", || async {
            let sent =
                collector.received().into_iter().filter(|received| received.span.name.starts_with("send"));
            let linked = sent.filter(|sent| sent.span.links.iter().any(|link| link.span_id == *id));
            linked.count() == 1
        })
        .await;
    }
    let insert = only(named(spans, "order client order.insert_order"));
    for (key, value) in [
        ("db.system.name", "postgresql"),
        ("db.namespace", "orders"),
        ("db.query.summary", "order.insert_order"),
    ] {
        assert_eq!(insert.attribute(key).as_deref(), Some(value), "{insert:?}");
    }
    nothing_is_private(&session.user);
}

/// The transaction over a batch of events serves several orders, so it is a trace of its own with its statements, which the span of
/// each event is linked to.
#[tokio::test(flavor = "multi_thread")]
async fn the_statements_of_a_batch_are_found_from_its_events() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, collector) = (world(), collector());
    let session = world.user("batched", "100.00").await;
    // The first batch of a partition has to make its position, with a statement more; all orders of a user are in the same ones.
    delivered(&world, &id(&world.create(&session, ADDRESS, 300).await)).await;
    let order_id = id(&world.create(&session, ADDRESS, 300).await);
    delivered(&world, &order_id).await;
    let trace_id = trace_of(&order_id).await;
    for (service, event, statements) in [
        ("payment", "order.created", ["payment.lock_payments_and_accounts", "payment.save"].as_slice()),
        ("order", "payment.completed", &["order.lock_orders", "order.update_orders"]),
        ("delivery", "payment.completed", &["delivery.deliveries_of_orders", "delivery.insert_deliveries"]),
    ] {
        let handling = span_of(&trace_id, &format!("{service} consumer process {event}")).await;
        let batch_trace = only(handling.span.links.iter().map(|link| link.trace_id.clone()));
        let root = span_of(&batch_trace, &format!("{service} consumer process batch")).await;
        assert_eq!(handling.span.links[0].span_id, root.span.span_id);
        assert_eq!(root.attribute("messaging.batch.message_count").as_deref(), Some("1"), "{root:?}");
        let of_every_batch = ["inbox.lock_and_insert", "COMMIT"];
        let statements = statements.iter().chain(&of_every_batch);
        let below = statements.map(|name| (format!("{service} client {name}"), root.title(), 1));
        let expected: BTreeMap<(String, String), usize> = below
            .chain([(root.title(), "-".to_owned(), 1)])
            .map(|(span, parent, count)| ((span, parent), count))
            .collect();
        eventually("the batch is reported", || async {
            collector.trace(&batch_trace).len() >= expected.len()
        })
        .await;
        assert_eq!(tree(&collector.trace(&batch_trace)), expected);
    }
}

/// Each attempt that gets no answer is seen below its call, with the address that it was made at.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_without_an_answer_is_seen() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = world();
    let session = world.user("unanswered", "1.00").await;
    world.apply(Fault::Stall, "payment");
    let answer = session.get(&format!("/api/accounts/{}", session.user)).await.expect("answered");
    world.heal(Fault::Stall, "payment");
    assert!([503, 504].contains(&answer.status.as_u16()), "{}", answer.status);
    let trace_id = answer.json()["instance"].as_str().expect("a trace id").to_owned();
    let trace_id = u128::from_str_radix(&trace_id, 16).expect("hexadecimal").to_be_bytes();

    let method = "holdfast.payment.v1.PaymentService/GetAccount";
    let call = span_of(&trace_id, &format!("gateway client {method}")).await;
    let title = format!("gateway client attempt {method}");
    eventually("its attempts are reported", || async {
        !named(collector().trace(&trace_id), &title).is_empty()
    })
    .await;
    let attempts = named(collector().trace(&trace_id), &title);
    let payment = only(Replicas::default().all().filter(|replica| replica.name() == "payment"));
    let port = world.stack.layout.grpc_port(payment).to_string();
    for attempt in attempts {
        assert_eq!(attempt.span.parent_span_id, call.span.span_id);
        assert!(attempt.is_failed(), "{attempt:?}");
        assert_eq!(attempt.attribute("server.port"), Some(port.clone()));
    }
    eventually("payment serves again", || world.is_well("gateway")).await;
}

/// A letter's redrive is a trace of its own, below the operator's call, with links to where the letter comes from; what it causes
/// belongs to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_is_a_trace_of_its_own() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, collector) = (world(), collector());
    let session = world.user("redriven", "100.00").await;
    let mut payments = world.connect("payment").await;
    let refuse = "
        create function refuse() returns trigger language plpgsql as
            $$ begin raise exception 'refused: 7 Sentinel Street' using errcode = '23514'; end $$;
        create trigger refuse before insert on payments for each row execute function refuse()";
    sqlx::raw_sql(refuse).execute(&mut payments).await.expect("refusing");
    let order_id = id(&world.create(&session, ADDRESS, 300).await);
    let parked = "select count(*) from dead_letters where subject = $1 and state = 'parked'";
    eventually("it is parked", || async { world.count("payment", parked, &order_id).await == 1 }).await;
    let accept = "drop trigger refuse on payments; drop function refuse";
    sqlx::raw_sql(accept).execute(&mut payments).await.expect("accepting");
    let first = trace_of(&order_id).await;
    let parking_title = "payment consumer process order.created";
    let parking = span_of(&first, parking_title).await;
    assert!(parking.is_failed(), "{parking:?}");
    assert_eq!(parking.attribute("error.type").as_deref(), Some("attempts-exhausted"));
    let letter = parking.attribute("holdfast.dead_letter.id").expect("it is named");
    let refused = |received: &Received| {
        received.span.name == "payment.save"
            && received.is_failed()
            && received.attribute("db.response.status_code").as_deref() == Some("23514")
    };
    eventually("the statement that was refused is reported", || async {
        collector.received().iter().any(refused)
    })
    .await;
    // The message of the refusal has the address, which no span says.
    nothing_is_private(&session.user);

    let log = fs::read_to_string(world.stack.layout.log_file("payment")).expect("a log");
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = only(lines.filter(|line| line["dlq.id"] == letter.as_str()));
    assert_eq!(line["trace_id"], hexadecimal(&first), "{line}");
    assert_eq!(line["span_id"], hexadecimal(&parking.span.span_id), "{line}");
    assert_eq!((&line["order_id"], &line["service.name"]), (&order_id.as_str().into(), &"payment".into()));
    let collection = Collection::shipped();
    let logs = service_names().filter(|service| collection.takes(service));
    let logs = logs.map(|service| fs::read_to_string(world.stack.layout.log_file(service)).expect("a log"));
    let logs: Vec<String> = logs.collect();
    assert_eq!(logs.len(), service_names().count());
    // The last line may be half written.
    collection.check(logs.iter().flat_map(|log| log[..=log.rfind('\n').expect("a line")].lines()));

    let (done, code) = world.dlq_json(&["redrive", &letter, "--execute"]).await;
    assert_eq!((done["redriven"].as_u64(), code), (Some(1), 0), "{done}");
    delivered(&world, &order_id).await;
    let is_complete = || async {
        let ids = collector.traces_with("holdfast.subject", &order_id);
        ids.iter().filter(|id| **id != first).any(|id| {
            named(collector.trace(id), "order consumer process delivery.status.updated").len() == STEPS
        })
    };
    eventually("all that the redrive has caused is reported", is_complete).await;
    let second =
        only(collector.traces_with("holdfast.subject", &order_id).into_iter().filter(|id| *id != first));
    let root = span_of(&second, "payment server holdfast.ops.v1.DeadLetterService/RedriveDeadLetters").await;
    assert!(root.span.parent_span_id.is_empty());
    let again = span_of(&second, parking_title).await;
    assert_eq!(again.span.parent_span_id, root.span.span_id);
    assert!(!again.is_failed());
    let created = span_of(&first, "order producer create order.created").await;
    let links: Vec<_> = again.span.links.iter().map(|link| (&link.trace_id, &link.span_id)).collect();
    assert_eq!(links, [(&first, &created.span.span_id), (&first, &parking.span.span_id)]);
    let caused = span_of(&second, "payment producer create payment.completed").await;
    assert_eq!(caused.span.parent_span_id, again.span.span_id);
    let is_whole = || tree(&collector.trace(&second)).keys().all(|(_, parent)| parent != ABSENT);
    eventually("no parent is missing", || async { is_whole() }).await;
}

/// A collector that hangs, or refuses, is seen in the readiness body and in a metric, and fails nothing; when it is back, spans
/// arrive again.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_is_nobodys_problem() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (world, collector) = (world(), collector());
    let session = world.user("unseen", "100.00").await;
    for mood in [Mood::Hangs, Mood::Refuses] {
        collector.set(mood);
        let answer = session
            .create_order(&holdfast_chaos::rest::sample_order(ADDRESS, 300), None)
            .await
            .expect("answered");
        assert_eq!(answer.status, 201, "{mood:?}: {:?}", answer.body);
        let order_id = id(&answer.json());
        delivered(&world, &order_id).await;
        assert!(is_terminal(&session.order(&order_id).await.expect("there")), "{mood:?}");
        for service in service_names() {
            eventually("it says so, and is ready", || async {
                let (status, body) = world.readyz(service).await;
                status == 200 && body["degraded"] == true && body["components"]["traces"]["ready"] == false
            })
            .await;
        }
        collector.set(Mood::Takes);
        for service in service_names() {
            eventually("it is well again", || world.is_well(service)).await;
            let exported =
                world.metric(service, "holdfast_traces_spans_total", &["outcome=\"exported\""]).await;
            assert!(exported > 0.0, "{service}");
        }
        eventually("what waited has arrived", || async {
            collector.traces_with("holdfast.subject", &order_id).len() == 1
        })
        .await;
    }
}
