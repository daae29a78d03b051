//! Skips records that the client can't read at all: a broken batch, or one with an unknown codec. No handler ever sees
//! them, so they can't be parked; an operator gives them up, and their place is kept as set aside.

use futures_util::FutureExt as _;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Action, State, store};
use crate::{
    consumer::Class,
    database::{self, Conflicting, Database, DatabaseError},
    deadline::Deadline,
};

/// Most records of one skip; a producer's batch has far fewer.
pub const SKIPPED_RECORDS_MAX: u32 = 10_000;

/// What is skipped.
#[derive(Debug, Clone)]
pub struct Skip {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The first of them, which must be at the position: what is before it has ended, what comes after it was not
    /// tried.
    pub offset: i64,
    /// How many, 1 to [`SKIPPED_RECORDS_MAX`].
    pub records: u32,
    /// Who asked for it, for the audit.
    pub actor: String,
    /// Why, for the audit.
    pub reason: String,
}

/// Why nothing was skipped.
#[derive(Debug, thiserror::Error)]
pub enum SkipError {
    /// The position is a different one.
    #[error("the position of the partition is {position}")]
    Position {
        /// The next offset to read.
        position: i64,
    },
    /// Nothing was done.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl Conflicting for SkipError {
    fn database_error(&self) -> Option<&DatabaseError> {
        if let Self::Database(error) = self { Some(error) } else { None }
    }
}

/// Sets the records aside, moves the position past them and writes the audit, in one transaction. The consumer follows
/// on its own. Returns the id of the letter that represents them.
pub async fn skip(
    database: &Database,
    group: &'static str,
    deadline: Deadline,
    skip: Skip,
) -> Result<Uuid, SkipError> {
    database
        .transaction("dead_letter.skip", deadline, skip, move |connection, skip| {
            async move { write(connection, group, &skip).await }.boxed()
        })
        .await
}

async fn write(connection: &mut PgConnection, group: &str, skip: &Skip) -> Result<Uuid, SkipError> {
    let row = database::query(
        "-- dead_letter.skip_position
        insert into consumer_positions as p (group_name, topic, partition) values ($1, $2, $3)
        on conflict (group_name, topic, partition) do update set next_offset = p.next_offset
        returning next_offset",
    )
    .bind(group)
    .bind(&skip.topic)
    .bind(skip.partition)
    .fetch_one(&mut *connection)
    .await
    .map_err(DatabaseError::from)?;
    let position: i64 = row.try_get("next_offset").map_err(DatabaseError::from)?;
    if position != skip.offset {
        return Err(SkipError::Position { position });
    }
    let id = Uuid::now_v7();
    database::query(
        "-- dead_letter.skip
        with passed as (
            update consumer_positions
            set next_offset = next_offset + $5, last_event_id = null, set_aside = set_aside + $5
            where group_name = $2 and topic = $3 and partition = $4
        )
        insert into dead_letters (
            id, group_name, class, reason, state, topic, partition, record_offset, records, headers, event_id,
            attempts, first_failed_at
        ) values ($1, $2, $6, 'the client cannot read it, an operator passed over it', $7, $3, $4, $8, $5, '', $1, 0,
            now())",
    )
    .bind(id)
    .bind(group)
    .bind(&skip.topic)
    .bind(skip.partition)
    .bind(i64::from(skip.records))
    .bind(Class::Decode.as_str())
    .bind(State::SetAside.as_str())
    .bind(skip.offset)
    .execute(&mut *connection)
    .await
    .map_err(DatabaseError::from)?;
    store::audit(connection, group, &skip.actor, Action::Skip, Some(id), &skip.reason).await?;
    Ok(id)
}
