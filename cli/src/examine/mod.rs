//! Asks the writers what they have written, then the readers what they have not handled.
//!
//! The order of the questions is the proof: an event that was not in the outbox when its writer was asked had been acknowledged by
//! then; a reader that is at the end of the log *after* that has read whatever the log still had; only then its inbox is asked. An
//! event that is not in it was lost. A mistake would be harmless: a reader ignores an id that it has handled.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use anyhow::{Context as _, Result};
use holdfast_proto::{OrderId, from_timestamp, ops::v1 as pb, to_timestamp, topic};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::services::{Service, Services};
pub(crate) use holdfast_operator::verdict::State;
use holdfast_operator::verdict::{Progress, judge, progress};

/// Orders of one page.
const PAGE_SIZE: u32 = 500;
/// Orders of one call to a writer.
const SUBJECTS_PER_CALL: usize = 200;
/// Events of one call to a reader.
const EVENTS_PER_CALL: usize = 2_000;
/// A service looks at the broker every 2 s; one that has not in this time does not see it.
const VIEW_TIME_MAX: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Which orders, and whose events.
pub(crate) struct Scope<'a> {
    /// Empty: those that have not ended.
    pub(crate) orders: &'a [OrderId],
    /// Of those that have not ended.
    pub(crate) older_than: Duration,
    pub(crate) writer: Option<&'a str>,
}

/// An event that a reader has not handled.
pub(crate) struct Missing {
    pub(crate) order_id: String,
    pub(crate) topic: String,
    pub(crate) event_id: Option<String>,
    pub(crate) time: Option<OffsetDateTime>,
    pub(crate) writer: &'static str,
    /// Who has not handled it.
    pub(crate) readers: Vec<&'static str>,
    pub(crate) state: State,
    pub(crate) detail: String,
}

/// An event that has arrived at all its readers, each of which has handled or parked it.
pub(crate) struct Handled {
    pub(crate) topic: String,
    pub(crate) event_id: String,
    pub(crate) time: Option<OffsetDateTime>,
    pub(crate) writer: &'static str,
    pub(crate) readers: Vec<&'static str>,
}

