//! The relay's statements. They run on its own connection, which holds the leader's lock.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicI64, Ordering},
};

use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgRow};

use super::flight::{Lane, Place, Row};
use crate::{
    database::{self, DatabaseError, bounded},
    planted::{Bug, planted},
};

/// Rows published at a time; bounds the memory of the relay to this many records.
pub(super) const CLAIM_ROWS_MAX: usize = 500;
/// Lanes that were held back and are tried at a time.
const RETRY_LANES_MAX: i64 = 50;
/// Rows of one such lane, once its oldest could be published.
const RETRY_ROWS_MAX: i64 = 20;
/// Pause after the first failure of a lane, doubled with each up to the second, in seconds.
const RETRY_PAUSE_S_MIN: f64 = 1.0;
const RETRY_PAUSE_S_MAX: f64 = 60.0;
/// Characters of an error that are kept.
const ERROR_CHARACTERS_MAX: usize = 512;

/// The advisory lock of the leader: "HOLDFAST" in ASCII. Each service has a database of its own.
const LEADER_LOCK: i64 = i64::from_be_bytes(*b"HOLDFAST");

/// How much waits, and what makes reading the table slow.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Measure {
    /// Age of the oldest row that isn't held back.
    pub(super) oldest_age_s: f64,
    /// Rows that are held back, and the age of the oldest.
    pub(super) held_rows: i64,
    pub(super) held_age_s: f64,
    /// Lanes that are held back.
    pub(super) lanes: i64,
    /// Deleted rows that vacuum can't remove, as the server estimates: each claim visits them.
    pub(super) dead_rows: i64,
    /// Age of the oldest open transaction of this database, the usual cause.
    pub(super) transaction_age_s: f64,
}

pub(super) async fn try_lock(connection: &mut PgConnection) -> Result<bool, DatabaseError> {
    let query =
        database::query("-- relay.try_lock\nselect pg_try_advisory_lock($1) as leader").bind(LEADER_LOCK);
    let row = bounded(query.fetch_one(connection)).await?;
    Ok(row.try_get("leader")?)
}

/// Where a relay that does not lead says that there are new rows. Notices stay in their database.
pub(super) const WAKE_CHANNEL: &str = "holdfast_outbox";

/// Has the leader look at the table, in whatever process it is.
pub(super) async fn wake_leader(connection: &mut PgConnection) -> Result<(), DatabaseError> {
    let statement = database::query("-- relay.wake_leader\nselect pg_notify($1, '')").bind(WAKE_CHANNEL);
    bounded(statement.execute(connection)).await?;
    Ok(())
}

/// For the bug that the next look is behind it.
static LAST_PUBLISHED: AtomicI64 = AtomicI64::new(0);

/// Every change of the relay may be lost when the server crashes: a row that is there again is published again, and the consumers'
/// inboxes recognise it; a lane that is no longer held back is tried and refused again. So none of them waits for the disk.
pub(super) async fn wait_for_no_disk(connection: &mut PgConnection) -> Result<(), DatabaseError> {
    let statement = database::query("-- relay.wait_for_no_disk\nset synchronous_commit = off");
    bounded(statement.execute(connection)).await?;
    Ok(())
}

/// Deletes rows that the broker has acknowledged, and returns the oldest `limit` of the others after `after` that are not on their way:
/// one round trip.
pub(super) async fn delete_and_claim(
    connection: &mut PgConnection,
    acknowledged: &[i64],
    after: i64,
    in_flight: Vec<i64>,
    limit: usize,
) -> Result<Vec<Row>, DatabaseError> {
    if planted(Bug::OutboxAfterLastId) {
        LAST_PUBLISHED.fetch_max(acknowledged.iter().copied().max().unwrap_or(0), Ordering::Relaxed);
    }
    let after = if planted(Bug::OutboxAfterLastId) { LAST_PUBLISHED.load(Ordering::Relaxed) } else { after };
    // The read doesn't see what the deletion does: both see the table as it was before.
    let query = database::query(
        "-- relay.delete_and_claim
        with gone as (
            delete from outbox where id = any($1)
        )
        select id, topic, key, value, headers from outbox
        where id > $2 and id <> all($1) and id <> all($3) order by id limit $4",
    )
    .bind(acknowledged)
    .bind(after)
    .bind(in_flight)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX));
    let rows = bounded(query.fetch_all(connection)).await?;
    rows.iter().map(|row| read(row, Place::Outbox)).collect()
}

