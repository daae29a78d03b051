//! Events that were lost between two services, rebuilt from the rows of their writer and re-emitted.
//!
//! An outbox row is deleted once the broker has acknowledged it, and a broker may lose what it has acknowledged. The change that
//! the event reported is still in its writer's rows: [`Facts`] rebuilds the event from them, under its old id
//! ([`crate::event::NewEvent::of`]), and each reader's inbox says whether it has handled that id. An event that a reader has never
//! handled, although it has read its topics to the end and the event is not in the outbox, was lost. The operator's
//! `holdfast reconcile` compares the two sides; [`service`] serves one service's part of each.

pub mod service;
mod store;

use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::{
    database::DatabaseError,
    event::{NewEvent, is_subject},
};

/// An event that a service has written, by its rows.
#[derive(Debug, Clone)]
pub enum Fact {
    /// The event, the same to the byte as it was written, but without its trace.
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
#[tonic::async_trait]
pub trait Facts: Send + Sync + 'static {
    /// Whether an aggregate of [`Facts::unfinished`] can have this name, so that a page may begin after it.
    fn is_name(&self, name: &str) -> bool {
        is_subject(name)
    }

    /// At most `limit` aggregates that began before a time and have not ended, in the order of their names, beginning after
    /// `after`. None, unless the service knows when an aggregate has ended.
    async fn unfinished(
        &self,
        _connection: &mut PgConnection,
        _before: OffsetDateTime,
        _after: &str,
        _limit: i64,
    ) -> Result<Vec<String>, DatabaseError> {
        Ok(Vec::new())
    }

    /// The events that this service has written about these aggregates, each aggregate's in the order in which they were written.
    async fn events(
        &self,
        connection: &mut PgConnection,
        subjects: &[String],
    ) -> Result<Vec<Fact>, DatabaseError>;
}
