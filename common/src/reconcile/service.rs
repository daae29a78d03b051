//! `holdfast.ops.v1.ReconcileService`: one implementation for all services.

use std::{collections::HashMap, sync::Arc};

use futures_util::FutureExt as _;
use holdfast_proto::{
    ops::v1::{self as pb, reconcile_service_server::ReconcileService},
    to_timestamp,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    Fact, Facts,
    store::{self, Place},
};
use crate::{
    database::{Conflicting, Database, DatabaseError},
    dead_letter::messages::{actor, parse_id, parse_reason, parse_time, peer_of},
    deadline::Deadline,
    event::{NewEvent, is_subject},
};

const PAGE_SIZE_MAX: u32 = 1_000;
const SUBJECTS_MAX: usize = 1_000;
/// They and the subjects fit a message.
const EVENTS_MAX: usize = 5_000;
/// Events of one aggregate that are re-emitted at a time.
const REEMITTED_MAX: usize = 100;

/// Serves the events that the rows of one service prove.
pub struct Reconcile {
    database: Database,
    service: &'static str,
    facts: Arc<dyn Facts>,
}

impl Reconcile {
    /// Of the service of this name, which is its consumer group's too.
    #[must_use]
    pub fn new(database: Database, service: &'static str, facts: impl Facts) -> Self {
        Self { database, service, facts: Arc::new(facts) }
    }
}

#[tonic::async_trait]
impl ReconcileService for Reconcile {
    async fn list_unfinished(
        &self,
        request: Request<pb::ListUnfinishedRequest>,
    ) -> Result<Response<pb::ListUnfinishedResponse>, Status> {
        let deadline = Deadline::of(&request);
        let pb::ListUnfinishedRequest { before, page_size, page_token } = request.into_inner();
        let before = parse_time("before", before.as_ref())?
            .ok_or_else(|| Status::invalid_argument("before must be given"))?;
        if !(1..=PAGE_SIZE_MAX).contains(&page_size) {
            return Err(Status::invalid_argument("page_size must be 1 to 1,000"));
        }
        let facts = self.facts.clone();
        if !page_token.is_empty() && !facts.is_name(&page_token) {
            return Err(Status::invalid_argument("page_token is not valid"));
        }
        let read = self.database.read(deadline, move |connection| {
            async move { facts.unfinished(connection, before, &page_token, i64::from(page_size) + 1).await }
                .boxed()
        });
        let mut subjects = read.await?;
        let more = subjects.len() > page_size as usize;
        subjects.truncate(page_size as usize);
        let next_page_token = subjects.last().filter(|_| more).cloned().unwrap_or_default();
        Ok(Response::new(pb::ListUnfinishedResponse { subjects, next_page_token }))
    }

    async fn list_written_events(
        &self,
        request: Request<pb::ListWrittenEventsRequest>,
    ) -> Result<Response<pb::ListWrittenEventsResponse>, Status> {
        let deadline = Deadline::of(&request);
        let subjects = parse_subjects(request.into_inner().subjects)?;
        if subjects.is_empty() {
            return Err(Status::invalid_argument("subjects must not be empty"));
        }
        let facts = self.facts.clone();
        let read = self.database.read(deadline, move |connection| {
            async move {
                let written = facts.events(connection, &subjects).await?;
                // After the rows: what is not in the outbox by now was acknowledged.
                let places = store::in_outbox(connection, &keys(&written)).await?;
                Ok(written.into_iter().map(|fact| written_to_proto(fact, &places)).collect())
            }
            .boxed()
        });
        Ok(Response::new(pb::ListWrittenEventsResponse { events: read.await? }))
    }

    async fn list_unhandled_events(
        &self,
        request: Request<pb::ListUnhandledEventsRequest>,
    ) -> Result<Response<pb::ListUnhandledEventsResponse>, Status> {
        let deadline = Deadline::of(&request);
        let pb::ListUnhandledEventsRequest { event_ids, subjects } = request.into_inner();
        let (ids, subjects) = (parse_event_ids(&event_ids, EVENTS_MAX)?, parse_subjects(subjects)?);
        if ids.is_empty() && subjects.is_empty() {
            return Err(Status::invalid_argument("give event_ids, subjects, or both"));
        }
        let group = self.service;
        let read = self.database.read(deadline, move |connection| {
            async move {
                let unhandled = store::unhandled(connection, group, &ids).await?;
                Ok((unhandled, store::parked(connection, group, &subjects).await?))
            }
            .boxed()
        });
        let (unhandled, parked) = read.await?;
        let parked = parked
            .into_iter()
            .map(|(subject, id)| pb::ParkedAggregate { subject, dead_letter_id: id.to_string() });
        Ok(Response::new(pb::ListUnhandledEventsResponse {
            event_ids: unhandled.iter().map(Uuid::to_string).collect(),
            parked: parked.collect(),
        }))
    }

