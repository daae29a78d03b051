//! A handler whose types are not known.
//!
//! What is asynchronous or generic is compiled by the crate that uses it. With [`AnyHandler`] in the place of each service's own handler, what
//! surrounds it (the consumer, redrives, their gRPC service) is compiled once, with this library, and not once more with each service.

use std::{any::Any, sync::Arc};

use futures_util::{FutureExt as _, future::BoxFuture};
use sqlx::PgConnection;

use super::{
    handler::{Accepted, Answer, Handler},
    verdict::Poison,
};
use crate::{database::DatabaseError, event::Metadata, record::Record};

/// Some service's handler.
pub(crate) struct AnyHandler(Box<dyn Erased>);

/// A handler's [`Handler::Event`].
type AnyEvent = Arc<dyn Any + Send + Sync>;
/// A handler's [`Handler::Changes`].
type AnyChanges = Box<dyn Any + Send>;

const OF_ANOTHER: &str = "a handler gets what it has made itself";

impl AnyHandler {
    pub(crate) fn new(handler: impl Handler) -> Self {
        Self(Box::new(handler))
    }
}

/// [`Handler`] as an object.
trait Erased: Send + Sync {
    fn decode(&self, record: &Record, metadata: &Metadata) -> Result<AnyEvent, Poison>;

    fn versions(&self, topic: &str) -> &'static [u32];

    fn is_event_topic(&self, topic: &str) -> bool;

    fn decide<'a>(
        &'a self,
        connection: &'a mut PgConnection,
        events: &'a [Accepted<AnyEvent>],
    ) -> BoxFuture<'a, Result<(Vec<Answer>, AnyChanges), DatabaseError>>;

    fn write<'a>(
        &'a self,
        connection: &'a mut PgConnection,
        changes: AnyChanges,
    ) -> BoxFuture<'a, Result<(), DatabaseError>>;
}

impl<H: Handler> Erased for H {
    fn decode(&self, record: &Record, metadata: &Metadata) -> Result<AnyEvent, Poison> {
        Ok(Arc::new(Handler::decode(self, record, metadata)?))
    }

    fn versions(&self, topic: &str) -> &'static [u32] {
        Handler::versions(self, topic)
    }

    fn is_event_topic(&self, topic: &str) -> bool {
        Handler::is_event_topic(self, topic)
    }

    fn decide<'a>(
        &'a self,
        connection: &'a mut PgConnection,
        events: &'a [Accepted<AnyEvent>],
    ) -> BoxFuture<'a, Result<(Vec<Answer>, AnyChanges), DatabaseError>> {
        let own = |accepted: &Accepted<AnyEvent>| {
            let event = accepted.event.downcast_ref::<H::Event>().expect(OF_ANOTHER);
            Accepted { metadata: accepted.metadata.clone(), event: event.clone() }
        };
        let events: Vec<_> = events.iter().map(own).collect();
        async move {
            let (answers, changes) = Handler::decide(self, connection, &events).await?;
            let changes: AnyChanges = Box::new(changes);
            Ok((answers, changes))
        }
        .boxed()
    }

    fn write<'a>(
        &'a self,
        connection: &'a mut PgConnection,
        changes: AnyChanges,
    ) -> BoxFuture<'a, Result<(), DatabaseError>> {
        let changes = changes.downcast::<H::Changes>().expect(OF_ANOTHER);
        async move { Handler::write(self, connection, *changes).await }.boxed()
    }
}

impl Handler for AnyHandler {
    type Event = AnyEvent;
    type Changes = AnyChanges;

    fn decode(&self, record: &Record, metadata: &Metadata) -> Result<AnyEvent, Poison> {
        self.0.decode(record, metadata)
    }

    fn versions(&self, topic: &str) -> &'static [u32] {
        self.0.versions(topic)
    }

    fn is_event_topic(&self, topic: &str) -> bool {
        self.0.is_event_topic(topic)
    }

    async fn decide(
        &self,
        connection: &mut PgConnection,
        events: &[Accepted<AnyEvent>],
    ) -> Result<(Vec<Answer>, AnyChanges), DatabaseError> {
        self.0.decide(connection, events).await
    }

    async fn write(&self, connection: &mut PgConnection, changes: AnyChanges) -> Result<(), DatabaseError> {
        self.0.write(connection, changes).await
    }
}
