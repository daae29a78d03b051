//! The broker loses records that it had acknowledged. Everything moves again by itself, `holdfast reconcile` finds the events that
//! were lost and has them re-emitted; then every order ends, and nobody was charged twice.

use std::collections::BTreeSet;

use holdfast_chaos::{
    fault::{Fault, disk::BrokerDisk, process::Stopped},
    rest::{Session, is_terminal},
};
use holdfast_common::{
    client::{self, CallsConfig, DestinationConfig},
    config::IdentityConfig,
    deadline::Deadline,
    identity::Identity,
};
use holdfast_e2e::{PATIENCE, World, eventually, id};
use holdfast_native::layout::{PARTICIPANTS, Replica};
use holdfast_proto::{
    ops::v1::{self as pb, reconcile_service_client::ReconcileServiceClient},
    topic,
};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    message::{Header, Headers as _, OwnedHeaders},
    producer::FutureRecord,
};
use serde_json::Value;
use tokio::sync::Mutex;
use uuid::Uuid;

/// These tests break the one broker of this file: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The broker's disk as it is now.
async fn disk_of(world: &World) -> BrokerDisk {
    let broker = world.stack.pid("kafka").expect("it runs");
    BrokerDisk::of(broker, world.stack.layout.kafka_dir().join("logs")).await.expect("copied")
}

/// The broker is killed, and has this disk when it is started again. The supervisor, which would start it at once, must be stopped.
async fn comes_back(disk: &BrokerDisk, world: &World) {
    disk.comes_back(world.stack.pid("kafka").expect("it runs")).await.expect("replaced");
}

/// The supervisor is stopped: what ends stays down, and a service that is stopped is not taken for deaf.
fn unsupervised(world: &World) -> Stopped {
    Stopped::alone(world.stack.supervisor_pid()).expect("it runs")
}

/// Nothing waits in the outbox of a service.
async fn is_published(world: &World, service: &str) -> bool {
    world.count(service, "select count(*) from outbox where topic <> $1", "").await == 0
}

async fn count(world: &World, service: &str, sql: &'static str, user: &Session) -> i64 {
    world.count(service, sql, &user.user).await
}

/// Some orders of a user, of which every third can't be delivered.
async fn some_orders(world: &World, user: &Session, number: u32) -> Vec<String> {
    let mut orders = Vec::new();
    for n in 0..number {
        let address = if n % 3 == 0 { "UNDELIVERABLE 1" } else { "1 Quay Street" };
        orders.push(id(&world.create(user, address, 100 + n).await));
    }
    orders
}

/// These many orders of a user are paid, and order has heard nothing of their deliveries.
async fn are_paid(world: &World, user: &Session, number: i64) {
    eventually("they are paid", || async {
        let sql =
            "select count(*) from orders where user_id = $1 and status = 'PAID' and delivery_status is null";
        count(world, "order", sql, user).await == number
    })
    .await;
}

async fn all_end(user: &Session, orders: &[String]) {
    for order in orders {
        eventually(&format!("order {order} ends"), || async {
            user.order(order).await.is_ok_and(|order| is_terminal(&order))
        })
        .await;
    }
}

/// Every producer and every consumer works: an order goes through all of them and back.
async fn everything_moves(world: &World, user: &Session) {
    let orders = some_orders(world, user, 3).await;
    all_end(user, &orders).await;
    for service in ["order", "payment", "delivery", "gateway"] {
        eventually(&format!("{service} is well"), || async { world.is_well(service).await }).await;
    }
}

/// Topic and reader of each event that is lost, for these orders; nothing else is lost.
fn lost(document: &Value, orders: &[String]) -> BTreeSet<(String, String, Vec<String>)> {
    let events = document["events"].as_array().expect("a list").iter();
    events
        .map(|event| {
            let text = |name: &str| event[name].as_str().expect("a text").to_owned();
            assert_eq!(event["state"], "lost", "{event}");
            assert!(orders.contains(&text("order_id")), "{event}");
            let readers = event["missing_at"].as_array().expect("a list").iter();
            let readers = readers.map(|reader| reader.as_str().expect("a text").to_owned());
            (text("order_id"), text("topic"), readers.collect())
        })
        .collect()
}

