//! Events sent by a client other than our services, and what the topics contain.

use holdfast_chaos::topics;
use holdfast_native::{kafka, layout::participant_names};
use holdfast_proto::{Currency, Money, order::v1 as order, to_timestamp, topic};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use uuid::Uuid;

use crate::{PATIENCE, World, eventually};

impl World {
    pub fn kafka(&self) -> ClientConfig {
        kafka::client(&self.stack.layout).expect("its certificate is there")
    }

    pub fn producer(&self) -> FutureProducer {
        self.kafka().create().expect("a producer")
    }

    /// `order.created` as the order service would send it, with any value.
    pub async fn send_created(&self, user: &str, order_id: &str, value: &[u8]) {
        send_created(&self.producer(), user, order_id, value).await;
    }

    /// How many records a topic has; `None` while a restarting broker has no leaders yet.
    pub fn records_of(&self, topic: &str) -> Option<i64> {
        let client = topics::client(&self.stack.layout).expect("a client");
        let ends = topics::ends(&client, &[topic], PATIENCE).ok()?;
        Some(ends.iter().map(|partition| partition.end).sum())
    }

    /// Every record of every topic is in the tally of each group that reads it.
    pub async fn every_record_is_tallied(&self) {
        for service in participant_names() {
            for topic in topic::read_by(service) {
                self.records_are_tallied(service, topic).await;
            }
        }
    }

    /// Every record of the topic was applied, a duplicate, parked, or set aside. Waits for what is on its way.
    pub async fn records_are_tallied(&self, service: &str, topic: &str) {
        let counted = "select coalesce(sum(applied + duplicates + parked + set_aside), 0)::bigint from consumer_positions
            where topic = $1";
        eventually(&format!("{service} has tallied every record of {topic}"), || async {
            // The topic is read first: a record that arrives meanwhile makes it smaller than the tally, never equal by
            // chance.
            let records = self.records_of(topic);
            Some(self.count(service, counted, topic).await) == records
        })
        .await;
    }
}

pub async fn send_created(producer: &FutureProducer, user: &str, order_id: &str, value: &[u8]) {
    let event_id = Uuid::now_v7().to_string();
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", &event_id),
        ("ce_source", "/holdfast/order"),
        ("ce_type", "holdfast.order.created.v1"),
        ("ce_subject", order_id),
        ("ce_time", "2026-01-31T12:00:00Z"),
        ("content-type", "application/protobuf"),
    ]
    .into_iter()
    .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
    let record = FutureRecord::to("order.created").key(user).payload(value).headers(headers);
    producer.send(record, PATIENCE).await.expect("acknowledged");
}

pub fn created(user: &str, order_id: &str, cents: i64) -> order::OrderCreated {
    order::OrderCreated {
        order_id: order_id.to_owned(),
        user_id: user.to_owned(),
        delivery_address: "1 Repair Road".to_owned(),
        items: Vec::new(),
        total: Some(Money { minor_units: cents, currency: Currency::EUR }.to_proto()),
        created_at: Some(to_timestamp(time::OffsetDateTime::now_utc())),
    }
}
