//! A dead letter, as it is shown.

use std::{collections::BTreeMap, time::Duration};

use holdfast_proto::{from_timestamp, ops::v1 as pb};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::output::age_text;

/// Letters of one page.
pub(super) const PAGE_SIZE: u32 = 500;

/// A letter without its content, as `-o json` shows it.
#[derive(Serialize)]
pub(super) struct LetterLine {
    pub(super) id: String,
    pub(super) service: String,
    pub(super) state: &'static str,
    pub(super) class: String,
    pub(super) reason: String,
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) key: Option<String>,
    pub(super) blocked_by: Option<String>,
    pub(super) attempts: i32,
    pub(super) redrive_count: i32,
    pub(super) parked_at: String,
    pub(super) first_failed_at: String,
    /// Since it was parked.
    #[serde(skip)]
    pub(super) age: String,
}

impl LetterLine {
    pub(super) fn of(letter: &pb::DeadLetter) -> Self {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Self {
            id: letter.id.clone(),
            service: letter.service.clone(),
            state: state_name(letter.state()),
            class: letter.class.clone(),
            reason: letter.reason.clone(),
            topic: letter.topic.clone(),
            partition: letter.partition,
            offset: letter.offset,
            key: given(&letter.subject),
            blocked_by: given(&letter.blocked_by),
            attempts: letter.attempts,
            redrive_count: letter.redrive_count,
            parked_at: time_text(letter.parked_at.as_ref()),
            first_failed_at: time_text(letter.first_failed_at.as_ref()),
            age: age_of(letter.parked_at.as_ref()),
        }
    }
}

pub(super) const fn state_name(state: pb::DeadLetterState) -> &'static str {
    match state {
        pb::DeadLetterState::Unspecified => "unknown",
        pb::DeadLetterState::Parked => "parked",
        pb::DeadLetterState::SetAside => "set-aside",
        pb::DeadLetterState::Redriven => "redriven",
        pb::DeadLetterState::Discarded => "discarded",
    }
}

/// To the millisecond.
pub(super) fn time_text(timestamp: Option<&prost_types::Timestamp>) -> String {
    from_timestamp(timestamp)
        .and_then(|at| at.replace_nanosecond(at.nanosecond() / 1_000_000 * 1_000_000).ok())
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// How long ago it was.
pub(super) fn age_of(timestamp: Option<&prost_types::Timestamp>) -> String {
    let age = from_timestamp(timestamp).map(|at| OffsetDateTime::now_utc() - at);
    // The clock of the service may be ahead.
    age.map_or_else(|| "-".to_owned(), |age| age_text(Duration::try_from(age).unwrap_or_default()))
}

/// How many letters have the same service, topic and class: `payment: 3 decode of order.created`, one line each.
pub(super) fn groups<'l>(letters: impl Iterator<Item = (&'l str, &'l str, &'l str)>) -> Vec<String> {
    let mut groups: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for (service, topic, class) in letters {
        *groups.entry((service, topic, class)).or_default() += 1;
    }
    let line = |((service, topic, class), count)| format!("{service}: {count} {class} of {topic}");
    groups.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is many is said in a few lines.
    #[test]
    fn letters_are_grouped() {
        let letters = [
            ("payment", "order.created", "decode"),
            ("delivery", "payment.completed", "wrong-topic"),
            ("payment", "order.created", "decode"),
        ];
        assert_eq!(
            groups(letters.into_iter()),
            ["delivery: 1 wrong-topic of payment.completed", "payment: 2 decode of order.created"]
        );
    }
}
