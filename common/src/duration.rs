//! Spans of time as people write them: one parser for settings and command lines.

use std::{fmt, time::Duration};

/// The longest one: ten years. Nothing here waits or looks back longer, and a moment that is so far away can still be computed.
pub const DURATION_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Units, longest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A text that is not a span of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurationError(String);

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = DURATION_MAX.as_secs() / 86_400;
        write!(
            f,
            "{:?} is not a duration such as 500ms, 2s, 1h30m or 7d; a number alone is seconds; at most {days}d",
            self.0
        )
    }
}

impl std::error::Error for DurationError {}

/// Reads `500ms`, `2s`, `5m`, `1h30m`, `7d`: whole numbers with units, longest unit first, each at most once. A number alone is
/// seconds. An error if it is anything else, or longer than [`DURATION_MAX`].
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    parse(text).filter(|time| *time <= DURATION_MAX).ok_or_else(|| DurationError(text.to_owned()))
}

fn parse(text: &str) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    let (mut left, mut total_ms, mut units) = (text, 0_u64, &UNITS[..]);
    while !left.is_empty() || units.len() == UNITS.len() {
        let digits = left.find(|c: char| !c.is_ascii_digit())?;
        let (number, rest) = left.split_at(digits);
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(letters);
        let place = units.iter().position(|(name, _)| *name == unit)?;
        let part_ms = number.parse::<u64>().ok()?.checked_mul(units[place].1)?;
        total_ms = total_ms.checked_add(part_ms)?;
        (left, units) = (rest, &units[place + 1..]);
    }
    Some(Duration::from_millis(total_ms))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::OffsetDateTime;

    use super::*;

    /// Durations are whole numbers with units; a number alone is seconds.
    #[test]
    fn durations_are_numbers_with_units() {
        for (text, expected_ms) in [
            ("250ms", 250),
            ("0s", 0),
            ("120", 120_000),
            ("60s", 60_000),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("3660d", 316_224_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(expected_ms)), "{text}");
        }
        for wrong in [
            "",
            " ",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "1 h",
            "1h ",
            "1h30",
            "30m1h",
            "1m1m",
            "1w",
            "1S",
            "1µs",
            "٣s",
            "3661d",
            "199999999h",
            "18446744073709551615",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        /// Any text is a duration or none; one that is can be waited for, and looked back.
        #[test]
        fn any_text_is_a_duration_or_none(text in "\\PC*|[0-9]{0,22}|([0-9]{1,20}(ms|s|m|h|d|w|)){0,4}") {
            if let Ok(time) = parse_duration(&text) {
                prop_assert!(std::time::Instant::now().checked_add(time).is_some());
                prop_assert!(OffsetDateTime::now_utc().checked_sub(time.try_into().expect("ten years")).is_some());
            }
        }
    }
}
