//! Redrives as others see them: who redrives what, since when, how far it is, and whether somebody has cancelled it.
//!
//! Each command of an operator has a row in each service that it redrives at. It is counted up in the transaction that handles the
//! letters, so it is exact, however the service ends. That transaction locks the row first, and so does whoever cancels: once a redrive is
//! cancelled, no further letter is handled by it. A row does not say that its redrive is under way, because who dies can't write that:
//! the lock of the group says so (`dead_letter::redrive`), which the server releases with the connection of its holder.

use std::{fmt, time::Duration};

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{Filter, redrive::Outcome};
use crate::{
    database::{self, DatabaseError},
    janitor::Expiring,
};

/// Rows of redrives that ended long ago.
pub const REDRIVES: Expiring = Expiring {
    purge: "-- dead_letter.purge_redrives
        delete from dead_letter_redrives where ctid = any(array(
            select ctid from dead_letter_redrives where seen_at < now() - make_interval(secs => $1) limit $2
        ))",
    retention: Duration::from_secs(90 * 24 * 3600),
};

/// Bytes of the description of what was selected; a filter may have texts of any length.
const SELECTION_BYTES_MAX: usize = 512;

/// What has become of a redrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedriveState {
    /// It is under way.
    Running,
    /// It has tried all that was selected.
    Finished,
    /// Somebody has cancelled it.
    Cancelled,
    /// Its command went away: it was interrupted or killed, or its connection broke.
    Interrupted,
    /// Its database went away for too long.
    Failed,
    /// Its service died.
    Abandoned,
}

impl RedriveState {
    /// Its value in the table; a redrive that is under way has none.
    const fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Running => None,
            Self::Finished => Some("finished"),
            Self::Cancelled => Some("cancelled"),
            Self::Interrupted => Some("interrupted"),
            Self::Failed => Some("failed"),
            Self::Abandoned => Some("abandoned"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Finished, Self::Cancelled, Self::Interrupted, Self::Failed, Self::Abandoned]
            .into_iter()
            .find(|state| state.as_str() == Some(text))
    }
}

/// Letters by what was done with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handled after all.
    pub redriven: i64,
    /// Failed again.
    pub failed: i64,
    /// Redriven too often before.
    pub refused: i64,
    /// Wait behind one of these.
    pub behind: i64,
}

impl Counts {
    /// All of them.
    #[must_use]
    pub const fn sum(&self) -> i64 {
        self.redriven + self.failed + self.refused + self.behind
    }

    pub(super) fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Redriven => self.redriven += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::Behind => self.behind += 1,
            Outcome::Planned | Outcome::WouldFail(_) => {}
        }
    }
}

/// A redrive.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Made by the command.
    pub id: Uuid,
    /// Who redrives.
    pub actor: String,
    /// Which letters, for people.
    pub selection: String,
    /// Since when.
    pub started_at: OffsetDateTime,
    /// The last sign of life.
    pub seen_at: OffsetDateTime,
    /// Letters that were selected, as far as it is known.
    pub letters: i64,
    /// What was done.
    pub counts: Counts,
    /// What has become of it.
    pub state: RedriveState,
    /// When it ended; of one whose service died, when it was last seen.
    pub ended_at: Option<OffsetDateTime>,
    /// Who has cancelled it.
    pub cancelled_by: Option<String>,
}

impl fmt::Display for Progress {
    /// `operator (alice) redrives since 2026-01-31T12:00:00Z (281 of 800 letters done)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.started_at.replace_nanosecond(0).unwrap_or(self.started_at);
        let since = since.format(&Rfc3339).unwrap_or_default();
        write!(
            f,
            "{} redrives since {since} ({} of {} letters done)",
            self.actor,
            self.counts.sum(),
            self.letters
        )
    }
}

/// The number of the lock of a group.
macro_rules! lock_number {
    () => {
        "hashtextextended('holdfast redrive ' || $1, 0)"
    };
}

/// What a filter selects, for people.
#[must_use]
pub fn selection(filter: &Filter) -> String {
    let mut parts = Vec::new();
    match filter.ids.as_slice() {
        [] => {}
        [only] => parts.push(only.to_string()),
        several => parts.push(format!("{} letters by their ids", several.len())),
    }
    for (name, value) in [("topic", &filter.topic), ("class", &filter.class), ("order", &filter.subject)] {
        parts.extend(value.iter().map(|value| format!("{name} {value}")));
    }
    for (name, time) in [("parked since", filter.since), ("parked before", filter.until)] {
        parts.extend(time.and_then(|time| time.format(&Rfc3339).ok()).map(|time| format!("{name} {time}")));
    }
    if parts.is_empty() {
        return "all letters".to_owned();
    }
    let mut text = parts.join(", ");
    text.truncate(text.floor_char_boundary(SELECTION_BYTES_MAX));
    text
}

/// Whether a redrive may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// It may.
    Go,
    /// Somebody has cancelled it.
    Cancelled {
        /// Who.
        by: String,
    },
}

