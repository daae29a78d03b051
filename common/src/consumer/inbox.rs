//! SQL of the inbox and of the tally of each partition.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::{
    database::{self, DatabaseError},
    event::{Metadata, payload_hash},
    record::Record,
};

/// Topic and partition.
pub type Place = (String, i32);

/// What was done with the records of one partition in one transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Applied now.
    pub applied: i64,
    /// Applied before.
    pub duplicates: i64,
    /// Went to the dead letters.
    pub parked: i64,
    /// The parked ones that only wait behind an earlier one.
    pub blocked: i64,
    /// Could not be kept: only their place went to the dead letters.
    pub set_aside: i64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.applied += other.applied;
        self.duplicates += other.duplicates;
        self.parked += other.parked;
        self.blocked += other.blocked;
        self.set_aside += other.set_aside;
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |mut total, counts| {
            total += counts;
            total
        })
    }
}

/// How far a partition was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// The offset after the last record that was counted.
    pub next_offset: i64,
    /// The inbox key of the record before it, where it is known.
    pub last_event_id: Option<Uuid>,
}

impl Position {
    /// Moves on to what follows a record. A record below the position that nobody has seen belongs to a different log
    /// than the one that was counted: the topic was recreated, or its log was truncated. The position goes back to it;
    /// otherwise a restart would skip records that were never read.
    pub(super) fn pass(&mut self, offset: i64, event_id: Uuid, novelty: Novelty) {
        if offset >= self.next_offset || novelty == Novelty::FirstTime {
            *self = Self { next_offset: offset + 1, last_event_id: Some(event_id) };
        }
    }
}

/// Whether a record was in the inbox already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Novelty {
    FirstTime,
    SeenBefore,
}

/// How a partition is left by a batch whose records are all new and all applied, as they nearly always are: this is written with the first
/// statement, and [`advance`] has nothing to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Forecast {
    position: Position,
    applied: i64,
}

impl Forecast {
    fn came_true(self, position: Position, count: Counts) -> bool {
        position == self.position && count == Counts { applied: self.applied, ..Counts::default() }
    }
}

/// That of these records, in their order.
pub(super) fn forecast<'r>(records: impl Iterator<Item = &'r Record>) -> BTreeMap<Place, Forecast> {
    let mut forecasts = BTreeMap::<Place, Forecast>::new();
    for record in records {
        let forecast = forecasts.entry((record.topic.clone(), record.partition)).or_default();
        forecast.position.pass(record.offset, Metadata::inbox_id(record), Novelty::FirstTime);
        forecast.applied += 1;
    }
    forecasts
}

/// The state of the partitions of a batch.
#[derive(Debug, Default)]
pub(super) struct Positions {
    /// Before the batch.
    pub(super) by_place: HashMap<Place, Position>,
    /// What is written of them already.
    pub(super) written: BTreeMap<Place, Forecast>,
    /// Whether the group has any parked letters. Usually it has none, and then no aggregate needs to be looked up.
    pub(super) any_parked: bool,
}

/// One inbox row.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its key.
    pub event_id: Uuid,
    /// Where the record was.
    pub topic: String,
    /// SHA-256 of the value.
    pub payload_hash: Vec<u8>,
}

impl Entry {
    /// Of a record under its own id.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self {
            event_id: Metadata::inbox_id(record),
            topic: record.topic.clone(),
            payload_hash: payload_hash(record),
        }
    }
}

/// Entries as columns.
fn columns(entries: &[Entry]) -> (Vec<Uuid>, Vec<&str>, Vec<&[u8]>) {
    let ids = entries.iter().map(|entry| entry.event_id).collect();
    let topics = entries.iter().map(|entry| entry.topic.as_str()).collect();
    let hashes = entries.iter().map(|entry| entry.payload_hash.as_slice()).collect();
    (ids, topics, hashes)
}

