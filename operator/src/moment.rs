//! Moments as operators write them, on the command line and in addresses of pages.

use anyhow::{Context as _, Result};
use holdfast_common::duration::parse_duration;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A moment: RFC 3339, a date (its first moment in UTC), or how long ago. A number alone is refused: it could be seconds or a year.
pub fn parse_time(text: &str) -> Result<OffsetDateTime> {
    let as_written = OffsetDateTime::parse(text, &Rfc3339);
    let of_date = as_written.or_else(|_| OffsetDateTime::parse(&format!("{text}T00:00:00Z"), &Rfc3339));
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let ago = parse_duration(text).ok().filter(|_| !is_number);
    let of_ago = ago.and_then(|ago| OffsetDateTime::now_utc().checked_sub(ago.try_into().ok()?));
    of_date.ok().or(of_ago).context(
        "must be a time such as 2026-01-31T12:00:00Z, a date such as 2026-01-31, or 2h for two hours ago, at most ten years",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    /// Times are read as the help says, and garbage is refused.
    #[test]
    fn times_are_read_as_the_help_says() {
        for (text, expected_s) in [("2h", 7_200), ("1h30m", 5_400), ("1d", 86_400)] {
            let ago = OffsetDateTime::now_utc() - parse_time(text).expect("a time");
            assert!((ago.whole_seconds() - expected_s).abs() <= 1, "{text}: {ago}");
        }
        assert_eq!(parse_time("2026-01-31T12:00:00Z").expect("a time"), datetime!(2026-01-31 12:00 UTC));
        assert_eq!(parse_time("2026-01-31").expect("a date"), datetime!(2026-01-31 0:00 UTC));
        for wrong in [
            "",
            "yesterday",
            "2026",
            "2026-13-01",
            "2026-01",
            "199999999h",
            "99999999999h",
            "18446744073709551615ms",
        ] {
            assert!(parse_time(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        /// Any text is a time or none.
        #[test]
        fn any_text_is_a_time_or_none(text in "\\PC*|[0-9]{1,20}(ms|s|m|h|d|)|[0-9+-]{4,6}-[0-9]{2}-[0-9]{2}(T[0-9:.]{0,12}(Z|[+-][0-9:]{5})|)") {
            let _ = parse_time(&text);
        }
    }
}