impl Turn {
    fn of(cancelled_by: Option<String>) -> Self {
        cancelled_by.map_or(Self::Go, |by| Self::Cancelled { by })
    }
}

/// Takes the lock of the group for as long as the connection lives. False: another redrive has it.
pub(super) async fn lock(connection: &mut PgConnection, group: &str) -> Result<bool, sqlx::Error> {
    database::query(concat!(
        "-- dead_letter.begin_redrive\nselect pg_try_advisory_lock(",
        lock_number!(),
        ") as locked"
    ))
    .bind(group)
    .scalar(connection)
    .await
}

/// A call of a redrive begins; the caller has the lock of the group, so whatever has not ended was abandoned.
pub(super) async fn begin(
    connection: &mut PgConnection,
    group: &str,
    id: Uuid,
    actor: &str,
    selection: &str,
) -> Result<Turn, sqlx::Error> {
    database::query(
        "-- dead_letter.abandon_redrives
        update dead_letter_redrives set ended_at = seen_at, outcome = 'abandoned'
        where group_name = $1 and ended_at is null and id <> $2",
    )
    .bind(group)
    .bind(id)
    .execute(&mut *connection)
    .await?;
    let cancelled_by: Option<String> = database::query(
        "-- dead_letter.begin_progress
        insert into dead_letter_redrives as known (group_name, id, actor, selection) values ($1, $2, $3, $4)
        on conflict (group_name, id) do update set
            seen_at = clock_timestamp(),
            ended_at = case when known.cancelled_by is not null then known.ended_at end,
            outcome = case when known.cancelled_by is not null then known.outcome end
        returning cancelled_by",
    )
    .bind(group)
    .bind(id)
    .bind(actor)
    .bind(selection)
    .scalar(connection)
    .await?;
    Ok(Turn::of(cancelled_by))
}

/// So many letters are left.
pub(super) async fn plan(
    connection: &mut PgConnection,
    group: &str,
    id: Uuid,
    letters: i64,
) -> Result<(), DatabaseError> {
    database::query(
        "-- dead_letter.plan_redrive
        update dead_letter_redrives
        set dead_letters = redriven + failed + refused + behind + $3, seen_at = clock_timestamp()
        where group_name = $1 and id = $2",
    )
    .bind(group)
    .bind(id)
    .bind(letters)
    .execute(connection)
    .await?;
    Ok(())
}

/// It is alive. Whether it may go on holds until the end of the transaction.
pub(super) async fn turn(
    connection: &mut PgConnection,
    group: &str,
    id: Uuid,
) -> Result<Turn, DatabaseError> {
    let cancelled_by = database::query(
        "-- dead_letter.redrive_turn
        update dead_letter_redrives set seen_at = clock_timestamp() where group_name = $1 and id = $2
        returning cancelled_by",
    )
    .bind(group)
    .bind(id)
    .scalar(connection)
    .await?;
    Ok(Turn::of(cancelled_by))
}

/// This was done.
pub(super) async fn count(
    connection: &mut PgConnection,
    group: &str,
    id: Uuid,
    done: Counts,
) -> Result<(), DatabaseError> {
    database::query(
        "-- dead_letter.count_redriven
        update dead_letter_redrives
        set redriven = redriven + $3, failed = failed + $4, refused = refused + $5, behind = behind + $6,
            dead_letters = greatest(dead_letters, redriven + failed + refused + behind + $3 + $4 + $5 + $6),
            seen_at = clock_timestamp()
        where group_name = $1 and id = $2",
    )
    .bind(group)
    .bind(id)
    .bind(done.redriven)
    .bind(done.failed)
    .bind(done.refused)
    .bind(done.behind)
    .execute(connection)
    .await?;
    Ok(())
}

/// It has ended, unless it was cancelled, which is an end of its own. One that has found nothing is nothing to look at later.
pub(super) async fn end(
    connection: &mut PgConnection,
    group: &str,
    id: Uuid,
    state: RedriveState,
) -> Result<(), sqlx::Error> {
    if state == RedriveState::Finished {
        database::query(
            "-- dead_letter.forget_redrive
            delete from dead_letter_redrives
            where group_name = $1 and id = $2 and ended_at is null and dead_letters = 0",
        )
        .bind(group)
        .bind(id)
        .execute(&mut *connection)
        .await?;
    }
    database::query(
        "-- dead_letter.end_redrive
        update dead_letter_redrives set ended_at = clock_timestamp(), outcome = $3, seen_at = clock_timestamp()
        where group_name = $1 and id = $2 and ended_at is null",
    )
    .bind(group)
    .bind(id)
    .bind(state.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// Why a redrive was not cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotCancelled {
    /// There is no such redrive.
    Unknown,
    /// It has done everything.
    Finished,
}

/// Whether a redrive was cancelled now, or by somebody before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cancelled {
    Now,
    Before,
}