/// Locks the positions of the partitions in `forecasts`, moves them on as it says, and writes the entries that don't exist yet, in one round
/// trip. Returns the positions as they were, which of them were moved on, and the ids that were written. A partition that is new has no row
/// that could be moved on.
///
/// The locks make two members that both believe that they own a partition take turns. An entry that exists already is a
/// duplicate, not an error (pitfalls P26). Both inserts find what was committed since the statement began, which its look at the positions does
/// not see: a new position, and entries of whoever had the locks before.
pub(super) async fn lock_and_insert(
    connection: &mut PgConnection,
    group: &str,
    forecasts: &BTreeMap<Place, Forecast>,
    entries: &[Entry],
) -> Result<(Positions, HashSet<Uuid>), DatabaseError> {
    // Both are sorted, so that everybody locks in the same order.
    let (topics, partitions): (Vec<_>, Vec<_>) = forecasts.keys().cloned().unzip();
    let nexts: Vec<i64> = forecasts.values().map(|forecast| forecast.position.next_offset).collect();
    let lasts: Vec<Option<Uuid>> =
        forecasts.values().map(|forecast| forecast.position.last_event_id).collect();
    let applied: Vec<i64> = forecasts.values().map(|forecast| forecast.applied).collect();
    let (event_ids, event_topics, hashes) = columns(entries);
    let rows = database::query(
        "-- inbox.lock_and_insert
        with places as (
            select * from unnest($2::text[], $3::int[], $7::bigint[], $8::uuid[], $9::bigint[])
                with ordinality as r (topic, partition, next_offset, last_event_id, applied, position)
        ), locked as (
            select p.topic, p.partition, p.next_offset, p.last_event_id
            from places join consumer_positions as p using (topic, partition)
            where p.group_name = $1
            order by places.position
            for no key update of p
        ), moved as (
            update consumer_positions as p
            set next_offset = r.next_offset, last_event_id = r.last_event_id, applied = p.applied + r.applied
            from locked join places as r using (topic, partition)
            where p.group_name = $1 and p.topic = locked.topic and p.partition = locked.partition
            returning p.topic, p.partition
        ), made as (
            insert into consumer_positions as p (group_name, topic, partition)
            select $1, topic, partition from places
            where (topic, partition) not in (select topic, partition from locked)
            order by position
            on conflict (group_name, topic, partition) do update set next_offset = p.next_offset
            returning topic, partition, next_offset, last_event_id
        ), inserted as (
            insert into inbox (group_name, event_id, topic, payload_hash)
            select $1, event_id, topic, payload_hash
            from unnest($4::uuid[], $5::text[], $6::bytea[]) as r (event_id, topic, payload_hash)
            order by event_id
            on conflict (group_name, event_id) do nothing
            returning event_id
        )
        select topic, partition, next_offset, last_event_id, null::uuid as event_id,
            (topic, partition) in (select topic, partition from moved) as is_moved,
            exists (select from dead_letters where group_name = $1 and state = 'parked') as any_parked
        from (select * from locked union all select * from made) as positions
        union all
        select null, null, null, null, event_id, false, false from inserted",
    )
    .bind(group)
    .bind(topics)
    .bind(partitions)
    .bind(event_ids)
    .bind(event_topics)
    .bind(hashes)
    .bind(nexts)
    .bind(lasts)
    .bind(applied)
    .fetch_all(connection)
    .await?;
    let (mut positions, mut inserted) = (Positions::default(), HashSet::new());
    for row in rows {
        if let Some(event_id) = row.try_get("event_id")? {
            inserted.insert(event_id);
            continue;
        }
        let place: Place = (row.try_get("topic")?, row.try_get("partition")?);
        let position = Position {
            next_offset: row.try_get("next_offset")?,
            last_event_id: row.try_get("last_event_id")?,
        };
        if row.try_get("is_moved")?
            && let Some(forecast) = forecasts.get(&place)
        {
            positions.written.insert(place.clone(), *forecast);
        }
        positions.by_place.insert(place, position);
        positions.any_parked |= row.try_get::<bool, _>("any_parked")?;
    }
    Ok((positions, inserted))
}

