//! Idempotent consumer: takes batches of records, has their effects exactly once, and parks what can never succeed.
//!
//! A batch is **one** transaction: inbox rows, the handler's effects, outbox rows of the next events, dead letters and
//! the account of the partition ([`batch`]). Offsets are stored after the commit. A crash anywhere repeats records whose
//! effects the inbox already holds. There are four answers to a record: *applied*, *duplicate*, *dead letter*, and *try
//! again* for the whole batch when the infrastructure is away, which is never a dead letter however long it lasts
//! ([`runtime`]).

pub mod batch;
pub mod check;
mod inbox;
pub mod janitor;
pub mod limit;
mod member;
pub mod observer;
pub mod positions;
pub mod runtime;
pub mod stops;
mod watch;

use futures_util::future::BoxFuture;
use sqlx::PgConnection;

use crate::{database::DatabaseError, event::Metadata, record::Record};

/// Why a record can never succeed as it is. Part of the contract (`dlq-class`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The value is not the message that the topic carries.
    Decode,
    /// `ce_type` is none that we know.
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

/// A verdict on a record: it goes to the dead letters.
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
        // PostgreSQL can't store NUL in a text, and parking must not fail for what a reason quotes.
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

/// An event that passed all checks of form and is handled for the first time.
#[derive(Debug, Clone)]
pub struct Accepted<E> {
    /// What its headers say.
    pub metadata: Metadata,
    /// The decoded message.
    pub event: E,
}

/// The handler's answer to one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Its effects are in the transaction (or it needs none).
    Applied,
    /// It can never succeed. Whatever was written is rolled back, and the batch is handled again without it.
    DeadLetter(Poison),
}

/// What a service does with events. Implementations hold no state between calls but their database.
pub trait Handler: Send + Sync + 'static {
    /// The events of all topics that the service reads.
    type Event: Clone + Send + Sync + 'static;

    /// Decodes and checks a record whose headers are those of an event of this topic. Pure.
    fn decode(&self, record: &Record, metadata: &Metadata) -> Result<Self::Event, Poison>;

    /// The versions of a topic's events that [`Handler::decode`] knows; empty if it doesn't know the topic at all.
    fn versions(&self, topic: &str) -> &'static [u32];

    /// Whether `topic` carries events at all: tells an event on the wrong topic from an unknown one.
    fn is_event_topic(&self, topic: &str) -> bool;

    /// Has the effects of `events`, in order, in the caller's transaction, and answers for each. An `Err` rolls
    /// everything back; its variant says whether the batch is tried again or searched for a culprit.
    fn handle<'c>(
        &'c self,
        connection: &'c mut PgConnection,
        events: &'c [Accepted<Self::Event>],
    ) -> BoxFuture<'c, Result<Vec<Answer>, DatabaseError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reason fits its header whatever it is made of.
    #[test]
    fn reasons_are_cut_at_a_character() {
        let poison = Poison::new(Class::Decode, "ü".repeat(400));
        assert_eq!(poison.reason().len(), 512);
        let poison = Poison::new(Class::Decode, format!("x{}", "ü".repeat(400)));
        assert_eq!(poison.reason().len(), 511);
    }
}
