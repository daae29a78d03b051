//! Values of events, by the schema of their topic: protobuf to JSON and back.

use std::sync::LazyLock;

use anyhow::{Context as _, Result, bail};
use holdfast_proto::{Currency, DESCRIPTORS, topic};
use prost_reflect::{
    DescriptorError, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor,
    prost::Message as _,
};
use serde_json::Value;

/// Decoded once: it takes longer than what it is used for.
static POOL: LazyLock<Result<DescriptorPool, DescriptorError>> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS));

fn descriptor(topic: &str) -> Result<Option<MessageDescriptor>> {
    let Some(name) = topic::message_name(topic) else { return Ok(None) };
    let pool = POOL.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(pool.get_message_by_name(name))
}

/// The value as JSON; `None` if it is not what the topic carries.
pub fn decode(topic: &str, value: &[u8]) -> Result<Option<Value>> {
    let Some(descriptor) = descriptor(topic)? else { return Ok(None) };
    match DynamicMessage::decode(descriptor, value) {
        Ok(message) => Ok(Some(serde_json::to_value(message)?)),
        Err(_) => Ok(None),
    }
}

/// An event of the topic in which every field is named, with values that say what belongs there.
pub fn skeleton(topic: &str) -> Result<Value> {
    let Some(descriptor) = descriptor(topic)? else {
        bail!("the schema of {topic} is not known here");
    };
    Ok(skeleton_of(&descriptor))
}

fn skeleton_of(message: &MessageDescriptor) -> Value {
    let field = |field: FieldDescriptor| {
        let value = match field.kind() {
            Kind::Message(inner) if inner.full_name() == "google.protobuf.Timestamp" => {
                "2026-01-31T12:00:00Z".into()
            }
            Kind::Message(inner) => skeleton_of(&inner),
            // The first is that of an absent field.
            Kind::Enum(values) => values.values().nth(1).map_or(Value::Null, |value| value.name().into()),
            Kind::Bool => false.into(),
            // Integers of 64 bits are texts in JSON (protobuf's mapping).
            Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64 => "0".into(),
            Kind::String if field.name() == "currency" => Currency::EUR.as_str().into(),
            Kind::String | Kind::Bytes => "".into(),
            _ => 0.into(),
        };
        let value = if field.is_list() { Value::Array(vec![value]) } else { value };
        (field.json_name().to_owned(), value)
    };
    Value::Object(message.fields().map(field).collect())
}

/// The bytes of an event given as JSON.
pub fn encode(topic: &str, text: &str) -> Result<Vec<u8>> {
    let Some(descriptor) = descriptor(topic)? else {
        bail!("the schema of {topic} is not known here");
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let message = DynamicMessage::deserialize(descriptor, &mut json).context("not an event of this topic")?;
    json.end().context("more than one JSON value")?;
    Ok(message.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every event topic has its schema, and an event survives the way to JSON and back.
    #[test]
    fn every_topic_has_its_schema() {
        for topic in topic::EVENT_TOPICS {
            let empty = decode(topic, &[]).expect("a schema").expect("an empty message is one");
            assert_eq!(encode(topic, &empty.to_string()).expect("the same"), Vec::<u8>::new(), "{topic}");
            let skeleton = skeleton(topic).expect("a schema").to_string();
            assert!(encode(topic, &skeleton).is_ok(), "{skeleton}");
        }
        let json = r#"{"orderId": "o", "userId": "u", "total": {"currency": "EUR", "minorUnits": "1250"}}"#;
        let bytes = encode(topic::ORDER_CREATED, json).expect("an event");
        let back = decode(topic::ORDER_CREATED, &bytes).expect("a schema").expect("an event");
        assert_eq!(back["orderId"], "o");
        assert!(decode(topic::ORDER_CREATED, &[0xff; 8]).expect("a schema").is_none(), "garbage");
        assert!(encode(topic::ORDER_CREATED, r#"{"nonsense": 1}"#).is_err(), "unknown field");
        assert!(encode(topic::ORDER_CREATED, "{} {}").is_err(), "two values");
    }
}
