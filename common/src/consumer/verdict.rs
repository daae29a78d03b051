//! Why a record goes to the dead letters, and what is kept of it.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::DatabaseError;

/// Attempts for a record that fails on its own, for a reason in the data that the handler did not classify.
pub const ATTEMPTS_MAX: i32 = 3;

/// Why a record can never succeed as it is. Part of the contract (`dlq-class`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The value is not the message that the topic carries.
    Decode,
    /// `ce_type` is not one that we know.
    UnknownType,
    /// `ce_type` is known in other versions only.
    UnknownVersion,
    /// Headers or fields break the schema.
    SchemaViolation,
    /// An event of another topic.
    WrongTopic,
    /// The event contradicts what is stored.
    BusinessInvariant,
    /// Handling failed each time, for a reason in the data that nobody foresaw.
    AttemptsExhausted,
    /// An earlier event of its aggregate is parked.
    BlockedByKey,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Decode,
        Self::UnknownType,
        Self::UnknownVersion,
        Self::SchemaViolation,
        Self::WrongTopic,
        Self::BusinessInvariant,
        Self::AttemptsExhausted,
        Self::BlockedByKey,
    ];

    /// The name in headers, metrics and the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::UnknownType => "unknown-type",
            Self::UnknownVersion => "unknown-version",
            Self::SchemaViolation => "schema-violation",
            Self::WrongTopic => "wrong-topic",
            Self::BusinessInvariant => "business-invariant",
            Self::AttemptsExhausted => "attempts-exhausted",
            Self::BlockedByKey => "blocked-by-key",
        }
    }
}

/// Largest reason in bytes; part of the contract (`dlq-reason`).
pub const REASON_BYTES_MAX: usize = 512;

/// Class and reason of a record that goes to the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// Why, for programs.
    pub class: Class,
    /// Why, for people; at most 512 bytes, and never a part of the payload.
    reason: String,
}

impl Poison {
    /// The reason is cut to 512 bytes.
    #[must_use]
    pub fn new(class: Class, reason: impl Into<String>) -> Self {
        // PostgreSQL can't store NUL in a text, and parking must not fail because of what a reason quotes.
        let mut reason: String = reason.into().replace('\0', "\u{fffd}");
        let mut end = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        Self { class, reason }
    }

    /// Why, for people.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// What is kept of a parked record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All of it, and a copy for the dead-letter topic.
    Record,
    /// Where it was, its size and its hash: it is *set aside*. For a record that is too large, or that the database
    /// refuses for a reason in the record, so that parking can't fail for such a reason.
    Place,
}

/// What was found against a record.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Class and reason.
    pub poison: Poison,
    /// How often handling it has failed.
    pub attempts: i32,
    /// When that was first.
    pub first_failed_at: OffsetDateTime,
    /// What of the record is kept if it is parked.
    pub keep: Keep,
    /// The letter that it waits behind.
    pub blocked_by: Option<Uuid>,
}

impl Verdict {
    pub(crate) const fn new(poison: Poison, attempts: i32, now: OffsetDateTime) -> Self {
        Self { poison, attempts, first_failed_at: now, keep: Keep::Record, blocked_by: None }
    }

    /// Whether the record is parked now, or gets another attempt.
    pub(crate) fn is_final(&self) -> bool {
        self.poison.class != Class::AttemptsExhausted || self.attempts >= ATTEMPTS_MAX
    }

    /// The verdict on a record that failed alone for a reason in the data, given the verdict `before`. `None`: nothing
    /// of the record was being written, so it can't be blamed.
    pub(crate) fn after_failure(
        before: Option<&Self>,
        error: &DatabaseError,
        now: OffsetDateTime,
    ) -> Option<Self> {
        match before {
            Some(verdict) if verdict.is_final() && verdict.keep == Keep::Place => None,
            // It was being parked, and the database refused that too: keep at least its place.
            Some(verdict) if verdict.is_final() => Some(Self { keep: Keep::Place, ..verdict.clone() }),
            _ => {
                // Only the error's own words, never the server's: they may quote the data.
                let poison = Poison::new(Class::AttemptsExhausted, error.to_string());
                let attempts = before.map_or(1, |verdict| verdict.attempts + 1);
                let first_failed_at = before.map_or(now, |verdict| verdict.first_failed_at);
                Some(Self { first_failed_at, ..Self::new(poison, attempts, now) })
            }
        }
    }
}

/// Whether the error is the data's fault; else it is the infrastructure's, and waiting helps.
pub(crate) const fn is_in_the_data(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Data(_) | DatabaseError::Defect(_) | DatabaseError::Corrupt(_) => true,
        DatabaseError::Unavailable(_)
        | DatabaseError::Untrusted(_)
        | DatabaseError::Conflict(_)
        | DatabaseError::CommitUnknown(_)
        | DatabaseError::Schema(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reason fits its header, whatever characters it contains.
    #[test]
    fn reasons_are_cut_at_a_character() {
        let poison = Poison::new(Class::Decode, "ü".repeat(400));
        assert_eq!(poison.reason().len(), 512);
        let poison = Poison::new(Class::Decode, format!("x{}", "ü".repeat(400)));
        assert_eq!(poison.reason().len(), 511);
    }

    /// A record that fails alone is tried again, then parked, then set aside by its place, and blamed for nothing more.
    #[test]
    fn failures_end() {
        let (now, error) = (OffsetDateTime::UNIX_EPOCH, DatabaseError::Corrupt("status".into()));
        let mut verdict = None;
        for attempts in 1..=ATTEMPTS_MAX {
            verdict = Verdict::after_failure(verdict.as_ref(), &error, now);
            assert_eq!(verdict.as_ref().expect("blamed").attempts, attempts);
        }
        assert!(verdict.as_ref().is_some_and(Verdict::is_final));
        verdict = Verdict::after_failure(verdict.as_ref(), &error, now);
        assert_eq!(verdict.as_ref().expect("blamed").keep, Keep::Place);
        assert!(Verdict::after_failure(verdict.as_ref(), &error, now).is_none());
    }
}
