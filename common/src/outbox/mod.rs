//! Transactional outbox: an event is written in the transaction of the change that it reports, and published by the
//! [`relay`] afterwards. Nobody publishes in any other way.

mod flight;
mod measure;
pub mod probe;
pub mod publisher;
pub mod relay;
pub mod service;
mod store;
mod trace;
mod wake;

use sqlx::PgConnection;

use crate::{
    database::{self, DatabaseError, after_commit, wake_relay_after_commit},
    event::NewEvent,
    record::{Header, encode_headers},
    trace::{Kind, Span},
};

/// A record that must be published.
#[derive(Debug, Clone)]
pub struct OutboxRecord {
    /// Where it goes.
    pub topic: String,
    /// Kafka key.
    pub key: Option<Vec<u8>>,
    /// Kafka value.
    pub value: Option<Vec<u8>>,
    /// In order.
    pub headers: Vec<Header>,
    /// The creation of the event, if it is one; it is exported after the commit.
    creation: Option<Span>,
}

impl OutboxRecord {
    /// The record of an event that the service `source` writes. Its trace context is that of its creation, for good: the relay,
    /// dead letters and redrives leave the header as it is.
    #[must_use]
    pub fn from_event(event: NewEvent, source: &str) -> Self {
        let mut creation = Span::below(event.trace, Kind::Producer, "");
        if creation.is_recorded() {
            creation.rename(format!("create {}", event.topic));
            creation.messaging("create");
            creation.set("messaging.destination.name", || event.topic);
            creation.set("messaging.message.id", || event.id.to_string());
            creation.set("holdfast.subject", || event.subject.clone());
        }
        let event = event.caused_by(creation.context());
        Self {
            headers: event.headers(source),
            topic: event.topic.to_owned(),
            key: Some(event.key.into_bytes()),
            value: Some(event.payload),
            creation: creation.is_recorded().then_some(creation),
        }
    }

    /// The copy of a record that was parked.
    #[must_use]
    pub const fn copy(
        topic: String,
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        headers: Vec<Header>,
    ) -> Self {
        Self { topic, key, value, headers, creation: None }
    }
}

/// Records as the parameters of a statement with [`insert_into_outbox!`](crate::insert_into_outbox).
#[derive(Debug, Default)]
pub struct Columns {
    /// `text[]`.
    pub topics: Vec<String>,
    /// `bytea[]`, as the others.
    pub keys: Vec<Option<Vec<u8>>>,
    /// See [`OutboxRecord::value`].
    pub values: Vec<Option<Vec<u8>>>,
    /// Encoded.
    pub headers: Vec<Vec<u8>>,
}

/// The creations of events that are not yet written.
#[derive(Debug)]
#[must_use = "creations are exported once they are left with the transaction"]
pub struct Creations(Vec<Span>);

impl Creations {
    /// Once the events are written: exports their creations after the commit.
    pub fn after_commit(self) {
        if !self.0.is_empty() {
            after_commit(move |_| self.0.into_iter().for_each(Span::end));
        }
    }
}

/// What is written of these records, for a statement in the caller's transaction, after which the relay is woken.
pub fn columns(records: Vec<OutboxRecord>) -> (Columns, Creations) {
    let (mut columns, mut creations) = (Columns::default(), Vec::new());
    if !records.is_empty() {
        wake_relay_after_commit();
    }
    for record in records {
        creations.extend(record.creation);
        columns.topics.push(record.topic);
        columns.keys.push(record.key);
        columns.values.push(record.value);
        columns.headers.push(encode_headers(&record.headers));
    }
    (columns, Creations(creations))
}

/// The statement that writes records, in the order given: the parameters are those of [`Columns`], and `$from` is what else must have a row for
/// that, such as `", inserted"`. A row's id, and so its place, is drawn once that row is there.
#[macro_export]
macro_rules! insert_into_outbox {
    ($topics:literal, $keys:literal, $values:literal, $headers:literal, $from:literal) => {
        concat!(
            "insert into outbox (topic, key, value, headers)
            select r.topic, r.key, r.value, r.headers
            from unnest(",
            $topics,
            "::text[], ",
            $keys,
            "::bytea[], ",
            $values,
            "::bytea[], ",
            $headers,
            "::bytea[])
                with ordinality as r (topic, key, value, headers, position)",
            $from,
            " order by r.position"
        )
    };
}

/// Writes records in the order given, in the caller's transaction.
pub async fn append(connection: &mut PgConnection, records: Vec<OutboxRecord>) -> Result<(), DatabaseError> {
    if records.is_empty() {
        return Ok(());
    }
    let (Columns { topics, keys, values, headers }, creations) = columns(records);
    creations.after_commit();
    database::query(concat!("-- outbox.append\n", insert_into_outbox!("$1", "$2", "$3", "$4", "")))
        .bind(topics)
        .bind(keys)
        .bind(values)
        .bind(headers)
        .execute(connection)
        .await?;
    Ok(())
}