/// Cancels a redrive that is under way, or may be continued by its command. Waits for its current transaction.
pub(super) async fn cancel(
    connection: &mut PgConnection,
    group: &str,
    id: Uuid,
    actor: &str,
) -> Result<Result<(Cancelled, Progress), NotCancelled>, DatabaseError> {
    let done = database::query(
        "-- dead_letter.cancel_redrive
        update dead_letter_redrives
        set cancelled_by = $3, ended_at = clock_timestamp(), outcome = 'cancelled'
        where group_name = $1 and id = $2 and cancelled_by is null and outcome is distinct from 'finished'",
    )
    .bind(group)
    .bind(id)
    .bind(actor)
    .execute(&mut *connection)
    .await?;
    let Some(progress) = get(connection, group, id).await? else {
        return Ok(Err(NotCancelled::Unknown));
    };
    Ok(match (done.rows_affected(), progress.state) {
        (1, _) => Ok((Cancelled::Now, progress)),
        (_, RedriveState::Cancelled) => Ok((Cancelled::Before, progress)),
        _ => Err(NotCancelled::Finished),
    })
}

/// The columns of a redrive. It is under way if it has not ended and somebody holds the lock of its group: of a lock with one number the
/// server shows the halves as `classid` and `objid`.
macro_rules! columns {
    () => {
        concat!(
            "id, actor, selection, started_at, seen_at, dead_letters, redriven, failed, refused, behind, cancelled_by,
            outcome, ended_at,
            exists (
                select from pg_locks, (select ",
            lock_number!(),
            " as number) as redrive
                where locktype = 'advisory' and granted and objsubid = 1
                    and database = (select oid from pg_database where datname = current_database())
                    and classid::bigint = (number >> 32) & 4294967295 and objid::bigint = number & 4294967295
            ) as is_locked"
        )
    };
}

async fn get(
    connection: &mut PgConnection,
    group: &str,
    id: Uuid,
) -> Result<Option<Progress>, DatabaseError> {
    let row = database::query(concat!(
        "-- dead_letter.get_redrive\nselect ",
        columns!(),
        " from dead_letter_redrives where group_name = $1 and id = $2"
    ))
    .bind(group)
    .bind(id)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(progress).transpose()
}

/// The redrive that has not ended, if there is one.
pub(super) async fn open(
    connection: &mut PgConnection,
    group: &str,
) -> Result<Option<Progress>, DatabaseError> {
    let row = database::query(concat!(
        "-- dead_letter.open_redrive\nselect ",
        columns!(),
        " from dead_letter_redrives where group_name = $1 and ended_at is null order by started_at desc limit 1"
    ))
    .bind(group)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(progress).transpose()
}

/// The latest redrives, the last one first.
pub(super) async fn latest(
    connection: &mut PgConnection,
    group: &str,
    limit: i64,
) -> Result<Vec<Progress>, DatabaseError> {
    let rows = database::query(concat!(
        "-- dead_letter.redrives\nselect ",
        columns!(),
        " from dead_letter_redrives where group_name = $1 order by started_at desc limit $2"
    ))
    .bind(group)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(progress).collect()
}

fn progress(row: &PgRow) -> Result<Progress, DatabaseError> {
    let (outcome, is_locked): (Option<String>, bool) = (row.try_get("outcome")?, row.try_get("is_locked")?);
    let seen_at = row.try_get("seen_at")?;
    let (state, ended_at) = match outcome.as_deref().map(RedriveState::parse) {
        Some(state) => {
            let state = state.ok_or_else(|| DatabaseError::Corrupt("outcome of a redrive".into()))?;
            (state, row.try_get("ended_at")?)
        }
        None if is_locked => (RedriveState::Running, None),
        None => (RedriveState::Abandoned, Some(seen_at)),
    };
    Ok(Progress {
        id: row.try_get("id")?,
        actor: row.try_get("actor")?,
        selection: row.try_get("selection")?,
        started_at: row.try_get("started_at")?,
        seen_at,
        letters: row.try_get("dead_letters")?,
        counts: Counts {
            redriven: row.try_get("redriven")?,
            failed: row.try_get("failed")?,
            refused: row.try_get("refused")?,
            behind: row.try_get("behind")?,
        },
        state,
        ended_at,
        cancelled_by: row.try_get("cancelled_by")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was selected is said in words, and its description has an end.
    #[test]
    fn a_selection_is_said_in_words() {
        assert_eq!(selection(&Filter::default()), "all letters");
        let id = Uuid::now_v7();
        assert_eq!(selection(&Filter { ids: vec![id], ..Filter::default() }), id.to_string());
        let filter = Filter {
            ids: vec![id, id],
            topic: Some("order.created".to_owned()),
            class: Some("decode".to_owned()),
            since: Some(OffsetDateTime::UNIX_EPOCH),
            ..Filter::default()
        };
        assert_eq!(
            selection(&filter),
            "2 letters by their ids, topic order.created, class decode, parked since 1970-01-01T00:00:00Z"
        );
        let long = Filter { subject: Some("é".repeat(SELECTION_BYTES_MAX)), ..Filter::default() };
        assert!(selection(&long).len() <= SELECTION_BYTES_MAX);
    }
}