/// What was found.
pub(crate) struct Examination {
    /// Those that were looked at.
    pub(crate) orders: Vec<String>,
    pub(crate) handled: Vec<Handled>,
    pub(crate) missing: Vec<Missing>,
    /// Orders that wait behind a dead letter, each with the service whose letter it is.
    pub(crate) blocked: Vec<(&'static str, pb::ParkedAggregate)>,
}

pub(crate) async fn examine(services: &Services, scope: &Scope<'_>) -> Result<Examination> {
    let orders = orders(services, scope).await?;
    let written = written(services, scope, &orders).await?;
    let asked = OffsetDateTime::now_utc();
    let (mut handled, mut missing) = (Vec::new(), Vec::new());
    let mut blocked = Vec::new();
    let mut answers = HashMap::new();
    for service in &services.all {
        let topics = topic::read_by(service.name);
        let of_interest = written.iter().filter(|(_, event)| topics.contains(&event.topic.as_str()));
        let ids: Vec<String> =
            of_interest.map(|(_, event)| event.event_id.clone()).filter(|id| !id.is_empty()).collect();
        let progress = if ids.is_empty() { HashMap::new() } else { progress_of(service, asked).await? };
        let unhandled = unhandled(service, ids).await?;
        for parked in parked(service, &orders).await? {
            blocked.push((service.name, parked));
        }
        answers.insert(service.name, (progress, unhandled));
    }
    for (writer, event) in written {
        let readers = topic::READINGS.iter().filter(|(topic, _)| *topic == event.topic);
        let lacking: Vec<(&'static str, Progress)> = readers
            .filter_map(|(_, reader)| {
                let (progress, unhandled) = answers.get(reader)?;
                // Of what can't be rebuilt the id isn't known, so nobody can say who has handled it.
                let is_missing = event.event_id.is_empty() || unhandled.contains(&event.event_id);
                let progress = progress.get(event.topic.as_str()).cloned().unwrap_or(Progress::Blind);
                is_missing.then_some((*reader, progress))
            })
            .collect();
        let time = from_timestamp(event.time.as_ref());
        if lacking.is_empty() {
            let readers = topic::READINGS.iter().filter(|(topic, _)| *topic == event.topic);
            handled.push(Handled {
                event_id: event.event_id,
                time,
                writer,
                readers: readers.map(|(_, reader)| *reader).collect(),
                topic: event.topic,
            });
            continue;
        }
        let (state, detail) = judge(&event, time, &lacking, asked);
        missing.push(Missing {
            order_id: event.subject,
            topic: event.topic,
            event_id: Some(event.event_id).filter(|id| !id.is_empty()),
            time,
            writer,
            readers: lacking.into_iter().map(|(reader, _)| reader).collect(),
            state,
            detail,
        });
    }
    // An order's events together, oldest first.
    missing.sort_by(|a, b| (&a.order_id, a.time).cmp(&(&b.order_id, b.time)));
    Ok(Examination { orders, handled, missing, blocked })
}

/// The orders to look at.
async fn orders(services: &Services, scope: &Scope<'_>) -> Result<Vec<String>> {
    if !scope.orders.is_empty() {
        return Ok(scope.orders.iter().map(OrderId::to_string).collect());
    }
    let age = time::Duration::try_from(scope.older_than).ok();
    let before = age.and_then(|age| OffsetDateTime::now_utc().checked_sub(age));
    let before = to_timestamp(before.context("--older-than reaches back before all time")?);
    let mut orders = Vec::new();
    for service in &services.all {
        let mut page_token = String::new();
        loop {
            let request =
                pb::ListUnfinishedRequest { before: Some(before), page_size: PAGE_SIZE, page_token };
            let answer = service.reconcile().list_unfinished(service.request(request)?).await;
            let answer = service.answer(answer)?;
            orders.extend(answer.subjects);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    Ok(orders)
}

/// What the writers have written about these orders.
async fn written(
    services: &Services,
    scope: &Scope<'_>,
    orders: &[String],
) -> Result<Vec<(&'static str, pb::WrittenEvent)>> {
    let mut written = Vec::new();
    for service in &services.all {
        if scope.writer.is_some_and(|writer| writer != service.name) {
            continue;
        }
        for subjects in orders.chunks(SUBJECTS_PER_CALL) {
            let request = service.request(pb::ListWrittenEventsRequest { subjects: subjects.to_vec() })?;
            let answer = service.reconcile().list_written_events(request).await;
            let events = service.answer(answer)?.events;
            written.extend(events.into_iter().map(|event| (service.name, event)));
        }
    }
    Ok(written)
}

/// Those of the events that a reader has never handled.
async fn unhandled(service: &Service, ids: Vec<String>) -> Result<HashSet<String>> {
    let mut unhandled = HashSet::new();
    for event_ids in ids.chunks(EVENTS_PER_CALL) {
        let request = pb::ListUnhandledEventsRequest { event_ids: event_ids.to_vec(), subjects: Vec::new() };
        let answer = service.reconcile().list_unhandled_events(service.request(request)?).await;
        unhandled.extend(service.answer(answer)?.event_ids);
    }
    Ok(unhandled)
}

/// Those of the orders that wait behind a dead letter of a service.
async fn parked(service: &Service, orders: &[String]) -> Result<Vec<pb::ParkedAggregate>> {
    let mut parked = Vec::new();
    for subjects in orders.chunks(SUBJECTS_PER_CALL) {
        let request = pb::ListUnhandledEventsRequest { event_ids: Vec::new(), subjects: subjects.to_vec() };
        let answer = service.reconcile().list_unhandled_events(service.request(request)?).await;
        parked.extend(service.answer(answer)?.parked);
    }
    Ok(parked)
}

/// How far a reader is with each topic, as it saw the broker after `since`. Empty if it has not seen it.
async fn progress_of(service: &Service, since: OffsetDateTime) -> Result<HashMap<String, Progress>> {
    let until = Instant::now() + VIEW_TIME_MAX;
    loop {
        let request = service.request(pb::ListPositionsRequest {})?;
        let answer = service.dead_letters().list_positions(request).await;
        let answer = service.answer(answer)?;
        let is_fresh = from_timestamp(answer.seen_at.as_ref()).is_some_and(|seen_at| seen_at > since);
        if is_fresh {
            let mut by_topic: HashMap<String, Vec<&pb::ConsumerPosition>> = HashMap::new();
            for position in &answer.positions {
                by_topic.entry(position.topic.clone()).or_default().push(position);
            }
            return Ok(by_topic.into_iter().map(|(topic, of)| (topic, progress(&of))).collect());
        }
        if Instant::now() > until {
            return Ok(HashMap::new());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
