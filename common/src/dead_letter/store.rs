//! SQL of what operators do with letters.

use std::collections::HashMap;

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Action, AuditEntry, Edited, Filter, Letter, State, Stats, Summary};
use crate::{
    consumer::park::lock_oldest,
    database::{self, DatabaseError, Statement},
    record::{Header, Record, decode_headers, encode_headers},
};

/// The columns of a letter without its record.
macro_rules! summary_columns {
    () => {
        "id, class, reason, state, topic, partition, record_offset, record_timestamp_ms, subject, blocked_by, attempts,
            redrive_count, first_failed_at, parked_at,
            coalesce(edited_key, edited_value, edited_headers) is not null as is_edited"
    };
}

/// All columns of a letter.
macro_rules! letter_columns {
    () => {
        concat!(
            summary_columns!(),
            ", key, value, headers, event_id, edited_key, edited_value, edited_headers"
        )
    };
}

/// What of a letter takes memory, in bytes; the database knows it without reading the values.
macro_rules! letter_bytes {
    () => {
        "coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0) + octet_length(headers)
            + coalesce(octet_length(edited_key), 0) + coalesce(octet_length(edited_value), 0)
            + coalesce(octet_length(edited_headers), 0)"
    };
}

/// Of [`matching`]. An absent value matches everything.
macro_rules! filter_condition {
    () => {
        "group_name = $1
            and ($2::uuid[] is null or id = any($2))
            and ($3::text is null or topic = $3)
            and ($4::text is null or class = $4)
            and ($5::text is null or subject = $5)
            and ($6::text is null or state = $6)
            and ($7::timestamptz is null or parked_at >= $7)
            and ($8::timestamptz is null or parked_at < $8)
            and ($9::uuid is null or id between $9 and $10)
            and ($11::int is null or (partition = $11 and record_offset = $12))"
    };
}

/// A statement whose first twelve parameters are those of `filter_condition!`.
fn matching(statement: Statement, group: &str, filter: &Filter) -> Statement {
    let ids = (!filter.ids.is_empty()).then(|| filter.ids.clone());
    statement
        .bind(group.to_owned())
        .bind(ids)
        .bind(filter.topic.clone())
        .bind(filter.class.clone())
        .bind(filter.subject.clone())
        .bind(filter.state.map(State::as_str))
        .bind(filter.since)
        .bind(filter.until)
        .bind(filter.range.map(|(first, _)| first))
        .bind(filter.range.map(|(_, last)| last))
        .bind(filter.place.map(|(partition, _)| partition))
        .bind(filter.place.map(|(_, offset)| offset))
}

/// Letters that match, oldest first; only those after `after` if it is given.
pub(super) async fn list(
    connection: &mut PgConnection,
    group: &str,
    filter: &Filter,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Summary>, DatabaseError> {
    let rows = matching(
        database::query(concat!(
            "-- dead_letter.list\nselect ",
            summary_columns!(),
            " from dead_letters where ",
            filter_condition!(),
            " and ($13::uuid is null or id > $13) order by id limit $14"
        )),
        group,
        filter,
    )
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(summary).collect()
}

/// How many letters match; `most` and one more if there are more than `most`.
pub(super) async fn count(
    connection: &mut PgConnection,
    group: &str,
    filter: &Filter,
    most: i64,
) -> Result<i64, DatabaseError> {
    let statement = database::query(concat!(
        "-- dead_letter.count\nselect count(*) from (select from dead_letters where ",
        filter_condition!(),
        " limit $13::bigint + 1) as matching"
    ));
    Ok(matching(statement, group, filter).bind(most).scalar(connection).await?)
}

/// One letter.
pub(super) async fn get(
    connection: &mut PgConnection,
    group: &str,
    id: Uuid,
) -> Result<Option<Letter>, DatabaseError> {
    let row = database::query(concat!(
        "-- dead_letter.get\nselect ",
        letter_columns!(),
        " from dead_letters where group_name = $1 and id = $2"
    ))
    .bind(group)
    .bind(id)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(letter).transpose()
}

/// One letter, locked until the end of the transaction: of two edits at once the second begins with what the first has made of it.
pub(super) async fn lock(
    connection: &mut PgConnection,
    group: &str,
    id: Uuid,
) -> Result<Option<Letter>, DatabaseError> {
    let row = database::query(concat!(
        "-- dead_letter.lock\nselect ",
        letter_columns!(),
        " from dead_letters where group_name = $1 and id = $2 for update"
    ))
    .bind(group)
    .bind(id)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(letter).transpose()
}

/// Letters that are redriven together: those of one aggregate, or one that names none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum RedriveGroup {
    Aggregate(String),
    Alone(Uuid),
}

