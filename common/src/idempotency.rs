//! Writes with an idempotency key: the first one is done, the same one again gets the first one's answer, and different
//! content under the key is refused. While one call holds the key, the others are refused at once instead of waiting.

use std::{convert::Infallible, time::Duration};

use aws_lc_rs::digest;
use sqlx::{PgConnection, Row as _};
use tonic::{Status, metadata::MetadataMap};

use crate::{
    client::PREVIOUS_ATTEMPTS,
    database::{self, Conflicting, DatabaseError},
};

/// How long a key is known. A request that comes back later than that with the same key is a new one.
pub const KEY_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why a write with a key was not done. `R` is the domain's own refusal.
#[derive(Debug)]
pub enum WriteError<R = Infallible> {
    /// A call with the same key has not finished.
    StillRunning,
    /// The key belongs to different content.
    KeyReused,
    /// The content is not allowed.
    Refused(R),
    /// The outcome is unknown, or nothing was done: the variant says which.
    Database(DatabaseError),
}

impl<R> From<DatabaseError> for WriteError<R> {
    fn from(error: DatabaseError) -> Self {
        Self::Database(error)
    }
}

impl<R> Conflicting for WriteError<R> {
    fn database_error(&self) -> Option<&DatabaseError> {
        if let Self::Database(error) = self { Some(error) } else { None }
    }
}

impl<R> WriteError<R> {
    /// The answer to the caller; `running` is the result of [`still_running`] for its call.
    pub fn into_status(self, running: Status, refused: impl FnOnce(R) -> Status) -> Status {
        match self {
            Self::StillRunning => running,
            Self::KeyReused => {
                Status::already_exists("this idempotency key was used for a request with different content")
            }
            Self::Refused(refusal) => refused(refusal),
            Self::Database(error) => error.into(),
        }
    }
}

/// The hash of a write's content that is stored with its key: SHA-256.
#[must_use]
pub fn fingerprint(content: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, content).as_ref().to_vec()
}

/// The expression that takes a key of an owner, two parameters, until the end of the transaction. False: another transaction has it right
/// now.
///
/// This only spares callers a wait: what decides is the unique index on the key in the service's own table (pitfalls
/// P10). So a hash collision makes an unrelated call try again, nothing worse.
#[macro_export]
macro_rules! try_lock_key {
    ($key:literal, $owner:literal) => {
        concat!("pg_try_advisory_xact_lock(hashtextextended(", $key, ", hashtextextended(", $owner, ", 0)))")
    };
}

/// Takes the key of `owner`, as [`try_lock_key!`](crate::try_lock_key) says, in a statement of its own.
pub async fn try_lock(connection: &mut PgConnection, owner: &str, key: &str) -> Result<bool, DatabaseError> {
    let row = database::query(concat!(
        "-- idempotency.try_lock
        select ",
        try_lock_key!("$1", "$2"),
        " as locked",
    ))
    .bind(key)
    .bind(owner)
    .fetch_one(connection)
    .await?;
    Ok(row.try_get("locked")?)
}

/// The answer to a call whose key is locked by another. A retry most likely waits for its own first attempt, so it is
/// asked to try again; any other call learns that the key is in use.
#[must_use]
pub fn still_running(metadata: &MetadataMap) -> Status {
    if metadata.contains_key(PREVIOUS_ATTEMPTS.as_str()) {
        Status::unavailable("an earlier attempt of this request is still running")
    } else {
        Status::aborted("a request with this idempotency key is still running")
    }
}