/// The lost events are shown, a dry run changes nothing, `--execute` has them re-emitted, and every order ends.
async fn lost_events_are_re_emitted(
    world: &World,
    user: &Session,
    orders: &[String],
) -> BTreeSet<(String, String, Vec<String>)> {
    let audited = async || {
        let mut sum = 0;
        for service in ["order", "payment", "delivery"] {
            sum +=
                world.count(service, "select count(*) from outbox_audit where action = $1", "re-emit").await;
        }
        sum
    };
    let before = audited().await;
    let (found, code) = world.reconcile(&["--older-than", "0s"]).await;
    assert_eq!(code, 0, "{found:#}");
    let events = lost(&found, orders);
    assert_eq!(audited().await, before, "a dry run changes nothing");

    let (done, code) =
        world.reconcile(&["--older-than", "0s", "--execute", "--reason", "the broker lost its tail"]).await;
    assert_eq!(code, 0, "{done:#}");
    let emitted = done["events"].as_array().expect("a list");
    assert!(emitted.iter().all(|event| event["state"] == "re-emitted"), "{done:#}");
    assert!(emitted.len() >= events.len(), "{done:#}");
    assert_eq!(audited().await - before, i64::try_from(emitted.len()).expect("few"), "each is in the audit");
    all_end(user, orders).await;
    let (rest, code) = world.reconcile(&["--older-than", "0s"]).await;
    assert_eq!(code, 3, "nothing is lost any more: {rest:#}");
    world.invariants_hold().await;
    events
}

/// The broker comes back with an older disk while payment and delivery have still to read what it had acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn the_broker_loses_its_tail() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("tail", "1000.00").await;
    let first = some_orders(&world, &user, 3).await;
    all_end(&user, &first).await;

    let disk = disk_of(&world).await;
    let unsupervised = unsupervised(&world);
    world.apply(Fault::Stall, "delivery");
    let paid = some_orders(&world, &user, 6).await;
    are_paid(&world, &user, 6).await;
    eventually("payment has published all", || is_published(&world, "payment")).await;
    world.apply(Fault::Stall, "payment");
    let created = some_orders(&world, &user, 6).await;
    eventually("order has published all", || is_published(&world, "order")).await;
    comes_back(&disk, &world).await;
    world.heal(Fault::Stall, "payment");
    world.heal(Fault::Stall, "delivery");
    drop(unsupervised);

    everything_moves(&world, &user).await;
    for service in ["order", "payment", "delivery"] {
        let replaced = world.metric(service, "holdfast_outbox_producer_replacements_total", &[]).await;
        eprintln!("{service}: {replaced} producers replaced so far");
    }
    let orders = [paid.clone(), created.clone()].concat();
    let expected = |orders: &[String], topic: &str, reader: &str| {
        let of = |order: &String| (order.clone(), topic.to_owned(), vec![reader.to_owned()]);
        orders.iter().map(of).collect::<BTreeSet<_>>()
    };
    let lost = lost_events_are_re_emitted(&world, &user, &orders).await;
    let mut all = expected(&paid, "payment.completed", "delivery");
    all.extend(expected(&created, "order.created", "payment"));
    assert!(lost.is_subset(&all), "{lost:#?}");
    // One record of each topic may have been in its reader's hands already.
    assert!(lost.len() >= all.len() - 2, "{lost:#?}");
}

/// The broker comes back with an older disk while order has still to read of deliveries and refunds, which are lost.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_order_is_lost() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("end", "1000.00").await;
    everything_moves(&world, &user).await;
    let disk = disk_of(&world).await;
    let unsupervised = unsupervised(&world);
    let orders = some_orders(&world, &user, 6).await;
    eventually("order has published all", || is_published(&world, "order")).await;
    world.apply(Fault::Stall, "order");
    eventually("two are refunded, four delivered", || async {
        let refunded = "select count(*) from payments where user_id = $1 and status = 'REFUNDED'";
        let delivered = "select count(*) from deliveries where user_id = $1 and status = 'DELIVERED'";
        count(&world, "payment", refunded, &user).await == 3
            && count(&world, "delivery", delivered, &user).await == 6
    })
    .await;
    for service in ["payment", "delivery"] {
        eventually("all is published", || is_published(&world, service)).await;
    }
    comes_back(&disk, &world).await;
    world.heal(Fault::Stall, "order");
    drop(unsupervised);

    everything_moves(&world, &user).await;
    let lost = lost_events_are_re_emitted(&world, &user, &orders).await;
    assert!(lost.iter().all(|(_, _, readers)| readers == &["order"]), "{lost:#?}");
    let topics: BTreeSet<&str> = lost.iter().map(|(_, topic, _)| topic.as_str()).collect();
    assert!(topics.contains("delivery.status.updated") && topics.contains("payment.refunded"), "{lost:#?}");
    let charged = "select count(*) from ledger_entries where user_id = $1 and kind = 'CHARGE'";
    assert_eq!(count(&world, "payment", charged, &user).await, 12, "once each");
}

