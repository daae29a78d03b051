//! What the operator sees of consumers that the limit on dead letters stopped, and how the operator's request to resume
//! reaches them: through the database, which every replica reads anyway. The same way goes what is left of the dead letters
//! that they may park, and that an operator takes them back.

use std::time::Duration;

use futures_util::{FutureExt as _, future::BoxFuture};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::{
    database::{self, BACKGROUND_TIME_MAX, Database, DatabaseError},
    deadline::Deadline,
    error::chain,
};

/// A stopped replica, and one with an allowance, looks once a second; one that was not seen for this long is gone.
const SEEN_WITHIN: &str = "30 seconds";
/// How often a replica reports what is left of its allowance.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// A replica that may park something before the limit applies again. What is left of it is in the memory of that replica.
macro_rules! has_allowance {
    () => {
        "group_name = $1 and dead_letters_max > 0 and allowance_ended_at is null and resumed_at is not null
            and seen_at > now() - $2::interval"
    };
}

/// A stopped consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Why, for people.
    pub reason: String,
    /// Since when.
    pub stopped_at: OffsetDateTime,
}

/// Dead letters that an operator lets a replica park.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// How many.
    pub allowed: u64,
    /// How many of them it has parked, as it said about a second ago.
    pub used: u64,
    /// Since when.
    pub since: OffsetDateTime,
}

/// The stop of one replica.
pub(super) struct StopRecord {
    database: Database,
    group: &'static str,
    /// Its row, once there is one.
    id: Option<i64>,
    /// What it was resumed with.
    granted: Option<Granted>,
}

/// An allowance as its replica knows it.
#[derive(Debug, Clone, Copy)]
struct Granted {
    id: i64,
    allowed: u64,
    /// What was left when it was last reported, or tried to be.
    reported: u64,
    reported_at: Instant,
}

impl StopRecord {
    pub(super) const fn new(database: Database, group: &'static str) -> Self {
        Self { database, group, id: None, granted: None }
    }

    /// Reports that the replica is stopped. Returns how many dead letters may be parked if an operator has resumed it.
    pub(super) async fn look(&mut self, reason: &str) -> Option<u64> {
        match self.try_look(reason).await {
            Ok(allowance) => allowance,
            Err(error) => {
                // The database component says that the database is away.
                tracing::debug!(error = chain(&error), "cannot look for a request to resume");
                None
            }
        }
    }

    async fn try_look(&mut self, reason: &str) -> Result<Option<u64>, DatabaseError> {
        let (group, reason, id) = (self.group, reason.to_owned(), self.id);
        let row = self
            .write("consumer.stop", reason, move |connection, reason| {
                async move {
                    let query = match id {
                        None => database::query(
                            "-- consumer.stop
                            insert into consumer_stops (group_name, reason) values ($1, $2)
                            returning id, resumed_at, dead_letters_max, allowance_ended_at",
                        )
                        .bind(group)
                        .bind(reason),
                        Some(id) => database::query(
                            "-- consumer.still_stopped
                            update consumer_stops set seen_at = now() where id = $1
                            returning id, resumed_at, dead_letters_max, allowance_ended_at",
                        )
                        .bind(id),
                    };
                    let row = query.fetch_one(connection).await?;
                    Ok((
                        row.try_get::<i64, _>("id")?,
                        row.try_get::<Option<OffsetDateTime>, _>("resumed_at")?,
                        row.try_get::<Option<i64>, _>("dead_letters_max")?,
                        row.try_get::<Option<OffsetDateTime>, _>("allowance_ended_at")?,
                    ))
                }
                .boxed()
            })
            .await?;
        let (id, resumed_at, dead_letters_max, ended_at) = row;
        if resumed_at.is_none() {
            self.id = Some(id);
            return Ok(None);
        }
        self.id = None;
        // It may be taken back before it was noticed.
        let allowed = dead_letters_max.filter(|_| ended_at.is_none()).unwrap_or_default().unsigned_abs();
        let granted = Granted { id, allowed, reported: allowed, reported_at: Instant::now() };
        self.granted = Some(granted).filter(|_| allowed > 0);
        Ok(Some(allowed))
    }

    /// Reports once in a while how much is left of the allowance that the replica was resumed with. Returns whether an operator has
    /// taken it back.
    pub(super) async fn is_allowance_over(&mut self, left: u64) -> bool {
        let Some(granted) = self.granted else { return false };
        let is_news = left == 0 && granted.reported > 0;
        if granted.reported_at.elapsed() < REPORT_EVERY && !is_news {
            return false;
        }
        self.granted = Some(Granted { reported: left, reported_at: Instant::now(), ..granted });
        match self.report_allowance(granted, left).await {
            Ok(is_over) => {
                if is_over {
                    self.granted = None;
                }
                is_over && left > 0
            }
            Err(error) => {
                // The database component says that the database is away. It is tried again.
                tracing::debug!(error = chain(&error), "cannot report what is left of the allowance");
                false
            }
        }
    }

