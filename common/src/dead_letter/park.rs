//! Parking: the row that lets an operator repair and redrive, and the copy for the dead-letter topic, both in the
//! transaction that records the event in the inbox.

use std::collections::HashMap;

use sqlx::{PgConnection, Row as _};
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::{
    consumer::batch::Judged,
    database::DatabaseError,
    dead_letter::State,
    event::{Metadata, payload_hash},
    outbox::OutboxRecord,
    record::{Header, Record, encode_headers},
};

/// Most bytes of key, value and headers of a record that is kept. Its copy must fit the limit of the dead-letter topics
/// (2 MiB) together with our headers. A compressed batch can hold records that are far larger than the broker's limit.
pub const PARKED_BYTES_MAX: usize = 2 * 1024 * 1024 - 64 * 1024;

/// What is kept of a parked record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All of it, and a copy for the dead-letter topic.
    Record,
    /// Where it was, its size and its hash: it is *set aside*. For a record that is too large, or that the database
    /// refuses for a reason in the record, so that parking can't fail for such a reason.
    Place,
}

/// A record on its way to the dead letters.
#[derive(Debug)]
pub(crate) struct DeadLetter<'a> {
    pub(crate) id: Uuid,
    pub(crate) record: &'a Record,
    pub(crate) event_id: Uuid,
    pub(crate) judged: Judged,
}

/// `<topic>.<group>.dlq`.
#[must_use]
pub fn dead_letter_topic(topic: &str, group: &str) -> String {
    format!("{topic}.{group}.dlq")
}

impl DeadLetter<'_> {
    /// The copy for the dead-letter topic: key, value and original headers unchanged, ours behind them.
    fn copy(&self, group: &str) -> OutboxRecord {
        let (record, verdict) = (self.record, &self.judged.verdict);
        let mut headers = record.headers.clone();
        let mut add = |name: &str, value: String| headers.push(Header::new(name, value));
        add("dlq-id", self.id.to_string());
        add("dlq-class", verdict.poison.class.as_str().to_owned());
        add("dlq-reason", verdict.poison.reason().to_owned());
        // A group is named after its service.
        add("dlq-service", group.to_owned());
        add("dlq-group", group.to_owned());
        add("dlq-original-topic", record.topic.clone());
        add("dlq-original-partition", record.partition.to_string());
        add("dlq-original-offset", record.offset.to_string());
        if let Some(timestamp_ms) = record.timestamp_ms {
            add("dlq-original-timestamp", timestamp_ms.to_string());
        }
        // Our own clock, so RFC 3339 can express it.
        add("dlq-first-failed-at", verdict.first_failed_at.format(&Rfc3339).unwrap_or_default());
        add("dlq-attempts", verdict.attempts.to_string());
        add("dlq-redrive-count", "0".to_owned());
        if let Some(blocked_by) = self.judged.blocked_by {
            add("dlq-blocked-by", blocked_by.to_string());
        }
        OutboxRecord {
            topic: dead_letter_topic(&record.topic, group),
            key: record.key.as_ref().map(|key| key.to_vec()),
            value: record.value.as_ref().map(|value| value.to_vec()),
            headers,
        }
    }
}

/// The oldest parked letter of each of these aggregates, locked against a redrive until the end of the transaction: what
/// is parked behind a letter here is found by its redrive, and a redrive that is under way is waited for, or its last
/// letter would be gone when the next one is put behind it.
pub(crate) async fn blockers(
    connection: &mut PgConnection,
    group: &str,
    subjects: &[&str],
) -> Result<HashMap<String, Uuid>, DatabaseError> {
    if subjects.is_empty() {
        return Ok(HashMap::new());
    }
    // Mostly none is parked, and locks cost: so those are looked for first. Nobody but this consumer parks more of them.
    let parked: Vec<String> = sqlx::query_scalar(
        "-- dead_letter.parked_subjects
        select distinct subject from dead_letters
        where group_name = $1 and subject = any($2) and state = 'parked'",
    )
    .bind(group)
    .bind(subjects)
    .fetch_all(&mut *connection)
    .await?;
    if parked.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(
        "-- dead_letter.blockers
        select asked.subject, oldest.id
        from (select distinct unnest($2::text[]) as subject) as asked
        cross join lateral (
            select id from dead_letters
            where group_name = $1 and subject = asked.subject and state = 'parked'
            order by id limit 1 for share
        ) as oldest",
    )
    .bind(group)
    .bind(parked)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| Ok((row.try_get("subject")?, row.try_get("id")?))).collect()
}

/// Writes the letters and their copies.
pub(crate) async fn park(
    connection: &mut PgConnection,
    group: &str,
    letters: &[DeadLetter<'_>],
) -> Result<(), DatabaseError> {
    for letter in letters {
        let (record, verdict) = (letter.record, &letter.judged.verdict);
        let is_set_aside = verdict.keep == Keep::Place;
        let kept = (!is_set_aside).then_some(());
        sqlx::query(
            "-- dead_letter.park
            insert into dead_letters (
                id, group_name, class, reason, topic, partition, record_offset, record_timestamp_ms,
                key, value, headers, event_id, subject, blocked_by, attempts, first_failed_at, state,
                size_bytes, payload_hash
            ) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
        )
        .bind(letter.id)
        .bind(group)
        .bind(verdict.poison.class.as_str())
        .bind(verdict.poison.reason())
        .bind(&record.topic)
        .bind(record.partition)
        .bind(record.offset)
        .bind(record.timestamp_ms)
        .bind(kept.and(record.key.as_deref()))
        .bind(kept.and(record.value.as_deref()))
        .bind(kept.map_or_else(Vec::new, |()| encode_headers(&record.headers)))
        .bind(letter.event_id)
        .bind(kept.and(Metadata::subject_of(record)))
        .bind(letter.judged.blocked_by)
        .bind(verdict.attempts)
        .bind(verdict.first_failed_at)
        .bind(if kept.is_some() { State::Parked } else { State::SetAside }.as_str())
        .bind(is_set_aside.then(|| i64::try_from(record.size_bytes()).unwrap_or(i64::MAX)))
        .bind(is_set_aside.then(|| payload_hash(record)))
        .execute(&mut *connection)
        .await?;
    }
    let kept = letters.iter().filter(|letter| letter.judged.verdict.keep == Keep::Record);
    let copies = kept.map(|letter| letter.copy(group)).collect();
    crate::outbox::append(connection, copies).await
}
