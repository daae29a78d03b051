//! What a service does with events.

use holdfast_proto::topic::EVENT_TOPICS;
use sqlx::PgConnection;

use super::verdict::Poison;
use crate::{database::DatabaseError, event::Metadata, record::Record};

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
    /// It can be applied: its effects are among the changes, or it needs none.
    Applied,
    /// It can never succeed.
    DeadLetter(Poison),
}

/// What a service does with events. Implementations keep no state between calls except in their database.
pub trait Handler: Send + Sync + 'static {
    /// The events of all topics that the service reads.
    type Event: Clone + Send + Sync + 'static;

    /// What events lead to, before it is written.
    type Changes: Send + 'static;

    /// Decodes and checks a record whose headers are those of an event of this topic. Pure.
    fn decode(&self, record: &Record, metadata: &Metadata) -> Result<Self::Event, Poison>;

    /// The versions of a topic's events that [`Handler::decode`] knows; empty if it doesn't know the topic at all.
    fn versions(&self, topic: &str) -> &'static [u32];

    /// Whether `topic` carries events at all: distinguishes an event on the wrong topic from an unknown one.
    fn is_event_topic(&self, topic: &str) -> bool {
        EVENT_TOPICS.contains(&topic)
    }

    /// Decides about `events` in order: an answer for each, and what is to be written if none of them is refused. In the caller's
    /// transaction it reads and locks, and changes nothing: after a refusal it is asked again, in the same transaction, without what it
    /// has refused and what waits behind that. An `Err` is as in [`Handler::write`].
    fn decide(
        &self,
        connection: &mut PgConnection,
        events: &[Accepted<Self::Event>],
    ) -> impl Future<Output = Result<(Vec<Answer>, Self::Changes), DatabaseError>> + Send;

    /// Writes what was decided, in the transaction in which it was decided. An `Err` rolls everything back; its variant says whether
    /// the batch is tried again or searched for a culprit.
    fn write(
        &self,
        connection: &mut PgConnection,
        changes: Self::Changes,
    ) -> impl Future<Output = Result<(), DatabaseError>> + Send;
}