    async fn report_allowance(&self, granted: Granted, left: u64) -> Result<bool, DatabaseError> {
        let used = i64::try_from(granted.allowed.saturating_sub(left)).unwrap_or(i64::MAX);
        let input = (granted.id, used, left == 0);
        self.write("consumer.report_allowance", input, |connection, (id, used, is_used_up)| {
            async move {
                Ok(database::query(
                    "-- consumer.report_allowance
                    update consumer_stops
                    set seen_at = now(), allowance_used = $2,
                        allowance_ended_at = coalesce(allowance_ended_at, case when $3 then now() end)
                    where id = $1 returning allowance_ended_at is not null",
                )
                .bind(id)
                .bind(used)
                .bind(is_used_up)
                .scalar::<bool, _>(connection)
                .await?)
            }
            .boxed()
        })
        .await
    }

    /// It resumes on its own.
    pub(super) async fn end(&mut self) {
        let Some(id) = self.id.take() else { return };
        let ended = self.write("consumer.resume", id, |connection, id| {
            async move {
                database::query(
                    "-- consumer.resume
                    update consumer_stops set resumed_at = now() where id = $1 and resumed_at is null",
                )
                .bind(id)
                .execute(connection)
                .await?;
                Ok(())
            }
            .boxed()
        });
        if let Err(error) = ended.await {
            // The row is no longer counted once it has not been seen for a while.
            tracing::debug!(error = chain(&error), "cannot record that the consumer resumed");
        }
    }

    async fn write<I, T, W>(&self, name: &'static str, input: I, work: W) -> Result<T, DatabaseError>
    where
        T: Send + 'static,
        I: Clone + Send + Sync + 'static,
        W: for<'c> Fn(&'c mut PgConnection, I) -> BoxFuture<'c, Result<T, DatabaseError>>
            + Send
            + Sync
            + 'static,
    {
        self.database.transaction(name, Deadline::after(BACKGROUND_TIME_MAX), input, work).await
    }
}

/// The stopped consumers of a group, oldest first.
pub(crate) async fn stopped_consumers(
    connection: &mut PgConnection,
    group: &str,
) -> Result<Vec<Stop>, DatabaseError> {
    let rows = database::query(
        "-- consumer.stopped
        select reason, stopped_at from consumer_stops
        where group_name = $1 and resumed_at is null and seen_at > now() - $2::interval order by id",
    )
    .bind(group)
    .bind(SEEN_WITHIN)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| Ok(Stop { reason: row.try_get("reason")?, stopped_at: row.try_get("stopped_at")? }))
        .collect()
}

/// What consumers of a group may still park before the limit applies again, oldest first.
pub(crate) async fn allowances(
    connection: &mut PgConnection,
    group: &str,
) -> Result<Vec<Allowance>, DatabaseError> {
    let rows = database::query(concat!(
        "-- consumer.allowances
        select dead_letters_max, allowance_used, resumed_at from consumer_stops where ",
        has_allowance!(),
        " order by id"
    ))
    .bind(group)
    .bind(SEEN_WITHIN)
    .fetch_all(connection)
    .await?;
    rows.iter().map(allowance).collect()
}

/// Takes back what is left of them; each replica notices within a second. Returns those that were ended.
pub(crate) async fn end_allowances(
    connection: &mut PgConnection,
    group: &str,
) -> Result<Vec<Allowance>, DatabaseError> {
    let rows = database::query(concat!(
        "-- consumer.end_allowances
        update consumer_stops set allowance_ended_at = now() where ",
        has_allowance!(),
        " returning dead_letters_max, allowance_used, resumed_at"
    ))
    .bind(group)
    .bind(SEEN_WITHIN)
    .fetch_all(connection)
    .await?;
    rows.iter().map(allowance).collect()
}

fn allowance(row: &PgRow) -> Result<Allowance, DatabaseError> {
    let used: Option<i64> = row.try_get("allowance_used")?;
    Ok(Allowance {
        allowed: row.try_get::<i64, _>("dead_letters_max")?.unsigned_abs(),
        used: used.unwrap_or_default().unsigned_abs(),
        since: row.try_get("resumed_at")?,
    })
}

/// Resumes the consumers of a group; each may park this many dead letters before the limit applies again. Returns how
/// many were stopped.
pub(crate) async fn resume(
    connection: &mut PgConnection,
    group: &str,
    dead_letters_max: i64,
) -> Result<u64, DatabaseError> {
    let resumed = database::query(
        "-- consumer.resume_all
        update consumer_stops set resumed_at = now(), dead_letters_max = $2
        where group_name = $1 and resumed_at is null and seen_at > now() - $3::interval",
    )
    .bind(group)
    .bind(dead_letters_max)
    .bind(SEEN_WITHIN)
    .execute(connection)
    .await?;
    Ok(resumed.rows_affected())
}
