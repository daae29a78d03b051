//! SQL of reconciling: events that the outbox holds, events that the inbox lacks, and re-emitting.

use std::collections::HashMap;

use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::{
    database::{self, DatabaseError, wake_relay_after_commit},
    event::{Metadata, NewEvent},
    outbox::OutboxRecord,
    record::{Record, decode_headers, encode_headers},
};

/// Where an event waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Waiting,
    HeldBack,
}

/// The events with these keys that are in the outbox, by their ids.
pub(super) async fn in_outbox(
    connection: &mut PgConnection,
    keys: &[&str],
) -> Result<HashMap<Uuid, Place>, DatabaseError> {
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let rows = database::query(
        "-- reconcile.in_outbox
        select headers, false as held_back from outbox where key = any($1)
        union all
        select headers, true from outbox_held where key = any($1)",
    )
    .bind(keys)
    .fetch_all(connection)
    .await?;
    let mut found = HashMap::new();
    for row in rows {
        let headers = decode_headers(&row.try_get::<Vec<u8>, _>("headers")?);
        let record = Record { headers: headers.unwrap_or_default(), ..Record::default() };
        let place = if row.try_get("held_back")? { Place::HeldBack } else { Place::Waiting };
        // A copy of a dead letter has the headers of the original, and is no event on its way.
        if record.headers.iter().all(|header| header.name != "dlq-id") {
            found.insert(Metadata::inbox_id(&record), place);
        }
    }
    Ok(found)
}

/// Those of `ids` that the group has never handled.
pub(super) async fn unhandled(
    connection: &mut PgConnection,
    group: &str,
    ids: &[Uuid],
) -> Result<Vec<Uuid>, DatabaseError> {
    let ids = database::query(
        "-- reconcile.unhandled
        select id from unnest($2::uuid[]) as e (id)
        where not exists (select from inbox where group_name = $1 and event_id = e.id)",
    )
    .bind(group)
    .bind(ids)
    .scalars(connection)
    .await?;
    Ok(ids)
}

/// Those of `subjects` that have a parked letter, with the oldest.
pub(super) async fn parked(
    connection: &mut PgConnection,
    group: &str,
    subjects: &[String],
) -> Result<Vec<(String, Uuid)>, DatabaseError> {
    let rows = database::query(
        "-- reconcile.parked
        select distinct on (subject) subject, id from dead_letters
        where group_name = $1 and state = 'parked' and subject = any($2)
        order by subject, id",
    )
    .bind(group)
    .bind(subjects)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| Ok((row.try_get("subject")?, row.try_get("id")?))).collect()
}

/// Writes an event to the outbox again, with an audit row that says who wanted it.
pub(super) async fn reemit(
    connection: &mut PgConnection,
    event: NewEvent,
    source: &str,
    actor: &str,
    reason: &str,
) -> Result<(), DatabaseError> {
    let (id, subject) = (event.id, event.subject.clone());
    let record = OutboxRecord::from_event(event, source);
    wake_relay_after_commit();
    database::query(
        "-- reconcile.reemit
        with written as (
            insert into outbox (topic, key, value, headers) values ($1, $2, $3, $4) returning id, topic, value
        )
        insert into outbox_audit (actor, action, outbox_id, topic, value_hash, reason, event_id, subject)
        select $5, 're-emit', id, topic, sha256(value), $6, $7, $8 from written",
    )
    .bind(record.topic)
    .bind(record.key)
    .bind(record.value)
    .bind(encode_headers(&record.headers))
    .bind(actor)
    .bind(reason)
    .bind(id)
    .bind(subject)
    .execute(connection)
    .await?;
    Ok(())
}
