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

use sqlx::PgConnection;

use crate::{
    database::{self, DatabaseError, after_commit},
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

/// Writes records in the order given, in the caller's transaction.
pub async fn append(
    connection: &mut PgConnection,
    mut records: Vec<OutboxRecord>,
) -> Result<(), DatabaseError> {
    if records.is_empty() {
        return Ok(());
    }
    let creations: Vec<Span> = records.iter_mut().filter_map(|record| record.creation.take()).collect();
    if !creations.is_empty() {
        after_commit(move |_| creations.into_iter().for_each(Span::end));
    }
    let (mut topics, mut keys, mut values, mut headers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for record in records {
        topics.push(record.topic);
        keys.push(record.key);
        values.push(record.value);
        headers.push(encode_headers(&record.headers));
    }
    database::query(
        "-- outbox.append
        insert into outbox (topic, key, value, headers)
        select topic, key, value, headers
        from unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[])
            with ordinality as r (topic, key, value, headers, position)
        order by position",
    )
    .bind(topics)
    .bind(keys)
    .bind(values)
    .bind(headers)
    .execute(connection)
    .await?;
    Ok(())
}