/// The groups that have a parked letter that matches, the one with the oldest letter first, and how many letters are
/// parked in each.
pub(super) async fn groups(
    connection: &mut PgConnection,
    group: &str,
    filter: &Filter,
) -> Result<Vec<(RedriveGroup, i64)>, DatabaseError> {
    let ids = (!filter.ids.is_empty()).then_some(filter.ids.as_slice());
    let rows = database::query(
        "-- dead_letter.groups
        with matching as (
            select distinct coalesce(subject, id::text) as subject_or_id, subject is null as alone
            from dead_letters
            where group_name = $1 and state = 'parked'
                and ($2::uuid[] is null or id = any($2))
                and ($3::text is null or topic = $3)
                and ($4::text is null or class = $4)
                and ($5::text is null or subject = $5)
                and ($6::timestamptz is null or parked_at >= $6)
                and ($7::timestamptz is null or parked_at < $7)
        )
        select m.subject_or_id, m.alone, count(*) as letters
        from matching as m
        join dead_letters as d on d.group_name = $1 and d.state = 'parked'
            and coalesce(d.subject, d.id::text) = m.subject_or_id and (d.subject is null) = m.alone
        group by m.subject_or_id, m.alone
        order by min(d.id::text)",
    )
    .bind(group)
    .bind(ids)
    .bind(&filter.topic)
    .bind(&filter.class)
    .bind(&filter.subject)
    .bind(filter.since)
    .bind(filter.until)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let subject_or_id: String = row.try_get("subject_or_id")?;
            let redrive_group = if row.try_get("alone")? {
                RedriveGroup::Alone(
                    Uuid::try_parse(&subject_or_id).map_err(|_| DatabaseError::Corrupt("id".into()))?,
                )
            } else {
                RedriveGroup::Aggregate(subject_or_id)
            };
            Ok((redrive_group, row.try_get("letters")?))
        })
        .collect()
}

impl RedriveGroup {
    /// As parameters: the subject, or the id of a letter that has none.
    fn parameters(&self) -> (Option<&str>, Option<Uuid>) {
        match self {
            Self::Aggregate(subject) => (Some(subject), None),
            Self::Alone(id) => (None, Some(*id)),
        }
    }
}

/// A parked letter of one of several groups.
#[derive(Debug)]
pub(super) struct Parked {
    /// Which of them.
    pub(super) group: usize,
    pub(super) summary: Summary,
    /// What takes memory of it.
    pub(super) bytes: i64,
}

/// The parked letters of these groups, one group after the other, oldest first.
pub(super) async fn parked(
    connection: &mut PgConnection,
    group: &str,
    groups: &[RedriveGroup],
) -> Result<Vec<Parked>, DatabaseError> {
    let (mut by_subject, mut by_id) = (HashMap::new(), HashMap::new());
    for (place, group) in groups.iter().enumerate() {
        match group {
            RedriveGroup::Aggregate(subject) => drop(by_subject.insert(subject.as_str(), place)),
            RedriveGroup::Alone(id) => drop(by_id.insert(*id, place)),
        }
    }
    let subjects: Vec<&str> = by_subject.keys().copied().collect();
    let ids: Vec<Uuid> = by_id.keys().copied().collect();
    let rows = database::query(concat!(
        "-- dead_letter.parked\nselect ",
        summary_columns!(),
        ", (",
        letter_bytes!(),
        ")::bigint as bytes
        from dead_letters
        where group_name = $1 and state = 'parked' and (subject = any($2) or (subject is null and id = any($3)))
        order by id"
    ))
    .bind(group)
    .bind(subjects)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let mut letters = Vec::with_capacity(rows.len());
    for row in &rows {
        let (summary, bytes) = (summary(row)?, row.try_get("bytes")?);
        let place = match &summary.subject {
            Some(subject) => by_subject.get(subject.as_str()),
            None => by_id.get(&summary.id),
        };
        let group = *place.ok_or_else(|| DatabaseError::Corrupt("a letter that was not asked for".into()))?;
        letters.push(Parked { group, summary, bytes });
    }
    // Stable: those of a group stay in their order.
    letters.sort_by_key(|letter| letter.group);
    Ok(letters)
}

