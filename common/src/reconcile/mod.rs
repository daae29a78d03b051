//! Events that were lost on the way, told again from the rows that they told of.
//!
//! An outbox row is deleted once the broker has acknowledged it, and a broker may lose what it has acknowledged. The change that
//! the event told of is still in its writer's rows: [`Facts`] rebuilds the event from them, under the id that it had
//! ([`crate::event::NewEvent::of`]), and each reader's inbox says whether it has handled that id. What a reader has never handled,
//! although it has read its topics to the end and the outbox does not hold it, was lost. Who looks at both sides is the operator's
//! `holdfast reconcile`; [`service`] answers for one service.

pub mod service;
mod store;

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::{database::DatabaseError, event::NewEvent};

/// An event that a service has written, by its rows.
#[derive(Debug, Clone)]
pub enum Fact {
    /// The event, the same to the byte as when it was written; without its trace.
    Event(NewEvent),
    /// It was written, and the rows don't suffice to rebuild it.
    Unprovable {
        /// Where it went.
        topic: &'static str,
        /// The aggregate.
        subject: String,
        /// When it happened.
        time: OffsetDateTime,
        /// For people.
        why: &'static str,
    },
}

/// What the rows of a service prove.
pub trait Facts: Send + Sync + 'static {
    /// At most `limit` aggregates that began before a time and have not ended, in the order of their names, those after `after`.
    /// A service that does not know when an aggregate has ended knows none.
    fn unfinished(
        &self,
        connection: &mut PgConnection,
        before: OffsetDateTime,
        after: &str,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<String>, DatabaseError>> + Send;

    /// The events that this service has written about these aggregates, each aggregate's in the order in which they were written.
    fn events(
        &self,
        connection: &mut PgConnection,
        subjects: &[String],
    ) -> impl Future<Output = Result<Vec<Fact>, DatabaseError>> + Send;
}
