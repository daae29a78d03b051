//! Records that no service has written.

use bytes::Bytes;
use holdfast_common::{
    event::payload,
    record::{Header, Record},
};
use holdfast_proto::{order::v1 as order, topic};
use prost::Message as _;
use uuid::Uuid;

use crate::{broker::Broker, operation::Poison};

/// A record with this poison, for the partition of `good`. `None`: not in this topic.
pub(crate) fn forge(good: &Record, poison: Poison) -> Option<Record> {
    let mut record = good.clone();
    if poison == Poison::Bare {
        return Some(Record { key: None, headers: Vec::new(), ..record });
    }
    if poison != Poison::UsedId {
        set(&mut record, "ce_id", Some(Uuid::now_v7().to_string()));
    }
    match poison {
        Poison::Garbage => record.value = Some(Bytes::from_static(&[0xff, 0xff])),
        Poison::UnknownVersion => set(&mut record, "ce_type", Some(format!("holdfast.{}.v9", good.topic))),
        Poison::NoType => set(&mut record, "ce_type", None),
        Poison::WrongTopic => {
            let other = topic::EVENT_TOPICS.into_iter().find(|topic| *topic != good.topic)?;
            set(&mut record, "ce_type", Some(format!("holdfast.{other}.v1")));
        }
        Poison::UsedId => {
            // Behind the message, where a decoder finds a field without its value.
            let mut value = payload(good).to_vec();
            value.push(0x08);
            record.value = Some(value.into());
        }
        Poison::OtherTotal => {
            let mut message = order::OrderCreated::decode(payload(good)).ok()?;
            let is_order = good.topic == topic::ORDER_CREATED;
            message.total.as_mut().filter(|_| is_order)?.minor_units += 1;
            record.value = Some(message.encode_to_vec().into());
        }
        Poison::Bare => {}
    }
    Broker::mark(&mut record);
    Some(record)
}

/// Replaces a header, or takes it away.
fn set(record: &mut Record, name: &str, value: Option<String>) {
    record.headers.retain(|header| header.name != name);
    record.headers.extend(value.map(|value| Header::new(name, value)));
}
