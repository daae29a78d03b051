//! The time of a change.

use time::OffsetDateTime;

/// Now, in whole microseconds, which is what the database keeps: what is written to a row and to an event is what is read from
/// the row later, to the byte.
#[must_use]
pub fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(now.nanosecond() / 1000 * 1000).unwrap_or(now)
}