/// Those of these letters that there are, in no order.
pub(super) async fn letters(
    connection: &mut PgConnection,
    group: &str,
    ids: &[Uuid],
) -> Result<Vec<Letter>, DatabaseError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = database::query(concat!(
        "-- dead_letter.letters\nselect ",
        letter_columns!(),
        " from dead_letters where group_name = $1 and id = any($2)"
    ))
    .bind(group)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.iter().map(letter).collect()
}

/// The first parked letters of a group.
pub(super) struct Locked {
    /// Oldest first.
    pub(super) letters: Vec<Letter>,
    /// A limit was reached, so there may be further ones.
    pub(super) may_have_more: bool,
}

/// The first parked letters of a group, locked until the end of the transaction: another redrive waits, and finds them redriven.
/// At most `limit`, and no further one once they have `bytes_max`.
pub(super) async fn lock_parked(
    connection: &mut PgConnection,
    group: &str,
    redrive_group: &RedriveGroup,
    limit: i64,
    bytes_max: i64,
) -> Result<Locked, DatabaseError> {
    if let RedriveGroup::Aggregate(subject) = redrive_group {
        // A statement of its own, so that the next one sees what a consumer that held the lock has parked meanwhile.
        lock_oldest(connection, group, subject).await?;
    }
    let (subject, id) = redrive_group.parameters();
    let rows = database::query(concat!(
        "-- dead_letter.lock_parked\nselect ",
        letter_columns!(),
        ", (",
        letter_bytes!(),
        ")::bigint as bytes
        from dead_letters
        where state = 'parked' and id in (
            select id from (
                select id, sum(bytes) over (order by id) - bytes as bytes_before
                from (
                    select id, ",
        letter_bytes!(),
        " as bytes
                    from dead_letters
                    where group_name = $1 and state = 'parked' and (subject = $2 or (subject is null and id = $3))
                    order by id limit $4
                ) as first
            ) as measured
            where bytes_before < $5
        )
        order by id for update"
    ))
    .bind(group)
    .bind(subject)
    .bind(id)
    .bind(limit)
    .bind(bytes_max)
    .fetch_all(connection)
    .await?;
    let mut bytes = 0;
    for row in &rows {
        bytes += row.try_get::<i64, _>("bytes")?;
    }
    let letters = rows.iter().map(letter).collect::<Result<Vec<_>, _>>()?;
    let may_have_more = bytes >= bytes_max || i64::try_from(letters.len()).is_ok_and(|count| count >= limit);
    Ok(Locked { letters, may_have_more })
}

/// A letter was handled after all.
pub(super) async fn mark_redriven(connection: &mut PgConnection, id: Uuid) -> Result<(), DatabaseError> {
    database::query(
        "-- dead_letter.mark_redriven
        update dead_letters set state = 'redriven', redrive_count = redrive_count + 1 where id = $1",
    )
    .bind(id)
    .execute(connection)
    .await?;
    Ok(())
}

/// A letter failed again: it stays parked, for its latest reason.
pub(super) async fn mark_failed(
    connection: &mut PgConnection,
    id: Uuid,
    class: &str,
    reason: &str,
) -> Result<(), DatabaseError> {
    database::query(
        "-- dead_letter.mark_failed
        update dead_letters
        set class = $2, reason = $3, redrive_count = redrive_count + 1, blocked_by = null
        where id = $1",
    )
    .bind(id)
    .bind(class)
    .bind(reason)
    .execute(connection)
    .await?;
    Ok(())
}

/// Replaces the edited parts of a parked letter, which then belongs to the aggregate that it names. Its redrives are counted anew:
/// those before have tried something else. False: it is not parked.
pub(super) async fn edit(
    connection: &mut PgConnection,
    group: &str,
    id: Uuid,
    edited: &Edited,
    subject: Option<&str>,
) -> Result<bool, DatabaseError> {
    let done = database::query(
        "-- dead_letter.edit
        update dead_letters
        set edited_key = $3, edited_value = $4, edited_headers = $5, subject = $6, redrive_count = 0
        where group_name = $1 and id = $2 and state = 'parked'",
    )
    .bind(group)
    .bind(id)
    .bind(&edited.key)
    .bind(&edited.value)
    .bind(edited.headers.as_deref().map(encode_headers))
    .bind(subject)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What operators do to letters as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// Parked letters are given up.
    Discard,
    /// Discarded letters are parked again, with their edits and their count of redrives. What a consumer is handling meanwhile counts as
    /// handled before: it has seen none that blocks it.
    Restore,
}

