//! Parking: the row that lets an operator repair and redrive, and the copy for the dead-letter topic, both in the
//! transaction that records the event in the inbox.
//!
//! Parking a letter behind another one of its aggregate and redriving that other one must not miss each other. Both
//! lock the aggregate's *oldest* parked letter: parking for share ([`blockers`]), a redrive for update
//! ([`lock_oldest`]). So what is parked behind a letter is found by its redrive, and a redrive that is under way is
//! waited for, or its last letter would be gone when the next one is put behind it.

use std::collections::HashMap;

use holdfast_proto::topic;
use sqlx::{PgConnection, Row as _};
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::{sort::NewLetter, verdict::Keep};
use crate::{
    database::{self, DatabaseError},
    event::{Metadata, payload_hash},
    outbox::{self, OutboxRecord},
    record::{Header, Record, encode_headers},
};

/// Value of the column `state`, as `dead_letter::State` reads it.
pub(crate) const STATE_PARKED: &str = "parked";
/// The same.
pub(crate) const STATE_SET_ASIDE: &str = "set-aside";

/// The copy for the dead-letter topic: key, value and original headers unchanged, ours behind them.
fn copy(letter: &NewLetter, record: &Record, group: &str) -> OutboxRecord {
    let verdict = &letter.verdict;
    let mut headers = record.headers.clone();
    let mut add = |name: &str, value: String| headers.push(Header::new(name, value));
    add("dlq-id", letter.id.to_string());
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
    if let Some(blocked_by) = verdict.blocked_by {
        add("dlq-blocked-by", blocked_by.to_string());
    }
    OutboxRecord::copy(
        topic::dead_letters_of(&record.topic, group),
        record.key.as_ref().map(|key| key.to_vec()),
        record.value.as_ref().map(|value| value.to_vec()),
        headers,
    )
}

/// The oldest parked letter of each of these aggregates, locked against a redrive until the end of the transaction.
pub(super) async fn blockers(
    connection: &mut PgConnection,
    group: &str,
    subjects: &[&str],
) -> Result<HashMap<String, Uuid>, DatabaseError> {
    if subjects.is_empty() {
        return Ok(HashMap::new());
    }
    // Usually none is parked, and locks cost, so look before locking. Only this consumer parks more of them.
    let parked: Vec<String> = database::query(
        "-- dead_letter.parked_subjects
        select distinct subject from dead_letters
        where group_name = $1 and subject = any($2) and state = 'parked'",
    )
    .bind(group)
    .bind(subjects)
    .scalars(&mut *connection)
    .await?;
    if parked.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = database::query(
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

/// For a redrive of the aggregate: waits for any consumer that is parking behind its letters, and keeps others from
/// doing so until the end of the transaction.
pub(crate) async fn lock_oldest(
    connection: &mut PgConnection,
    group: &str,
    subject: &str,
) -> Result<(), DatabaseError> {
    database::query(
        "-- dead_letter.lock_oldest
        select from dead_letters where group_name = $1 and subject = $2 and state = 'parked'
        order by id limit 1 for update",
    )
    .bind(group)
    .bind(subject)
    .fetch_optional(connection)
    .await?;
    Ok(())
}

/// Writes the letters of a batch and their copies.
pub(super) async fn park(
    connection: &mut PgConnection,
    group: &str,
    records: &[Record],
    letters: &[NewLetter],
) -> Result<(), DatabaseError> {
    let mut copies = Vec::new();
    for letter in letters {
        let record = &records[letter.index];
        insert(connection, group, record, letter).await?;
        if letter.verdict.keep == Keep::Record {
            copies.push(copy(letter, record, group));
        }
    }
    outbox::append(connection, copies).await
}

async fn insert(
    connection: &mut PgConnection,
    group: &str,
    record: &Record,
    letter: &NewLetter,
) -> Result<(), DatabaseError> {
    let verdict = &letter.verdict;
    let is_set_aside = verdict.keep == Keep::Place;
    let kept = (!is_set_aside).then_some(());
    database::query(
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
    .bind(verdict.blocked_by)
    .bind(verdict.attempts)
    .bind(verdict.first_failed_at)
    .bind(if is_set_aside { STATE_SET_ASIDE } else { STATE_PARKED })
    .bind(is_set_aside.then(|| i64::try_from(record.size_bytes()).unwrap_or(i64::MAX)))
    .bind(is_set_aside.then(|| payload_hash(record)))
    .execute(connection)
    .await?;
    Ok(())
}

/// Reports that a record was parked, once its transaction is committed.
pub(super) fn report(letter: &NewLetter, record: &Record) {
    let (poison, keep) = (&letter.verdict.poison, letter.verdict.keep);
    let (class, reason) = (poison.class.as_str(), poison.reason());
    let Record { topic, partition, offset, .. } = record;
    match keep {
        Keep::Place => {
            metrics::counter!(crate::metric::RECORDS_SET_ASIDE_TOTAL, "topic" => topic.clone(), "class" => class)
                .increment(1);
            tracing::error!(
                dlq.id = %letter.id, class, reason, topic, partition, offset, order_id = Metadata::subject_of(record),
                "record set aside: it could not be kept, only its place was"
            );
        }
        Keep::Record => {
            metrics::counter!(crate::metric::DEAD_LETTERS_TOTAL, "topic" => topic.clone(), "class" => class)
                .increment(1);
            tracing::warn!(
                dlq.id = %letter.id, class, reason, topic, partition, offset, order_id = Metadata::subject_of(record),
                "record parked as a dead letter"
            );
        }
    }
}