/// The oldest rows of held-back lanes whose pause has ended: one per lane whose last attempt failed, more per lane that
/// works again.
pub(super) async fn due(connection: &mut PgConnection, busy: &[Lane]) -> Result<Vec<Row>, DatabaseError> {
    let query = database::query(
        "-- relay.due
        select h.id, h.topic, h.key, h.value, h.headers
        from (
            select lane, attempts from outbox_lanes
            where retry_at <= clock_timestamp() and lane <> all($1)
            order by retry_at limit $2
        ) as l,
        lateral (
            select * from outbox_held where lane = l.lane order by id
            limit case when l.attempts = 0 then $3 else 1 end
        ) as h
        order by h.id",
    )
    .bind(bytes(busy))
    .bind(RETRY_LANES_MAX)
    .bind(RETRY_ROWS_MAX);
    let rows = bounded(query.fetch_all(connection)).await?;
    rows.iter().map(|row| read(row, Place::HeldBack)).collect()
}

fn read(row: &PgRow, place: Place) -> Result<Row, DatabaseError> {
    Ok(Row {
        id: row.try_get("id")?,
        topic: row.try_get("topic")?,
        key: row.try_get("key")?,
        value: row.try_get("value")?,
        headers: row.try_get("headers")?,
        place,
    })
}

fn bytes(lanes: &[Lane]) -> Vec<Vec<u8>> {
    lanes.iter().map(Lane::bytes).collect()
}

/// Deletes held-back rows that the broker has acknowledged, and releases lanes that this empties.
pub(super) async fn delete_held(
    connection: &mut PgConnection,
    acknowledged: &[(i64, Lane)],
) -> Result<(), DatabaseError> {
    let (ids, lanes): (Vec<i64>, HashSet<Lane>) = acknowledged.iter().copied().unzip();
    let lanes = bytes(&lanes.into_iter().collect::<Vec<_>>());
    bounded(async {
        let mut transaction = connection.begin().await?;
        database::query("-- relay.delete_held\ndelete from outbox_held where id = any($1)")
            .bind(ids)
            .execute(&mut *transaction)
            .await?;
        database::query(
            "-- relay.lane_goes
            update outbox_lanes set attempts = 0, retry_at = clock_timestamp() where lane = any($1)",
        )
        .bind(&lanes)
        .execute(&mut *transaction)
        .await?;
        database::query(
            "-- relay.release
            delete from outbox_lanes as l
            where l.lane = any($1) and not exists (select from outbox_held as h where h.lane = l.lane)",
        )
        .bind(&lanes)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await
    })
    .await
}

/// A row that was refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) id: i64,
    pub(super) lane: Lane,
    pub(super) error: String,
}

/// Holds the lanes of `refused` back for a growing pause, and moves their rows out of the way of the others.
pub(super) async fn hold_back(
    connection: &mut PgConnection,
    refused: &[Refused],
) -> Result<(), DatabaseError> {
    // One entry of each lane: a burst that fails as a whole is one failure.
    let mut seen = HashSet::new();
    let (mut lanes, mut errors) = (Vec::new(), Vec::new());
    for row in refused {
        if seen.insert(row.lane) {
            lanes.push(row.lane.bytes());
            errors.push(row.error.chars().take(ERROR_CHARACTERS_MAX).collect::<String>());
        }
    }
    bounded(async {
        let mut transaction = connection.begin().await?;
        database::query(
            "-- relay.hold_lane
            insert into outbox_lanes (lane, attempts, retry_at, last_error)
            select lane, 1, clock_timestamp() + make_interval(secs => $3), error
            from unnest($1::bytea[], $2::text[]) as l (lane, error)
            on conflict (lane) do update set
                attempts = outbox_lanes.attempts + 1,
                last_error = excluded.last_error,
                -- Jittered: lanes of one topic aren't all tried at once.
                retry_at = clock_timestamp() + make_interval(secs =>
                    least($4, $3 * power(2, least(outbox_lanes.attempts, 20))) * (0.5 + random() / 2))",
        )
        .bind(lanes)
        .bind(errors)
        .bind(RETRY_PAUSE_S_MIN)
        .bind(RETRY_PAUSE_S_MAX)
        .execute(&mut *transaction)
        .await?;
        let rows: Vec<(i64, Lane)> = refused.iter().map(|row| (row.id, row.lane)).collect();
        move_rows(&mut transaction, &rows).await?;
        transaction.commit().await
    })
    .await
}

