//! What the operator sees of consumers that the limit on dead letters stopped, and how the operator's request to resume
//! reaches them: through the database, which every replica reads anyway.

use futures_util::{FutureExt as _, future::BoxFuture};
use sqlx::{PgConnection, Row as _};
use time::OffsetDateTime;

use crate::{
    database::{self, BACKGROUND_TIME_MAX, Database, DatabaseError},
    deadline::Deadline,
    error::chain,
};

/// A stopped replica looks once a second; one that was not seen for this long is gone.
const SEEN_WITHIN: &str = "30 seconds";

/// A stopped consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Why, for people.
    pub reason: String,
    /// Since when.
    pub stopped_at: OffsetDateTime,
}

/// The stop of one replica.
pub(super) struct StopRecord {
    database: Database,
    group: &'static str,
    /// Its row, once there is one.
    id: Option<i64>,
}

impl StopRecord {
    pub(super) const fn new(database: Database, group: &'static str) -> Self {
        Self { database, group, id: None }
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
                            returning id, resumed_at, dead_letters_max",
                        )
                        .bind(group)
                        .bind(reason),
                        Some(id) => database::query(
                            "-- consumer.still_stopped
                            update consumer_stops set seen_at = now() where id = $1
                            returning id, resumed_at, dead_letters_max",
                        )
                        .bind(id),
                    };
                    let row = query.fetch_one(connection).await?;
                    Ok((
                        row.try_get::<i64, _>("id")?,
                        row.try_get::<Option<OffsetDateTime>, _>("resumed_at")?,
                        row.try_get::<Option<i64>, _>("dead_letters_max")?,
                    ))
                }
                .boxed()
            })
            .await?;
        let (id, resumed_at, dead_letters_max) = row;
        if resumed_at.is_none() {
            self.id = Some(id);
            return Ok(None);
        }
        self.id = None;
        Ok(Some(dead_letters_max.unwrap_or_default().unsigned_abs()))
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
