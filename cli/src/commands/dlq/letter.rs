//! A dead letter, as it is shown.

use holdfast_proto::{from_timestamp, ops::v1 as pb};
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

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
}

impl LetterLine {
    pub(super) fn of(letter: &pb::DeadLetter) -> Self {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Self {
            id: letter.id.clone(),
            service: letter.service.clone(),
            state: match letter.state() {
                pb::DeadLetterState::Unspecified => "unknown",
                pb::DeadLetterState::Parked => "parked",
                pb::DeadLetterState::SetAside => "set-aside",
                pb::DeadLetterState::Redriven => "redriven",
                pb::DeadLetterState::Discarded => "discarded",
            },
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
        }
    }
}

/// To the millisecond.
pub(super) fn time_text(timestamp: Option<&prost_types::Timestamp>) -> String {
    from_timestamp(timestamp)
        .and_then(|at| at.replace_nanosecond(at.nanosecond() / 1_000_000 * 1_000_000).ok())
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_default()
}
