//! `google.protobuf.Timestamp` to and from `time`.

use prost_types::Timestamp;
use time::OffsetDateTime;

/// For a protobuf field.
#[must_use]
pub fn to_timestamp(at: OffsetDateTime) -> Timestamp {
    Timestamp {
        seconds: at.unix_timestamp(),
        // `time` keeps it in 0..1_000_000_000.
        nanos: i32::try_from(at.nanosecond()).unwrap_or(0),
    }
}

/// From a protobuf field; `None` where it is absent or out of the range of RFC 3339.
#[must_use]
pub fn from_timestamp(field: Option<&Timestamp>) -> Option<OffsetDateTime> {
    let field = field?;
    let nanos = u32::try_from(field.nanos).ok()?;
    OffsetDateTime::from_unix_timestamp(field.seconds).ok()?.replace_nanosecond(nanos).ok()
}