/// The log of a topic is truncated, and grows past a reader's position before the reader sees it again: the new records are read
/// all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_grows_again_is_read() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("grows", "1000.00").await;
    everything_moves(&world, &user).await;
    let disk = disk_of(&world).await;
    let before = some_orders(&world, &user, 6).await;
    all_end(&user, &before).await;

    let unsupervised = unsupervised(&world);
    comes_back(&disk, &world).await;
    world.apply(Fault::Stall, "delivery");
    drop(unsupervised);
    let after = some_orders(&world, &user, 12).await;
    are_paid(&world, &user, 12).await;
    eventually("payment has published all", || is_published(&world, "payment")).await;
    world.heal(Fault::Stall, "delivery");
    all_end(&user, &after).await;
    everything_moves(&world, &user).await;
    world.invariants_hold().await;
}

/// A topic is deleted with what a reader has still to read of it, and recreated. The broker was restarted since the old topic
/// was created: the leader's epoch goes back, which clients of the old one don't believe.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_deleted() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("deleted", "1000.00").await;
    everything_moves(&world, &user).await;
    world.restart("kafka").await;
    everything_moves(&world, &user).await;
    world.apply(Fault::Stall, "delivery");
    let orders = some_orders(&world, &user, 6).await;
    are_paid(&world, &user, 6).await;
    eventually("payment has published all", || is_published(&world, "payment")).await;
    remake_topic(&world, topic::PAYMENT_COMPLETED).await;
    world.heal(Fault::Stall, "delivery");

    everything_moves(&world, &user).await;
    let lost = lost_events_are_re_emitted(&world, &user, &orders).await;
    assert!(lost.len() >= orders.len() - 1, "{lost:#?}");
    assert!(lost.iter().all(|(_, topic, readers)| topic == "payment.completed" && readers == &["delivery"]));
}

async fn remake_topic(world: &World, name: &str) {
    let admin: AdminClient<DefaultClientContext> = world.kafka().create().expect("a client");
    let deleted = admin.delete_topics(&[name], &AdminOptions::new()).await.expect("the broker answers");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    eventually("the name is free again", || async {
        let topic = NewTopic::new(name, 4, TopicReplication::Fixed(1));
        let made = admin.create_topics([&topic], &AdminOptions::new()).await.expect("the broker answers");
        made.iter().all(Result::is_ok)
    })
    .await;
}

/// An event that waits in an outbox is not called lost and is left alone; an order that lost nothing is not shown.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_an_outbox_is_not_lost() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("waits", "1000.00").await;
    let orders = some_orders(&world, &user, 2).await;
    all_end(&user, &orders).await;
    let (nothing, code) = world.reconcile(&["--older-than", "0s"]).await;
    assert_eq!(code, 3, "{nothing:#}");
    let (ended, code) = world.reconcile(&["--order", &orders[0], "--order", &orders[1]]).await;
    assert_eq!((code, &ended["orders"]), (3, &Value::from(2)), "{ended:#}");

    world.apply(Fault::Stall, "kafka");
    let waiting = id(&world.create(&user, "1 Waiting Street", 100).await);
    let (found, code) = world.reconcile(&["--older-than", "0s", "--execute", "--reason", "a trial"]).await;
    world.heal(Fault::Stall, "kafka");
    assert_eq!(code, 4, "not all could be done: {found:#}");
    let events = found["events"].as_array().expect("a list");
    assert_eq!(events.len(), 1, "{found:#}");
    let expected = (&Value::from(waiting.as_str()), &Value::from("waiting"));
    assert_eq!((&events[0]["order_id"], &events[0]["state"]), expected);
    all_end(&user, &[waiting]).await;
    world.invariants_hold().await;
}

/// Events that wait behind a dead letter are not called lost; the letter is named as the reason.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_dead_letter_is_not_lost() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("behind", "1000.00").await;
    world.apply(Fault::Stall, "payment");
    let order = id(&world.create(&user, "1 Letter Street", 100).await);
    send_rubbish(&world, topic::PAYMENT_COMPLETED, &user, &order).await;
    world.heal(Fault::Stall, "payment");
    let parked = "select count(*) from dead_letters where state = 'parked' and subject = $1";
    for service in ["order", "delivery"] {
        eventually("two are parked, one behind the other", || async {
            world.count(service, parked, &order).await == 2
        })
        .await;
    }
    let (found, code) = world.reconcile(&["--older-than", "0s"]).await;
    assert_eq!(code, 3, "{found:#}");
    let blocked = found["blocked"].as_array().expect("a list").iter();
    let services: BTreeSet<&str> =
        blocked.map(|letter| letter["service"].as_str().expect("a name")).collect();
    assert_eq!(services, BTreeSet::from(["delivery", "order"]), "{found:#}");
    for letter in found["blocked"].as_array().expect("a list") {
        let id = letter["dead_letter_id"].as_str().expect("an id");
        let discarded = world.dlq(&["discard", id, "--reason", "rubbish", "--yes"]).await;
        assert!(discarded.status.success(), "{discarded:?}");
    }
    let redriven = world.dlq(&["redrive", "--order", &order, "--execute"]).await;
    assert!(redriven.status.success(), "{redriven:?}");
    all_end(&user, &[order]).await;
}