/// Which of `lanes` are held back.
pub(super) async fn held_back(
    connection: &mut PgConnection,
    lanes: &[Lane],
) -> Result<HashSet<Lane>, DatabaseError> {
    let query = database::query("-- relay.held_back\nselect lane from outbox_lanes where lane = any($1)")
        .bind(bytes(lanes));
    let rows = bounded(query.fetch_all(connection)).await?;
    rows.iter()
        .map(|row| {
            let lane: Vec<u8> = row.try_get("lane")?;
            Lane::from_bytes(&lane).ok_or_else(|| DatabaseError::Corrupt("outbox lane".into()))
        })
        .collect()
}

/// Moves rows behind the held-back ones of their lane. An operator's drop may release a lane meanwhile: its rows stay
/// where they are and are claimed again.
pub(super) async fn queue_behind(
    connection: &mut PgConnection,
    rows: &[(i64, Lane)],
) -> Result<(), DatabaseError> {
    bounded(async {
        let mut transaction = connection.begin().await?;
        let lanes: Vec<Lane> = rows.iter().map(|(_, lane)| *lane).collect();
        let locked = database::query(
            "-- relay.lock_lanes\nselect lane from outbox_lanes where lane = any($1) order by lane for share",
        )
        .bind(bytes(&lanes))
        .fetch_all(&mut *transaction)
        .await?;
        let locked: HashSet<Vec<u8>> =
            locked.iter().map(|row| row.try_get("lane")).collect::<Result<_, _>>()?;
        let rows: Vec<(i64, Lane)> =
            rows.iter().filter(|(_, lane)| locked.contains(&lane.bytes())).copied().collect();
        move_rows(&mut transaction, &rows).await?;
        transaction.commit().await
    })
    .await
}

async fn move_rows(connection: &mut PgConnection, rows: &[(i64, Lane)]) -> Result<(), sqlx::Error> {
    let (ids, lanes): (Vec<i64>, Vec<Vec<u8>>) = rows.iter().map(|(id, lane)| (*id, lane.bytes())).unzip();
    database::query(
        "-- relay.move_to_held
        with gone as (
            delete from outbox where id = any($1) returning id, topic, key, value, headers, created_at
        )
        insert into outbox_held (id, lane, topic, key, value, headers, created_at)
        select id, lane, topic, key, value, headers, created_at
        from gone join unnest($1::bigint[], $2::bytea[]) as l (id, lane) using (id)",
    )
    .bind(ids)
    .bind(lanes)
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn measure(connection: &mut PgConnection) -> Result<Measure, DatabaseError> {
    let query = database::query(
        "-- relay.measure
        select
            coalesce((
                select extract(epoch from clock_timestamp() - created_at) from outbox order by id limit 1
            ), 0)::float8 as oldest_age_s,
            (select count(*) from outbox_held) as held_rows,
            coalesce((
                select extract(epoch from clock_timestamp() - created_at) from outbox_held order by id limit 1
            ), 0)::float8 as held_age_s,
            (select count(*) from outbox_lanes) as lanes,
            coalesce(pg_stat_get_dead_tuples('outbox'::regclass), 0) as dead_rows,
            coalesce((
                select extract(epoch from clock_timestamp() - min(xact_start)) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid()
            ), 0)::float8 as transaction_age_s",
    );
    let row = bounded(query.fetch_one(connection)).await?;
    Ok(Measure {
        oldest_age_s: row.try_get("oldest_age_s")?,
        held_rows: row.try_get("held_rows")?,
        held_age_s: row.try_get("held_age_s")?,
        lanes: row.try_get("lanes")?,
        dead_rows: row.try_get("dead_rows")?,
        transaction_age_s: row.try_get("transaction_age_s")?,
    })
}
