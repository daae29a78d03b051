//! A consumer group: its name, its database, and what its service does with events. Batches ([`super::batch`]) and redrives
//! (`dead_letter`) are handled for one.

use std::sync::Arc;

use sqlx::PgConnection;

use super::{
    handler::{Accepted, Handler},
    inbox::{self, Entry},
    verdict::{Class, Poison},
};
use crate::{
    database::{Database, DatabaseError},
    event::{HeaderError, Metadata, payload},
    record::Record,
};

/// See the module; clones share everything.
pub struct Group<H: Handler> {
    pub(crate) database: Database,
    pub(crate) name: &'static str,
    pub(crate) handler: Arc<H>,
}

impl<H: Handler> Clone for Group<H> {
    fn clone(&self) -> Self {
        Self { database: self.database.clone(), name: self.name, handler: self.handler.clone() }
    }
}

impl<H: Handler> Group<H> {
    /// The group `name`, which is the service's name.
    #[must_use]
    pub fn new(database: Database, name: &'static str, handler: H) -> Self {
        Self { database, name, handler: Arc::new(handler) }
    }

    /// See [`check`].
    pub(crate) fn check(&self, record: &Record) -> Result<Accepted<H::Event>, Poison> {
        check(&*self.handler, record)
    }

    /// Records an event in the inbox. False: its id is there already.
    pub(crate) async fn record_in_inbox(
        &self,
        connection: &mut PgConnection,
        record: &Record,
    ) -> Result<bool, DatabaseError> {
        Ok(!inbox::insert(connection, self.name, &[Entry::of(record)]).await?.is_empty())
    }
}

/// Checks of form: headers, type, version, topic, content. Pure.
pub fn check<H: Handler>(handler: &H, record: &Record) -> Result<Accepted<H::Event>, Poison> {
    let metadata = Metadata::read(record).map_err(|error| {
        let class = match error {
            HeaderError::UnknownType => Class::UnknownType,
            _ => Class::SchemaViolation,
        };
        Poison::new(class, error.to_string())
    })?;
    if metadata.kind != record.topic {
        return Err(if handler.is_event_topic(&metadata.kind) {
            Poison::new(Class::WrongTopic, "event belongs to another topic")
        } else {
            Poison::new(Class::UnknownType, "event type is not known")
        });
    }
    let versions = handler.versions(&record.topic);
    if versions.is_empty() {
        return Err(Poison::new(Class::UnknownType, "topic is not read by this service"));
    }
    if !versions.contains(&metadata.version) {
        let reason = format!("version {} is not one of {versions:?}", metadata.version);
        return Err(Poison::new(Class::UnknownVersion, reason));
    }
    if payload(record).is_empty() {
        return Err(Poison::new(Class::Decode, "value is empty"));
    }
    let event = handler.decode(record, &metadata)?;
    Ok(Accepted { metadata, event })
}
