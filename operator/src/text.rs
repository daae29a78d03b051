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
