//! Values of events, by the schema of their topic: protobuf to JSON and back.

use anyhow::{Context as _, Result, bail};
use holdfast_proto::{DESCRIPTORS, topic};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, prost::Message as _};
use serde_json::Value;

fn descriptor(topic: &str) -> Result<Option<MessageDescriptor>> {
    let Some(name) = topic::message_name(topic) else { return Ok(None) };
    Ok(DescriptorPool::decode(DESCRIPTORS)?.get_message_by_name(name))
}

/// The value as JSON; `None` if it is not what the topic carries.
pub(super) fn decode(topic: &str, value: &[u8]) -> Result<Option<Value>> {
    let Some(descriptor) = descriptor(topic)? else { return Ok(None) };
    match DynamicMessage::decode(descriptor, value) {
        Ok(message) => Ok(Some(serde_json::to_value(message)?)),
        Err(_) => Ok(None),
    }
}

/// The bytes of an event given as JSON.
pub(super) fn encode(topic: &str, text: &str) -> Result<Vec<u8>> {
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
