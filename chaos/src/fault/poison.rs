//! Records that no consumer can ever handle, of every class that a stranger's producer can cause.

use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_native::{kafka, layout::Layout};
use holdfast_proto::topic::{DELIVERY_STATUS_UPDATED, EVENT_TOPICS, PAYMENT_REFUNDED};
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const SEND_TIME_MAX: Duration = Duration::from_secs(20);

/// An order that has nothing to do with the poison but its name in it: what follows for it is parked behind it.
#[derive(Debug, Clone)]
pub struct Victim {
    /// Whose it is: the key of its records.
    pub user: String,
    /// The order.
    pub order: String,
}

/// Where a record is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the words of Kafka")]
pub struct Place {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

/// Sends one record of each class to `topic`, and one that names the order of a victim. Puts down where each is that the broker
/// has acknowledged.
pub async fn send(
    layout: &Layout,
    topic: &str,
    victim: Option<&Victim>,
    places: &mut Vec<Place>,
) -> Result<()> {
    let producer: FutureProducer = kafka::client(layout)?.set("acks", "all").create()?;
    for record in records(topic, victim) {
        let headers = OwnedHeaders::new();
        let headers = record.headers().iter().fold(headers, |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value.as_str()) })
        });
        let message = FutureRecord::to(topic).key(&record.key).payload(&record.value).headers(headers);
        let sent = producer.send(message, SEND_TIME_MAX).await;
        let sent = sent.map_err(|(error, _)| error).context("the broker refused a record")?;
        places.push(Place { topic: topic.to_owned(), partition: sent.partition, offset: sent.offset });
    }
    Ok(())
}

struct Record {
    kind: String,
    subject: String,
    key: String,
    value: Vec<u8>,
}

impl Record {
    fn headers(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ce_specversion", "1.0".to_owned()),
            ("ce_id", Uuid::now_v7().to_string()),
            ("ce_source", "/holdfast/chaos".to_owned()),
            ("ce_type", self.kind.clone()),
            ("ce_subject", self.subject.clone()),
            ("ce_time", "2026-01-31T12:00:00Z".to_owned()),
            ("content-type", "application/protobuf".to_owned()),
        ]
    }
}

fn records(topic: &str, victim: Option<&Victim>) -> Vec<Record> {
    // No varint, so no protobuf.
    let garbage = vec![0xff; 16];
    let right = format!("holdfast.{topic}.v1");
    let another = EVENT_TOPICS.iter().find(|other| **other != topic).copied().unwrap_or_default();
    let stray = |kind: String, value: Vec<u8>| Record {
        kind,
        subject: Uuid::now_v7().to_string(),
        key: "chaos-poison".to_owned(),
        value,
    };
    let mut records = vec![
        // decode
        stray(right.clone(), garbage.clone()),
        // unknown-type
        stray("holdfast.nothing.v1".to_owned(), Vec::new()),
        // unknown-version
        stray(format!("holdfast.{topic}.v99"), Vec::new()),
        // schema-violation: every field is absent
        stray(right.clone(), Vec::new()),
        // wrong-topic
        stray(format!("holdfast.{another}.v1"), Vec::new()),
    ];
    // business-invariant, only where nobody creates anything for an order that does not exist.
    if [PAYMENT_REFUNDED, DELIVERY_STATUS_UPDATED].contains(&topic) {
        records.push(stray(right.clone(), of_no_order(topic)));
    }
    if let Some(Victim { user, order }) = victim {
        records.push(Record { kind: right, subject: order.clone(), key: user.clone(), value: garbage });
    }
    records
}

/// A valid event of an order that nobody has created.
fn of_no_order(topic: &str) -> Vec<u8> {
    use holdfast_proto::{Currency, Money, delivery::v1 as delivery, payment::v1 as payment, to_timestamp};
    use prost::Message as _;
    let id = || Uuid::now_v7().to_string();
    let now = Some(to_timestamp(time::OffsetDateTime::now_utc()));
    if topic == PAYMENT_REFUNDED {
        return payment::PaymentRefunded {
            payment_id: id(),
            order_id: id(),
            user_id: "chaos-poison".to_owned(),
            amount: Some(Money { minor_units: 100, currency: Currency::EUR }.to_proto()),
            refunded_at: now,
        }
        .encode_to_vec();
    }
    delivery::DeliveryStatusUpdated {
        delivery_id: id(),
        order_id: id(),
        user_id: "chaos-poison".to_owned(),
        status: delivery::DeliveryStatus::InTransit.into(),
        updated_at: now,
    }
    .encode_to_vec()
}