impl Move {
    /// Of its transaction.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Discard => "dead_letter.discard",
            Self::Restore => "dead_letter.restore",
        }
    }

    /// What the audit calls it.
    pub(super) const fn action(self) -> Action {
        match self {
            Self::Discard => Action::Discard,
            Self::Restore => Action::Restore,
        }
    }
}

/// Returns those of the letters that were moved.
pub(super) async fn move_letters(
    connection: &mut PgConnection,
    group: &str,
    ids: &[Uuid],
    which: Move,
) -> Result<Vec<Uuid>, DatabaseError> {
    let query = match which {
        Move::Discard => database::query(
            "-- dead_letter.discard
            update dead_letters set state = 'discarded'
            where group_name = $1 and id = any($2) and state = 'parked' returning id",
        ),
        Move::Restore => database::query(
            "-- dead_letter.restore
            update dead_letters set state = 'parked'
            where group_name = $1 and id = any($2) and state = 'discarded' returning id",
        ),
    };
    Ok(query.bind(group).bind(ids).scalars(connection).await?)
}

/// Writes an audit row.
pub(super) async fn audit(
    connection: &mut PgConnection,
    group: &str,
    actor: &str,
    action: Action,
    letter: Option<Uuid>,
    detail: &str,
) -> Result<(), DatabaseError> {
    database::query(
        "-- dead_letter.audit
        insert into dead_letter_audit (id, group_name, actor, action, dead_letter_id, detail)
        values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(Uuid::now_v7())
    .bind(group)
    .bind(actor)
    .bind(action.as_str())
    .bind(letter)
    .bind(detail)
    .execute(connection)
    .await?;
    Ok(())
}

/// Of which letter, and from when until when. An absent value matches everything.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AuditFilter {
    pub(super) letter: Option<Uuid>,
    pub(super) since: Option<OffsetDateTime>,
    pub(super) until: Option<OffsetDateTime>,
}

/// How far an entry's time, which is the database's, may be from that in its id, which is the service's.
const CLOCKS_APART_MAX: time::Duration = time::Duration::DAY;

impl AuditFilter {
    /// Bounds of the ids that can match, the second one exclusive: the ids are of version 7, so these are found by their index, and what is
    /// long before or after is not gone through. `None` is none.
    fn ids(&self, before: Option<Uuid>) -> (Option<Uuid>, Option<Uuid>) {
        let first = self.since.and_then(|since| since.checked_sub(CLOCKS_APART_MAX)).map(first_id_at);
        let end = self.until.and_then(|until| until.checked_add(CLOCKS_APART_MAX)).map(first_id_at);
        (first, before.into_iter().chain(end).min())
    }
}

/// No id of version 7 that was made at this time or later is before it.
fn first_id_at(at: OffsetDateTime) -> Uuid {
    let ms = u128::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    Uuid::from_u128(ms << 80)
}

/// The audit, newest first; only what is older than `before` if it is given.
pub(super) async fn audit_entries(
    connection: &mut PgConnection,
    group: &str,
    filter: AuditFilter,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<AuditEntry>, DatabaseError> {
    let (first, end) = filter.ids(before);
    let rows = database::query(
        "-- dead_letter.audit_entries
        select id, at, actor, action, dead_letter_id, detail from dead_letter_audit
        where group_name = $1
            and ($2::uuid is null or dead_letter_id = $2)
            and ($3::timestamptz is null or at >= $3)
            and ($4::timestamptz is null or at < $4)
            and ($5::uuid is null or id >= $5)
            and ($6::uuid is null or id < $6)
        order by id desc limit $7",
    )
    .bind(group)
    .bind(filter.letter)
    .bind(filter.since)
    .bind(filter.until)
    .bind(first)
    .bind(end)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(AuditEntry {
                id: row.try_get("id")?,
                at: row.try_get("at")?,
                actor: row.try_get("actor")?,
                action: row.try_get("action")?,
                letter: row.try_get("dead_letter_id")?,
                detail: row.try_get("detail")?,
            })
        })
        .collect()
}

