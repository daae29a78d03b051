//! The time of a change.

use time::OffsetDateTime;

/// Now, in whole microseconds, the resolution of the database: a time that is read back from a row equals the one that an event
/// has, to the byte.
#[must_use]
pub fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(now.nanosecond() / 1000 * 1000).unwrap_or(now)
}