    async fn reemit_events(
        &self,
        request: Request<pb::ReemitEventsRequest>,
    ) -> Result<Response<pb::ReemitEventsResponse>, Status> {
        let (deadline, peer) = (Deadline::of(&request), peer_of(&request)?);
        let pb::ReemitEventsRequest { subject, event_ids, reason, author } = request.into_inner();
        let wanted = Wanted {
            subject: parse_subjects(vec![subject])?,
            ids: parse_event_ids(&event_ids, REEMITTED_MAX)?,
            reason: parse_reason(&reason)?,
            actor: actor(&peer, &author)?,
        };
        if wanted.ids.is_empty() {
            return Err(Status::invalid_argument("event_ids must not be empty"));
        }
        let (facts, source) = (self.facts.clone(), self.service);
        let reemitted: Result<Vec<Uuid>, ReemitError> = self
            .database
            .transaction("reconcile.reemit", deadline, wanted, move |connection, wanted| {
                let facts = facts.clone();
                async move {
                    let proven = facts.events(connection, &wanted.subject).await?;
                    let places = store::in_outbox(connection, &keys(&proven)).await?;
                    let events = select(proven, &wanted.ids)?;
                    let mut reemitted = Vec::new();
                    for event in events {
                        if !places.contains_key(&event.id) {
                            reemitted.push(event.id);
                            store::reemit(connection, event, source, &wanted.actor, &wanted.reason).await?;
                        }
                    }
                    Ok(reemitted)
                }
                .boxed()
            })
            .await;
        let event_ids = reemitted?.iter().map(Uuid::to_string).collect();
        Ok(Response::new(pb::ReemitEventsResponse { event_ids }))
    }
}

/// What an operator wants re-emitted.
#[derive(Clone)]
struct Wanted {
    /// One.
    subject: Vec<String>,
    ids: Vec<Uuid>,
    reason: String,
    actor: String,
}

fn keys(facts: &[Fact]) -> Vec<&str> {
    let events = facts.iter().filter_map(|fact| match fact {
        Fact::Event(event) => Some(event.key.as_str()),
        Fact::Unprovable { .. } => None,
    });
    let mut keys: Vec<&str> = events.collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Those of the events that are wanted, in the order in which they were written; an error names one that is not among them.
fn select(facts: Vec<Fact>, wanted: &[Uuid]) -> Result<Vec<NewEvent>, ReemitError> {
    let events = facts.into_iter().filter_map(|fact| match fact {
        Fact::Event(event) if wanted.contains(&event.id) => Some(event),
        _ => None,
    });
    let events: Vec<NewEvent> = events.collect();
    match wanted.iter().find(|id| events.iter().all(|event| event.id != **id)) {
        Some(id) => Err(ReemitError::NotProven(*id)),
        None => Ok(events),
    }
}

fn written_to_proto(fact: Fact, places: &HashMap<Uuid, Place>) -> pb::WrittenEvent {
    match fact {
        Fact::Event(event) => {
            let outbox = match places.get(&event.id) {
                None => pb::OutboxPlace::Absent,
                Some(Place::Waiting) => pb::OutboxPlace::Waiting,
                Some(Place::HeldBack) => pb::OutboxPlace::HeldBack,
            };
            pb::WrittenEvent {
                event_id: event.id.to_string(),
                topic: event.topic.to_owned(),
                subject: event.subject,
                time: Some(to_timestamp(event.time)),
                outbox: outbox.into(),
                unprovable: String::new(),
            }
        }
        Fact::Unprovable { topic, subject, time, why } => pb::WrittenEvent {
            event_id: String::new(),
            topic: topic.to_owned(),
            subject,
            time: Some(to_timestamp(time)),
            outbox: pb::OutboxPlace::Unspecified.into(),
            unprovable: why.to_owned(),
        },
    }
}

fn parse_subjects(subjects: Vec<String>) -> Result<Vec<String>, Status> {
    if subjects.len() > SUBJECTS_MAX {
        return Err(Status::invalid_argument(format!("at most {SUBJECTS_MAX} subjects")));
    }
    if subjects.iter().all(|subject| is_subject(subject)) {
        Ok(subjects)
    } else {
        Err(Status::invalid_argument("a subject names no aggregate"))
    }
}

fn parse_event_ids(ids: &[String], most: usize) -> Result<Vec<Uuid>, Status> {
    if ids.len() > most {
        return Err(Status::invalid_argument(format!("at most {most} event_ids")));
    }
    ids.iter().map(|id| parse_id("event_ids", id)).collect()
}

/// Why nothing was re-emitted.
#[derive(Debug)]
enum ReemitError {
    NotProven(Uuid),
    Database(DatabaseError),
}

impl From<DatabaseError> for ReemitError {
    fn from(error: DatabaseError) -> Self {
        Self::Database(error)
    }
}

impl Conflicting for ReemitError {
    fn database_error(&self) -> Option<&DatabaseError> {
        if let Self::Database(error) = self { Some(error) } else { None }
    }
}

impl From<ReemitError> for Status {
    fn from(error: ReemitError) -> Self {
        match error {
            ReemitError::NotProven(id) => {
                Self::failed_precondition(format!("the rows of this service do not prove the event {id}"))
            }
            ReemitError::Database(error) => error.into(),
        }
    }
}