/// Parked letters by topic and class.
pub(super) async fn stats(connection: &mut PgConnection, group: &str) -> Result<Vec<Stats>, DatabaseError> {
    let rows = database::query(
        "-- dead_letter.stats
        select topic, class, count(*) as parked, min(parked_at) as oldest_parked_at
        from dead_letters where group_name = $1 and state = 'parked'
        group by topic, class order by topic, class",
    )
    .bind(group)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Stats {
                topic: row.try_get("topic")?,
                class: row.try_get("class")?,
                parked: row.try_get("parked")?,
                oldest_parked_at: row.try_get("oldest_parked_at")?,
            })
        })
        .collect()
}

fn summary(row: &PgRow) -> Result<Summary, DatabaseError> {
    let state: String = row.try_get("state")?;
    Ok(Summary {
        id: row.try_get("id")?,
        class: row.try_get("class")?,
        reason: row.try_get("reason")?,
        state: State::parse(&state).ok_or(DatabaseError::Corrupt("state of a dead letter".into()))?,
        topic: row.try_get("topic")?,
        partition: row.try_get("partition")?,
        offset: row.try_get("record_offset")?,
        timestamp_ms: row.try_get("record_timestamp_ms")?,
        subject: row.try_get("subject")?,
        blocked_by: row.try_get("blocked_by")?,
        attempts: row.try_get("attempts")?,
        redrive_count: row.try_get("redrive_count")?,
        first_failed_at: row.try_get("first_failed_at")?,
        parked_at: row.try_get("parked_at")?,
        is_edited: row.try_get("is_edited")?,
    })
}

fn letter(row: &PgRow) -> Result<Letter, DatabaseError> {
    let summary = summary(row)?;
    let headers: Vec<u8> = row.try_get("headers")?;
    let bytes = |column| -> Result<Option<Vec<u8>>, DatabaseError> { Ok(row.try_get(column)?) };
    Ok(Letter {
        id: summary.id,
        class: summary.class,
        reason: summary.reason,
        state: summary.state,
        record: Record {
            topic: summary.topic,
            partition: summary.partition,
            offset: summary.offset,
            timestamp_ms: summary.timestamp_ms,
            key: bytes("key")?.map(Into::into),
            value: bytes("value")?.map(Into::into),
            headers: stored_headers(&headers)?,
            headers_unreadable: false,
        },
        event_id: row.try_get("event_id")?,
        subject: summary.subject,
        blocked_by: summary.blocked_by,
        attempts: summary.attempts,
        redrive_count: summary.redrive_count,
        first_failed_at: summary.first_failed_at,
        parked_at: summary.parked_at,
        edited: Edited {
            key: bytes("edited_key")?,
            value: bytes("edited_value")?,
            headers: bytes("edited_headers")?.map(|headers| stored_headers(&headers)).transpose()?,
        },
    })
}

fn stored_headers(bytes: &[u8]) -> Result<Vec<Header>, DatabaseError> {
    decode_headers(bytes).map_err(|_| DatabaseError::Corrupt("headers of a dead letter".into()))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    /// Entries of a time are looked for among the ids of that time, with a day on both sides for clocks that are wrong.
    #[test]
    fn ids_of_a_time_are_bounded() {
        let at = datetime!(2026-01-31 12:00 UTC);
        let id_of = |at: OffsetDateTime| {
            let seconds = u64::try_from(at.unix_timestamp()).expect("after 1970");
            Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0))
        };
        let filter = AuditFilter { since: Some(at), until: Some(at), ..AuditFilter::default() };
        let (first, end) = filter.ids(None);
        let (first, end) = (first.expect("bounded"), end.expect("bounded"));
        for inside in [at - CLOCKS_APART_MAX, at, at + CLOCKS_APART_MAX - time::Duration::SECOND] {
            assert!((first..end).contains(&id_of(inside)), "{inside}");
        }
        for outside in [at - CLOCKS_APART_MAX - time::Duration::SECOND, at + CLOCKS_APART_MAX] {
            assert!(!(first..end).contains(&id_of(outside)), "{outside}");
        }
        let page = id_of(at);
        assert_eq!(filter.ids(Some(page)).1, Some(page), "a page goes on where the last one has ended");
        assert_eq!(AuditFilter::default().ids(None), (None, None));
        let never = AuditFilter { since: Some(OffsetDateTime::UNIX_EPOCH), ..AuditFilter::default() };
        assert_eq!(never.ids(None).0, Some(Uuid::nil()), "nothing is before 1970");
    }
}
