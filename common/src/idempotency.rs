//! One idempotency key at a time: who holds it decides, and the others are told at once instead of waiting.

use sqlx::{PgConnection, Row as _};

use crate::database::DatabaseError;

/// Takes the key of `owner` until the end of the transaction. False: another transaction has it right now.
///
/// Only a courtesy for callers in a hurry: what decides is the unique index on the key in the service's own table
/// (pitfalls P10). So a hash that collides makes an unrelated call come again, nothing worse.
pub async fn try_lock(connection: &mut PgConnection, owner: &str, key: &str) -> Result<bool, DatabaseError> {
    let row = sqlx::query(
        "-- idempotency.try_lock
        select pg_try_advisory_xact_lock(hashtextextended($1, hashtextextended($2, 0))) as locked",
    )
    .bind(key)
    .bind(owner)
    .fetch_one(connection)
    .await?;
    Ok(row.try_get("locked")?)
}