/// Those of these events that were dealt with.
pub(crate) async fn known(
    connection: &mut PgConnection,
    group: &str,
    event_ids: &[Uuid],
) -> Result<HashSet<Uuid>, DatabaseError> {
    if event_ids.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = database::query(
        "-- inbox.known
        select event_id from inbox where group_name = $1 and event_id = any($2)",
    )
    .bind(group)
    .bind(event_ids)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| Ok(row.try_get("event_id")?)).collect()
}

/// Writes the entries that don't exist yet and returns their ids: for records that are entered under an id other than
/// their own.
pub(super) async fn insert(
    connection: &mut PgConnection,
    group: &str,
    entries: &[Entry],
) -> Result<HashSet<Uuid>, DatabaseError> {
    if entries.is_empty() {
        return Ok(HashSet::new());
    }
    let (ids, topics, hashes) = columns(entries);
    let rows = database::query(
        "-- inbox.insert
        insert into inbox (group_name, event_id, topic, payload_hash)
        select $1, event_id, topic, payload_hash
        from unnest($2::uuid[], $3::text[], $4::bytea[]) as r (event_id, topic, payload_hash)
        order by event_id
        on conflict (group_name, event_id) do nothing
        returning event_id",
    )
    .bind(group)
    .bind(ids)
    .bind(topics)
    .bind(hashes)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| Ok(row.try_get("event_id")?)).collect()
}

/// The payload hashes of events that are in the inbox.
pub(super) async fn payload_hashes(
    connection: &mut PgConnection,
    group: &str,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Vec<u8>>, DatabaseError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = database::query(
        "-- inbox.payload_hashes
        select event_id, payload_hash from inbox where group_name = $1 and event_id = any($2)",
    )
    .bind(group)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| Ok((row.try_get("event_id")?, row.try_get("payload_hash")?))).collect()
}

/// Adds what was done to the tally, and moves the positions on, but for what is `written` already. Their rows are locked by
/// [`lock_and_insert`].
pub(super) async fn advance(
    connection: &mut PgConnection,
    group: &str,
    counts: &BTreeMap<Place, Counts>,
    positions: &HashMap<Place, Position>,
    written: &BTreeMap<Place, Forecast>,
) -> Result<(), DatabaseError> {
    let (mut topics, mut partitions) = (Vec::new(), Vec::new());
    let (mut nexts, mut lasts) = (Vec::new(), Vec::new());
    let (mut applied, mut duplicates) = (Vec::new(), Vec::new());
    let (mut parked, mut set_aside) = (Vec::new(), Vec::new());
    let places: BTreeSet<&Place> = counts.keys().chain(written.keys()).collect();
    for place in places {
        let count = counts.get(place).copied().unwrap_or_default();
        let position = positions.get(place).copied().unwrap_or_default();
        let before = written.get(place).copied();
        if before.is_some_and(|forecast| forecast.came_true(position, count)) {
            continue;
        }
        topics.push(place.0.as_str());
        partitions.push(place.1);
        nexts.push(position.next_offset);
        lasts.push(position.last_event_id);
        applied.push(count.applied - before.unwrap_or_default().applied);
        duplicates.push(count.duplicates);
        parked.push(count.parked);
        set_aside.push(count.set_aside);
    }
    if topics.is_empty() {
        return Ok(());
    }
    database::query(
        "-- inbox.advance
        update consumer_positions as p
        set next_offset = r.next_offset,
            last_event_id = r.last_event_id,
            applied = p.applied + r.applied,
            duplicates = p.duplicates + r.duplicates,
            parked = p.parked + r.parked,
            set_aside = p.set_aside + r.set_aside
        from unnest(
                $2::text[], $3::int[], $4::bigint[], $5::uuid[], $6::bigint[], $7::bigint[], $8::bigint[],
                $9::bigint[]
            ) as r (topic, partition, next_offset, last_event_id, applied, duplicates, parked, set_aside)
        where p.group_name = $1 and p.topic = r.topic and p.partition = r.partition",
    )
    .bind(group)
    .bind(topics)
    .bind(partitions)
    .bind(nexts)
    .bind(lasts)
    .bind(applied)
    .bind(duplicates)
    .bind(parked)
    .bind(set_aside)
    .execute(connection)
    .await?;
    Ok(())
}
