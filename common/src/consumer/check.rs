//! Checks of content that all handlers share; each failure is a verdict with its class.

use std::fmt::Display;

use prost::Message;

use super::{Class, Poison};
use crate::{
    event::{Metadata, payload},
    record::Record,
};

/// The record's value as the message `M`; else `decode`.
pub fn message<M: Message + Default>(record: &Record) -> Result<M, Poison> {
    // The decoder's text names fields and wire types, never values.
    M::decode(payload(record)).map_err(|error| Poison::new(Class::Decode, error.to_string()))
}

/// Key and subject are what the message says they are; else `schema-violation`: a record under another key would be in
/// another partition, where the order of its aggregate's events is lost.
pub fn placed(record: &Record, metadata: &Metadata, key: &str, subject: &str) -> Result<(), Poison> {
    if record.key.as_deref() != Some(key.as_bytes()) {
        return Err(violation("record key is not the message's"));
    }
    if metadata.subject != subject {
        return Err(violation("ce_subject is not the message's"));
    }
    Ok(())
}

/// A field's value, parsed; else `schema-violation` that names the field.
pub fn field<T, E: Display>(name: &str, parsed: Result<T, E>) -> Result<T, Poison> {
    parsed.map_err(|error| violation(format!("{name} {error}")))
}

/// A verdict of class `schema-violation`.
#[must_use]
pub fn violation(reason: impl Into<String>) -> Poison {
    Poison::new(Class::SchemaViolation, reason)
}
