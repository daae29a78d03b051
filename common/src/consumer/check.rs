//! Checks of content that all handlers share; each failure is a verdict with its class.

use std::fmt::Display;

use holdfast_proto::topic;
use prost::Message;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Class, Handler, Poison};
use crate::{
    event::{Metadata, payload},
    record::Record,
};

/// Decodes the record's value as the message `M`; a failure is of class `decode`.
pub fn message<M: Message + Default>(record: &Record) -> Result<M, Poison> {
    // The decoder's text names fields and wire types, never values.
    M::decode(payload(record)).map_err(|error| Poison::new(Class::Decode, error.to_string()))
}

/// Checks that key and subject agree with the message; if not, `schema-violation`: a record under another key would be
/// in another partition, where the order of its aggregate's events is lost.
pub fn placed(record: &Record, metadata: &Metadata, key: &str, subject: &str) -> Result<(), Poison> {
    if record.key.as_deref() != Some(key.as_bytes()) {
        return Err(violation("record key is not the message's"));
    }
    if metadata.subject != subject {
        return Err(violation("ce_subject is not the message's"));
    }
    Ok(())
}

/// A field's parsed value; a failure is a `schema-violation` that names the field.
pub fn field<T, E: Display>(name: &str, parsed: Result<T, E>) -> Result<T, Poison> {
    parsed.map_err(|error| violation(format!("{name} {error}")))
}

/// For the last arm of a decoder: [`super::Handler::versions`] and the decoder disagree on what is read.
#[must_use]
pub fn not_read(topic: &str) -> Poison {
    Poison::new(Class::UnknownType, format!("topic {topic} is not read by this service"))
}

/// A verdict of class `schema-violation`.
#[must_use]
pub fn violation(reason: impl Into<String>) -> Poison {
    Poison::new(Class::SchemaViolation, reason)
}

/// For a test of each service: the topics that the contract assigns to `group` are those whose versions the handler
/// names, and each has an arm in its decoder.
///
/// # Panics
///
/// If they differ.
pub fn reads<H: Handler>(handler: &H, group: &str) {
    for topic in topic::EVENT_TOPICS {
        let is_read = topic::read_by(group).contains(&topic);
        assert_eq!(!handler.versions(topic).is_empty(), is_read, "versions of {topic}");
        let record = Record { topic: topic.to_owned(), ..Record::default() };
        let metadata = Metadata {
            id: Uuid::nil(),
            kind: record.topic.clone(),
            version: 1,
            subject: String::new(),
            time: OffsetDateTime::UNIX_EPOCH,
            trace: None,
        };
        // An empty message can be decoded, and its content is never valid.
        let class = handler.decode(&record, &metadata).err().map(|poison| poison.class);
        assert_eq!(class == Some(Class::UnknownType), !is_read, "decoding {topic}: {class:?}");
    }
}
