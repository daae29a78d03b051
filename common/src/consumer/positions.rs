//! Where reading begins: at the position that the service's own database has, whatever the broker has committed for the
//! group. A foreign member of the group, an administrator's reset of its offsets, or a database that was restored from
//! a backup moves one of the two and not the other, and the effects are in the database. Reading twice is harmless: the
//! inbox knows what was applied.
//!
//! The rules, from the position in the database and the log that is found:
//!
//! | the log | reading begins |
//! |---|---|
//! | has the record before the position, the same as then | at the position |
//! | has another record there: it was recreated or truncated | at its oldest record |
//! | ends before the position: the same | at its oldest record |
//! | begins after the position: records were deleted unread | at its oldest record; those that are gone are counted |
//! | no position is known | at its oldest record |

use std::{collections::HashMap, time::Duration};

use futures_util::FutureExt as _;
use sqlx::{PgConnection, Row as _};

use super::inbox::{Counts, Place, Position};
use crate::{
    database::{self, Database, DatabaseError},
    deadline::Deadline,
};

/// For reads of a few rows by their key, which cost a working database nothing.
const READ_TIME_MAX: Duration = Duration::from_secs(2);

/// The positions of these partitions. Partitions that were never read are left out.
pub(super) async fn load(
    database: &Database,
    group: &'static str,
    places: Vec<Place>,
) -> Result<HashMap<Place, Position>, DatabaseError> {
    let deadline = Deadline::after(READ_TIME_MAX);
    let read = database.read(deadline, move |connection| {
        async move {
            let (topics, partitions): (Vec<String>, Vec<i32>) = places.into_iter().unzip();
            let rows = database::query(
                "-- positions.load
                select topic, partition, next_offset, last_event_id from consumer_positions
                where group_name = $1
                    and (topic, partition) in (select * from unnest($2::text[], $3::int[]))",
            )
            .bind(group)
            .bind(topics)
            .bind(partitions)
            .fetch_all(connection)
            .await?;
            rows.into_iter()
                .map(|row| {
                    let position = Position {
                        next_offset: row.try_get("next_offset")?,
                        last_event_id: row.try_get("last_event_id")?,
                    };
                    Ok(((row.try_get("topic")?, row.try_get("partition")?), position))
                })
                .collect()
        }
        .boxed()
    });
    read.await
}

/// What was done with the records of a partition since it was first read.
#[derive(Debug, Clone)]
pub struct PartitionTally {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The next offset to read.
    pub next_offset: i64,
    /// What was done with the records before it.
    pub counts: Counts,
}

/// The tallies of a group, by topic and partition.
pub(crate) async fn tallies(
    connection: &mut PgConnection,
    group: &str,
) -> Result<Vec<PartitionTally>, DatabaseError> {
    let rows = database::query(
        "-- positions.tallies
        select topic, partition, next_offset, applied, duplicates, parked, set_aside from consumer_positions
        where group_name = $1 order by topic, partition",
    )
    .bind(group)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(PartitionTally {
                topic: row.try_get("topic")?,
                partition: row.try_get("partition")?,
                next_offset: row.try_get("next_offset")?,
                counts: Counts {
                    applied: row.try_get("applied")?,
                    duplicates: row.try_get("duplicates")?,
                    parked: row.try_get("parked")?,
                    set_aside: row.try_get("set_aside")?,
                    blocked: 0,
                },
            })
        })
        .collect()
}

/// The next offset of every partition that the group has read.
pub(super) async fn load_all(
    database: &Database,
    group: &'static str,
) -> Result<HashMap<Place, i64>, DatabaseError> {
    let deadline = Deadline::after(READ_TIME_MAX);
    let read = database.read(deadline, move |connection| {
        async move {
            let rows = database::query(
                "-- positions.load_all
                select topic, partition, next_offset from consumer_positions where group_name = $1",
            )
            .bind(group)
            .fetch_all(connection)
            .await?;
            rows.into_iter()
                .map(|row| {
                    let place = (row.try_get("topic")?, row.try_get("partition")?);
                    Ok((place, row.try_get("next_offset")?))
                })
                .collect()
        }
        .boxed()
    });
    read.await
}
