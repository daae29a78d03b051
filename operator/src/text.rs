//! Figures as people read them.

use std::time::Duration;

/// How long something has lasted: `45s`, `12m`, `3h`, `2d`.
#[must_use]
pub fn age_text(age: Duration) -> String {
    match age.as_secs() {
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ ..7_200 => format!("{}m", seconds / 60),
        seconds @ ..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// An error for a person: "No such file or directory (os error 2)" says nothing more by its number.
#[must_use]
pub fn without_numbers(error: &str) -> String {
    let mut parts = error.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| part.split_once(')').map_or(part, |(_, after)| after));
    rest.fold(first, |text, part| text + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of the system are left out wherever they stand; everything else stays.
    #[test]
    fn errors_are_without_numbers() {
        for (error, shown) in [
            (
                "cannot read x: No such file or directory (os error 2)",
                "cannot read x: No such file or directory",
            ),
            ("a (os error 2), b (os error 13): c", "a, b: c"),
            ("exit code (1)", "exit code (1)"),
            ("", ""),
        ] {
            assert_eq!(without_numbers(error), shown);
        }
    }
}
