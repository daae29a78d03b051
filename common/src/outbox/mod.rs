//! Transactional outbox: an event is written in the transaction of the change that it reports, and published by the
//! [`relay`] afterwards. Nobody publishes in any other way.

mod flight;
pub mod probe;
pub mod publisher;
pub mod relay;
pub mod service;
mod store;

use sqlx::PgConnection;

use crate::{
    database::DatabaseError,
    event::NewEvent,
    record::{Header, encode_headers},
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
}

impl OutboxRecord {
    /// The record of an event that the service `source` writes.
    #[must_use]
    pub fn from_event(event: NewEvent, source: &str) -> Self {
        Self {
            headers: event.headers(source),
            topic: event.topic.to_owned(),
            key: Some(event.key.into_bytes()),
            value: Some(event.payload),
        }
    }
}

/// Writes records in the order given, in the caller's transaction.
pub async fn append(connection: &mut PgConnection, records: Vec<OutboxRecord>) -> Result<(), DatabaseError> {
    if records.is_empty() {
        return Ok(());
    }
    let (mut topics, mut keys, mut values, mut headers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for record in records {
        topics.push(record.topic);
        keys.push(record.key);
        values.push(record.value);
        headers.push(encode_headers(&record.headers));
    }
    sqlx::query(
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