/// An event of an order that nobody can decode.
async fn send_rubbish(world: &World, topic: &str, user: &Session, order: &str) {
    let (event_id, kind) = (Uuid::now_v7().to_string(), format!("holdfast.{topic}.v1"));
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", &event_id),
        ("ce_source", "/holdfast/nobody"),
        ("ce_type", &kind),
        ("ce_subject", order),
        ("ce_time", "2026-01-31T12:00:00Z"),
        ("content-type", "application/protobuf"),
    ]
    .into_iter()
    .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
    let record = FutureRecord::to(topic).key(&user.user).payload("rubbish").headers(headers);
    world.producer().send(record, PATIENCE).await.expect("acknowledged");
}

/// The events that are rebuilt from the rows have the ids of those that were written, and therefore their content, to the byte.
#[tokio::test(flavor = "multi_thread")]
async fn rebuilt_events_are_those_that_were_written() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let world = World::new();
    let user = world.user("proof", "10.00").await;
    let mut orders = some_orders(&world, &user, 4).await;
    orders.push(id(&world.create(&user, "1 Poor Street", 100_000).await));
    all_end(&user, &orders).await;
    let mut proven = BTreeSet::new();
    for service in ["order", "payment", "delivery"] {
        proven.extend(proven_by(&world, service, &orders).await);
    }
    // Three delivered, two not, one of them for want of money: created, completed, four steps each, refunded.
    assert_eq!(proven.len(), 5 + 5 + 4 * 4 + 2, "{proven:#?}");
    let written = tokio::task::spawn_blocking(move || written_of(&world, &orders)).await.expect("no panic");
    assert_eq!(proven, written);
}

/// Topic and id of the events that the rows of a service prove.
async fn proven_by(world: &World, service: &str, orders: &[String]) -> Vec<(String, String)> {
    let participant = PARTICIPANTS.iter().find(|participant| participant.name == service).expect("ours");
    let port = world.stack.layout.grpc_port(Replica { participant, number: 0 });
    let folder = world.stack.layout.pki_dir().join("operator");
    let identity = Identity::load(IdentityConfig::in_folder(&folder)).expect("issued at the start");
    let config = DestinationConfig {
        address: format!("127.0.0.1:{port}"),
        name: service.to_owned(),
        calls: CallsConfig::default(),
    };
    let destination = client::destination(&config, &identity, |_, _| false).expect("an address");
    let request = pb::ListWrittenEventsRequest { subjects: orders.to_vec() };
    let request = Deadline::after(PATIENCE).request(request).expect("time is left");
    let answer = ReconcileServiceClient::new(destination).list_written_events(request).await;
    let events = answer.expect("answered").into_inner().events.into_iter();
    events.map(|event| (event.topic, event.event_id)).collect()
}

/// Topic and id of the events of these orders that the topics hold.
fn written_of(world: &World, orders: &[String]) -> BTreeSet<(String, String)> {
    let consumer: BaseConsumer = world.kafka().set("group.id", "proof").create().expect("a consumer");
    let mut places = TopicPartitionList::new();
    let mut left = 0;
    for topic in topic::EVENT_TOPICS {
        for partition in 0..4 {
            let (first, end) = consumer.fetch_watermarks(topic, partition, PATIENCE).expect("answered");
            left += end - first;
            places.add_partition_offset(topic, partition, Offset::Beginning).expect("a place");
        }
    }
    consumer.assign(&places).expect("assigned");
    let mut written = BTreeSet::new();
    while left > 0 {
        let record = consumer.poll(PATIENCE).expect("there is more").expect("read");
        left -= 1;
        let header = |name: &str| {
            let found = record.headers().expect("it has some").iter().find(|header| header.key == name);
            String::from_utf8_lossy(found.and_then(|header| header.value).unwrap_or_default()).into_owned()
        };
        if orders.contains(&header("ce_subject")) {
            written.insert((record.topic().to_owned(), header("ce_id")));
        }
    }
    written
}
