//! Bad events on the real topics: each becomes a dead letter of the right class with its bytes unchanged, nothing is
//! lost, and the services keep running.

use std::time::Duration;

use holdfast_chaos::rest::is_terminal;
use holdfast_e2e::{PATIENCE, World, eventually, id};
use holdfast_proto::{order::v1 as order, payment::v1 as payment, r#type::v1::Money};
use prost::Message as _;
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::{Header, Headers as _, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use uuid::Uuid;

const TOPIC: &str = "payment.completed";

/// A record as any client could send it.
#[derive(Clone)]
struct Draft {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

impl Draft {
    /// A good event for this order.
    fn new(order_id: &str, user: &str, cents: i64) -> Self {
        let message = payment::PaymentCompleted {
            payment_id: Uuid::now_v7().to_string(),
            order_id: order_id.to_owned(),
            user_id: user.to_owned(),
            amount: Some(Money { minor_units: cents, currency: "EUR".to_owned() }),
            status: payment::PaymentStatus::Success.into(),
            delivery_address: "1 Quay Street".to_owned(),
            completed_at: None,
        };
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        Self {
            key: Some(user.as_bytes().to_vec()),
            value: Some(message.encode_to_vec()),
            headers: vec![
                header("ce_specversion", "1.0"),
                header("ce_id", &Uuid::now_v7().to_string()),
                header("ce_source", "/holdfast/payment"),
                header("ce_type", "holdfast.payment.completed.v1"),
                header("ce_subject", order_id),
                header("ce_time", "2026-01-01T00:00:00Z"),
                header("content-type", "application/protobuf"),
            ],
        }
    }

    fn with(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.retain(|(n, _)| n != name);
        self.headers.push((name.to_owned(), value.to_vec()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| n != name);
        self
    }

    fn value(mut self, value: Option<&[u8]>) -> Self {
        self.value = value.map(<[u8]>::to_vec);
        self
    }

    async fn send(&self, producer: &FutureProducer) -> (i32, i64) {
        let mut headers = OwnedHeaders::new();
        for (name, value) in &self.headers {
            headers = headers.insert(Header { key: name, value: Some(value) });
        }
        let mut record = FutureRecord::<[u8], [u8]>::to(TOPIC).headers(headers);
        record.key = self.key.as_deref();
        record.payload = self.value.as_deref();
        let delivery = producer.send(record, Duration::from_secs(30)).await.expect("acknowledged");
        (delivery.partition, delivery.offset)
    }
}

/// All copies in a dead-letter topic, by the place of their originals.
fn read_copies(world: &World, group: &str) -> Vec<((i32, i64), Draft)> {
    let topic = format!("{TOPIC}.{group}.dlq");
    let consumer: BaseConsumer =
        world.kafka().set("group.id", Uuid::now_v7().to_string()).create().expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(&topic), PATIENCE).expect("the topic is there");
    let (mut list, mut left) = (TopicPartitionList::new(), 0);
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(&topic, partition.id(), PATIENCE).expect("answers");
        left += high - low;
        list.add_partition_offset(&topic, partition.id(), Offset::Beginning).expect("added");
    }
    consumer.assign(&list).expect("assigned");
    let mut copies = Vec::new();
    while left > 0 {
        let message = consumer.poll(PATIENCE).expect("there is more").expect("a message");
        left -= 1;
        let headers: Vec<(String, Vec<u8>)> = message
            .headers()
            .into_iter()
            .flat_map(|headers| headers.iter())
            .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
            .collect();
        // The last one: an original may carry a forged one.
        let number = |name: &str| -> i64 {
            let (_, value) = headers.iter().rfind(|(n, _)| n == name).expect("there");
            String::from_utf8_lossy(value).parse().expect("decimal text")
        };
        let partition = number("dlq-original-partition");
        let place = (i32::try_from(partition).expect("small"), number("dlq-original-offset"));
        let (key, value) = (message.key().map(<[u8]>::to_vec), message.payload().map(<[u8]>::to_vec));
        copies.push((place, Draft { key, value, headers }));
    }
    copies
}

/// Bad events, each with the class that it must get.
fn bad_events(user: &str) -> Vec<(&'static str, Draft, &'static str)> {
    let good = || Draft::new(&Uuid::now_v7().to_string(), user, 100);
    let mut other_payload = order::OrderCreated::default().encode_to_vec();
    other_payload.extend_from_slice(&[0xff; 3]);
    vec![
        ("tombstone", good().value(None), "decode"),
        ("empty value", good().value(Some(b"")), "decode"),
        ("cut short", good().value(Some(&good().value.expect("a value")[..20])), "decode"),
        ("random bytes", good().value(Some(&[0xde, 0xad, 0xbe, 0xef, 0xff])), "decode"),
        ("JSON", good().value(Some(br#"{"order_id":"x"}"#)), "decode"),
        ("another message", good().value(Some(&other_payload)), "decode"),
        ("version 0", good().with("ce_type", b"holdfast.payment.completed.v0"), "unknown-version"),
        ("the next version", good().with("ce_type", b"holdfast.payment.completed.v2"), "unknown-version"),
        ("unknown type", good().with("ce_type", b"com.example.paid"), "unknown-type"),
        ("wrong topic", good().with("ce_type", b"holdfast.order.created.v1"), "wrong-topic"),
        ("no id", good().without("ce_id"), "schema-violation"),
        ("no type", good().without("ce_type"), "schema-violation"),
        ("no headers", Draft { headers: Vec::new(), ..good() }, "schema-violation"),
        ("a header that is no text", good().with("ce_subject", &[0xff, 0xfe]), "schema-violation"),
        ("another key", Draft { key: Some(b"somebody".to_vec()), ..good() }, "schema-violation"),
        ("no key", Draft { key: None, ..good() }, "schema-violation"),
        (
            "another subject",
            good().with("ce_subject", Uuid::now_v7().to_string().as_bytes()),
            "schema-violation",
        ),
        ("forged dead-letter headers", good().with("dlq-class", b"none").value(None), "decode"),
    ]
}

/// The event was parked once: its copy is the original with the headers of a dead letter behind its own, and its letter is in
/// the table.
async fn assert_parked(
    world: &World,
    group: &str,
    what: &str,
    draft: &Draft,
    copies: &[&Draft],
    class: &str,
) {
    let [copy] = copies else { panic!("{what} has {} copies in {group}", copies.len()) };
    assert_eq!(copy.key, draft.key, "{what}");
    assert_eq!(copy.value, draft.value, "{what}");
    let (originals, added) = copy.headers.split_at(draft.headers.len());
    assert_eq!(originals, draft.headers, "{what}");
    let get = |name: &str| {
        let (_, value) = added.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} of {what}"));
        String::from_utf8_lossy(value).into_owned()
    };
    assert_eq!(get("dlq-class"), class, "{what} in {group}");
    assert_eq!(get("dlq-original-topic"), TOPIC);
    assert_eq!((get("dlq-group").as_str(), get("dlq-service").as_str()), (group, group));
    assert!(get("dlq-reason").len() <= 512 && !get("dlq-reason").is_empty());
    let parked = "select count(*) from dead_letters where id::text = $1 and state = 'parked'";
    assert_eq!(world.count(group, parked, &get("dlq-id")).await, 1, "{what} in {group}");
}

/// Each kind of bad event, in both groups that read the topic.
#[tokio::test(flavor = "multi_thread")]
async fn bad_events_become_dead_letters_of_their_class() {
    let world = World::new();
    let user = world.user("events", "1000.00").await;
    let producer = world.producer();
    let mut sent = Vec::new();
    for (what, draft, class) in bad_events(&user.user) {
        let place = draft.send(&producer).await;
        sent.push((what, draft, class, place));
    }
    // Unknown to order, which would have to know it; delivery can't know and delivers.
    let unknown = Draft::new(&Uuid::now_v7().to_string(), &user.user, 100);
    let unknown_place = unknown.send(&producer).await;

    for group in ["order", "delivery"] {
        let mut expected = sent.clone();
        if group == "order" {
            expected.push(("unknown order", unknown.clone(), "business-invariant", unknown_place));
        }
        let mut copies = Vec::new();
        eventually("all copies are published", || {
            copies = read_copies(&world, group);
            let complete = expected.iter().all(|(.., place)| copies.iter().any(|(copy, _)| copy == place));
            async move { complete }
        })
        .await;
        for (what, draft, class, place) in expected {
            let found: Vec<&Draft> =
                copies.iter().filter(|(copy, _)| *copy == place).map(|(_, draft)| draft).collect();
            assert_parked(&world, group, what, &draft, &found, class).await;
        }
    }
    // The tally of each group is exact: applied + duplicates + parked = records.
    for group in ["order", "delivery"] {
        world.records_are_tallied(group, TOPIC).await;
    }
    // And the services keep running.
    let order = world.create(&user, "1 Quay Street", 100).await;
    eventually("a good order is delivered", || async {
        is_terminal(&user.order(&id(&order)).await.expect("answered"))
    })
    .await;
}

/// A late, repeated or contradicting event of a known order changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn repeated_and_contradicting_events_change_nothing() {
    let world = World::new();
    let user = world.user("repeats", "10.00").await;
    let producer = world.producer();
    let order = world.create(&user, "1 Quay Street", 300).await;
    let order_id = id(&order);
    eventually("it is delivered", || async { is_terminal(&user.order(&order_id).await.expect("answered")) })
        .await;
    // The gateway knows the order and would not ask again; a list is always read.
    let listed = || async { user.get("/api/orders").await.expect("answered").json()["orders"][0].clone() };
    let before = listed().await;
    assert_eq!(before["order_id"], order_id.as_str());

    // The same payment under a new event id, the same event twice, and a different amount.
    let again = Draft::new(&order_id, &user.user, 300);
    again.send(&producer).await;
    again.send(&producer).await;
    let contradiction = Draft::new(&order_id, &user.user, 999);
    contradiction.send(&producer).await;
    eventually("the contradiction is parked", || async {
        let sql = "select count(*) from dead_letters where subject = $1 and class = 'business-invariant'";
        world.count("order", sql, &order_id).await == 1
    })
    .await;
    assert_eq!(listed().await, before);
    let deliveries =
        world.count("delivery", "select count(*) from deliveries where order_id::text = $1", &order_id);
    assert_eq!(deliveries.await, 1);
    let charges = "select count(*) from ledger_entries where order_id::text = $1";
    assert_eq!(world.count("payment", charges, &order_id).await, 1);
}
