//! One idempotency key at a time: who holds it decides, and the others are told at once instead of waiting.

use sqlx::{PgConnection, Row as _};
use tonic::{Status, metadata::MetadataMap};

use crate::{client::PREVIOUS_ATTEMPTS, database::DatabaseError};

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

/// The answer to a call whose key is locked by another. A retry waits for its own first attempt, most likely, so it is
/// told to come again; anybody else learns that the key is in use.
#[must_use]
pub fn still_running(metadata: &MetadataMap) -> Status {
    if metadata.contains_key(PREVIOUS_ATTEMPTS.as_str()) {
        Status::unavailable("an earlier attempt of this request is still running")
    } else {
        Status::aborted("a request with this idempotency key is still running")
    }
}

/// The answer to a call whose key belongs to another content.
#[must_use]
pub fn key_reused() -> Status {
    Status::already_exists("this idempotency key was used for a request with another content")
}
