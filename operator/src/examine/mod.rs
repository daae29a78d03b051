//! Asks the writers what they have written, then the readers what they have not handled.
//!
//! The order of the questions is the proof: an event that was not in the outbox when its writer was asked had been acknowledged by
//! then; a reader that is at the end of the log *after* that has read whatever the log still had; only then its inbox is asked. An
//! event that is not in it was lost. A mistake would be harmless: a reader ignores an id that it has handled.
//!
//! A service that is away is left out from then on. What only it could say is unknown: it is never taken for handled, and never for lost.

mod away;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use anyhow::Result;
use holdfast_proto::{OrderId, from_timestamp, ops::v1 as pb, to_timestamp, topic};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::Instant;

pub use self::away::Away;
use crate::{
    service::Service,
    verdict::{Progress, State, judge, progress},
};

/// Unfinished orders of one call.
const PAGE_SIZE: u32 = 500;
/// Orders of one call to a writer.
const SUBJECTS_PER_CALL: usize = 200;
/// Events of one call to a reader.
const EVENTS_PER_CALL: usize = 2_000;
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Which orders, and whose events.
#[derive(Debug)]
pub struct Scope<'a> {
    /// Which orders.
    pub orders: Orders<'a>,
    /// The service whose events are looked at; `None`: everybody's.
    pub writer: Option<&'a str>,
    /// How long to wait for a reader to look at the broker, which it does when it is asked to. One that has not in this time does not see it.
    pub view_time_max: Duration,
}

/// Which orders.
#[derive(Debug)]
pub enum Orders<'a> {
    /// These, whether they have ended or not.
    These(&'a [OrderId]),
    /// All that have not ended.
    Unfinished {
        /// They began before then.
        before: OffsetDateTime,
    },
    /// Some that have not ended, the oldest first.
    Page {
        /// They began before then.
        before: OffsetDateTime,
        /// [`Examination::next`] of the page before; empty for the first.
        token: &'a str,
        /// 1 to 1,000.
        orders_max: u32,
    },
}

/// An event that a reader has not handled.
#[derive(Debug, Clone)]
pub struct Missing {
    /// Whose event it is.
    pub order_id: String,
    /// The topic for which it was written.
    pub topic: String,
    /// `None` if its writer's rows don't suffice to rebuild it.
    pub event_id: Option<String>,
    /// When it was written.
    pub time: Option<OffsetDateTime>,
    /// Who has written it.
    pub writer: &'static str,
    /// Who has not handled it.
    pub readers: Vec<&'static str>,
    /// Who may have handled it: these could not be asked.
    pub unknown_at: Vec<&'static str>,
    /// What is known of it.
    pub state: State,
    /// More of that, for people.
    pub detail: String,
}

/// An event that has arrived at all its readers, each of which has handled or parked it.
#[derive(Debug, Clone)]
pub struct Handled {
    /// The topic for which it was written.
    pub topic: String,
    /// Its id.
    pub event_id: String,
    /// When it was written.
    pub time: Option<OffsetDateTime>,
    /// Who has written it.
    pub writer: &'static str,
    /// Who reads it.
    pub readers: Vec<&'static str>,
}

/// That a reader handles what a writer has written to a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Promise {
    /// The topic.
    pub topic: &'static str,
    /// Who writes it.
    pub writer: &'static str,
    /// Who reads it.
    pub reader: &'static str,
    /// Why nobody knows whether it was kept; `null` if it was checked for all orders that were looked at.
    pub unchecked: Option<String>,
}

/// What was found.
#[derive(Debug)]
pub struct Examination {
    /// Those that were looked at.
    pub orders: Vec<String>,
    /// The token of the page after a page of unfinished orders; empty if there is none.
    pub next: String,
    /// Events that have arrived everywhere.
    pub handled: Vec<Handled>,
    /// Events that have not, an order's together, oldest first.
    pub missing: Vec<Missing>,
    /// Orders that wait behind a dead letter, each with the service whose letter it is.
    pub blocked: Vec<(&'static str, pb::ParkedAggregate)>,
    /// What was to be checked.
    pub promises: Vec<Promise>,
    /// Who could not be asked.
    pub away: Away,
}

impl Examination {
    /// Whether everything was checked that was to be. If it was not, nobody may say that nothing is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.away.is_empty() && self.promises.iter().all(|promise| promise.unchecked.is_none())
    }
}

/// What a reader has answered.
struct Reader {
    progress: HashMap<String, Progress>,
    unhandled: HashSet<String>,
    parked: Vec<pb::ParkedAggregate>,
}

/// Examines orders. Who can't be asked is added to those that are `away`; only another failure is an error.
pub async fn examine(services: &[Service], scope: &Scope<'_>, mut away: Away) -> Result<Examination> {
    let (orders, next) = orders(services, scope, &mut away).await?;
    let is_list_known =
        matches!(scope.orders, Orders::These(_)) || begins_orders().is_none_or(|service| !away.has(service));
    let (written, writers) = written(services, scope, &orders, &mut away).await?;
    let asked = OffsetDateTime::now_utc();
    let reader = |service| read(service, &written, &orders, Since { asked, time_max: scope.view_time_max });
    let answers = away.ask_each(services, reader).await?;
    let answers: HashMap<_, _> =
        answers.into_iter().map(|(service, answer)| (service.name, answer)).collect();
    let (mut handled, mut missing) = (Vec::new(), Vec::new());
    for (writer, event) in written {
        match found_of(writer, event, &answers, asked) {
            Found::Handled(event) => handled.push(event),
            Found::Missing(event) => missing.push(event),
        }
    }
    // An order's events together, oldest first.
    missing.sort_by(|a, b| (&a.order_id, a.time).cmp(&(&b.order_id, b.time)));
    let blocked = answers.iter().flat_map(|(service, answer)| {
        answer.parked.iter().map(|parked| (*service, parked.clone())).collect::<Vec<_>>()
    });
    let mut blocked: Vec<_> = blocked.collect();
    blocked.sort_by(|a, b| (a.0, &a.1.subject).cmp(&(b.0, &b.1.subject)));
    let promises = promises(scope.writer, is_list_known, &writers, &away);
    Ok(Examination { orders, next, handled, missing, blocked, promises, away })
}

/// The service that knows which orders have not ended: the one that begins them.
fn begins_orders() -> Option<&'static str> {
    topic::event_of(topic::ORDER_CREATED).map(|(_, _, writer)| writer)
}

/// Since when a reader must have looked at the broker, and how long it has time for that.
#[derive(Clone, Copy)]
struct Since {
    asked: OffsetDateTime,
    time_max: Duration,
}

/// What a reader has not handled of what was written, how far it is, and what it has parked.
async fn read(
    service: &Service,
    written: &[(&'static str, pb::WrittenEvent)],
    orders: &[String],
    since: Since,
) -> Result<Reader> {
    let topics = topic::read_by(service.name);
    let of_interest = written.iter().filter(|(_, event)| topics.contains(&event.topic.as_str()));
    let ids: Vec<String> =
        of_interest.map(|(_, event)| event.event_id.clone()).filter(|id| !id.is_empty()).collect();
    // What was handled stays so: only for the rest it matters how far its reader is, and what it has handled until then.
    let mut lacking = unhandled(service, ids).await?;
    let mut progress = HashMap::new();
    if !lacking.is_empty() {
        progress = progress_of(service, since).await?;
        lacking = unhandled(service, lacking.into_iter().collect()).await?;
    }
    Ok(Reader { progress, unhandled: lacking, parked: parked(service, orders).await? })
}

enum Found {
    Handled(Handled),
    Missing(Missing),
}

/// What has become of an event, as far as its readers have answered.
fn found_of(
    writer: &'static str,
    event: pb::WrittenEvent,
    answers: &HashMap<&'static str, Reader>,
    asked: OffsetDateTime,
) -> Found {
    let readers = || topic::READINGS.iter().filter(|(topic, _)| *topic == event.topic).map(|(_, of)| *of);
    // Of what can't be rebuilt the id isn't known, so nobody can say who has handled it.
    let has_no_id = event.event_id.is_empty();
    let lacking: Vec<(&'static str, Progress)> = readers()
        .filter_map(|reader| {
            let answer = answers.get(reader);
            let progress = answer.and_then(|answer| answer.progress.get(&event.topic)).cloned();
            let is_missing = has_no_id || answer?.unhandled.contains(&event.event_id);
            is_missing.then_some((reader, progress.unwrap_or(Progress::Blind)))
        })
        .collect();
    let unknown_at: Vec<&'static str> =
        readers().filter(|reader| !has_no_id && !answers.contains_key(reader)).collect();
    let time = from_timestamp(event.time.as_ref());
    if lacking.is_empty() && unknown_at.is_empty() {
        let readers = readers().collect();
        return Found::Handled(Handled {
            event_id: event.event_id,
            time,
            writer,
            readers,
            topic: event.topic,
        });
    }
    let (state, detail) = if lacking.is_empty() {
        (State::Unknown, format!("{} could not be asked", unknown_at.join(" and ")))
    } else {
        judge(&event, time, &lacking, asked)
    };
    Found::Missing(Missing {
        order_id: event.subject,
        topic: event.topic,
        event_id: Some(event.event_id).filter(|id| !id.is_empty()),
        time,
        writer,
        readers: lacking.into_iter().map(|(reader, _)| reader).collect(),
        unknown_at,
        state,
        detail,
    })
}

/// What was to be checked, and what of it was. `writers` are those that have said what they have written.
fn promises(
    only: Option<&str>,
    is_list_known: bool,
    writers: &BTreeSet<&'static str>,
    away: &Away,
) -> Vec<Promise> {
    let promise = |(topic, reader): &(&'static str, &'static str)| {
        let (_, _, writer) = topic::event_of(topic)?;
        if only.is_some_and(|only| only != writer) {
            return None;
        }
        let is_away = |service: &str| format!("{service} could not be asked");
        let unchecked = if !is_list_known {
            Some(format!("which orders have not ended is not known: {}", is_away(begins_orders()?)))
        } else if !writers.contains(writer) {
            Some(is_away(writer))
        } else {
            away.has(reader).then(|| is_away(reader))
        };
        Some(Promise { topic, writer, reader, unchecked })
    };
    topic::READINGS.iter().filter_map(promise).collect()
}

/// The orders to look at, and the token of those after them.
async fn orders(services: &[Service], scope: &Scope<'_>, away: &mut Away) -> Result<(Vec<String>, String)> {
    let (before, token, orders_max) = match scope.orders {
        Orders::These(orders) => {
            return Ok((orders.iter().map(OrderId::to_string).collect(), String::new()));
        }
        Orders::Unfinished { before } => (before, "", None),
        Orders::Page { before, token, orders_max } => (before, token, Some(orders_max)),
    };
    let before = to_timestamp(before);
    let answers = away.ask_each(services, |service| unfinished(service, before, token, orders_max)).await?;
    let (mut orders, mut next) = (Vec::new(), String::new());
    // Only one service knows of ends; the others answer with nothing.
    for (_, (subjects, token)) in answers {
        orders.extend(subjects);
        next += &token;
    }
    Ok((orders, next))
}

/// The orders that have not ended, as far as a service knows of ends: a page of so many, with the token of the next one, or all.
async fn unfinished(
    service: &Service,
    before: prost_types::Timestamp,
    token: &str,
    orders_max: Option<u32>,
) -> Result<(Vec<String>, String)> {
    let mut orders = Vec::new();
    let mut page_token = token.to_owned();
    loop {
        let page_size = orders_max.unwrap_or(PAGE_SIZE);
        let request = pb::ListUnfinishedRequest { before: Some(before), page_size, page_token };
        let answer = service.reconcile().list_unfinished(service.request(request)?).await;
        let answer = service.answer(answer)?;
        orders.extend(answer.subjects);
        page_token = answer.next_page_token;
        if page_token.is_empty() || orders_max.is_some() {
            return Ok((orders, page_token));
        }
    }
}

/// What the writers have written about these orders, and who has said so.
async fn written(
    services: &[Service],
    scope: &Scope<'_>,
    orders: &[String],
    away: &mut Away,
) -> Result<(Vec<(&'static str, pb::WrittenEvent)>, BTreeSet<&'static str>)> {
    let is_writer = |service: &Service| scope.writer.is_none_or(|only| only == service.name);
    let question = |service| async move {
        if is_writer(service) { written_by(service, orders).await.map(Some) } else { Ok(None) }
    };
    let (mut written, mut writers) = (Vec::new(), BTreeSet::new());
    for (service, events) in away.ask_each(services, question).await? {
        let Some(events) = events else { continue };
        written.extend(events.into_iter().map(|event| (service.name, event)));
        writers.insert(service.name);
    }
    Ok((written, writers))
}

async fn written_by(service: &Service, orders: &[String]) -> Result<Vec<pb::WrittenEvent>> {
    let mut written = Vec::new();
    for subjects in orders.chunks(SUBJECTS_PER_CALL) {
        let request = service.request(pb::ListWrittenEventsRequest { subjects: subjects.to_vec() })?;
        let answer = service.reconcile().list_written_events(request).await;
        written.extend(service.answer(answer)?.events);
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

/// How far a reader is with each topic, as it has seen the broker since the writers were asked. Empty if it has not seen it.
async fn progress_of(service: &Service, since: Since) -> Result<HashMap<String, Progress>> {
    let until = Instant::now() + since.time_max;
    loop {
        let request = service.request(pb::ListPositionsRequest { look_now: true })?;
        let answer = service.dead_letters().list_positions(request).await;
        let answer = service.answer(answer)?;
        let is_fresh = from_timestamp(answer.seen_at.as_ref()).is_some_and(|seen_at| seen_at > since.asked);
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

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = "01a21184-8763-7214-acea-000000000001";

    fn at_the_end(unhandled: &[&str]) -> Reader {
        let progress = topic::EVENT_TOPICS.iter().map(|topic| ((*topic).to_owned(), Progress::AtTheEnd));
        Reader {
            progress: progress.collect(),
            unhandled: unhandled.iter().map(|id| (*id).to_owned()).collect(),
            parked: Vec::new(),
        }
    }

    /// State, who lacks it and who could not be asked; `None`: it was handled.
    fn found(readers: Vec<(&'static str, Reader)>) -> Option<(State, Vec<&'static str>, Vec<&'static str>)> {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let event = pb::WrittenEvent {
            event_id: EVENT.to_owned(),
            topic: topic::DELIVERY_STATUS_UPDATED.to_owned(),
            time: Some(to_timestamp(now)),
            outbox: pb::OutboxPlace::Absent.into(),
            ..pb::WrittenEvent::default()
        };
        match found_of("delivery", event, &readers.into_iter().collect(), now) {
            Found::Handled(_) => None,
            Found::Missing(missing) => Some((missing.state, missing.readers, missing.unknown_at)),
        }
    }

    /// An event is called lost by those that were asked only, and handled only if all were; otherwise it is unknown.
    #[test]
    fn what_nobody_could_say_is_neither_lost_nor_handled() {
        let handled = || at_the_end(&[]);
        let lacks = || at_the_end(&[EVENT]);
        assert_eq!(found(vec![("order", handled()), ("payment", handled())]), None);
        let unknown = found(vec![("order", handled())]);
        assert_eq!(unknown, Some((State::Unknown, vec![], vec!["payment"])));
        assert_eq!(found(vec![]), Some((State::Unknown, vec![], vec!["order", "payment"])));
        let lost = found(vec![("order", lacks())]);
        assert_eq!(lost, Some((State::Lost, vec!["order"], vec!["payment"])));
    }

    /// A promise was checked if its writer and its reader were asked, and it is known about which orders.
    #[test]
    fn what_was_checked_is_said() {
        let all: BTreeSet<&str> = ["order", "payment", "delivery"].into();
        let unchecked = |only, is_list_known, writers: &BTreeSet<&'static str>, away: &[&'static str]| {
            let promises = promises(only, is_list_known, writers, &Away::these(away));
            let unchecked = promises.iter().filter(|promise| promise.unchecked.is_some());
            (promises.len(), unchecked.map(|of| format!("{} at {}", of.topic, of.reader)).collect::<Vec<_>>())
        };
        let many = topic::READINGS.len();
        assert_eq!(unchecked(None, true, &all, &[]), (many, vec![]));
        let (_, without) = unchecked(None, true, &["order", "delivery"].into(), &["payment"]);
        assert!(without.contains(&"order.created at payment".to_owned()), "its reader: {without:?}");
        assert!(without.contains(&"payment.completed at order".to_owned()), "its writer: {without:?}");
        assert!(!without.contains(&"delivery.status.updated at order".to_owned()), "{without:?}");
        // It said what it had written, and was away then.
        let (_, later) = unchecked(None, true, &all, &["payment"]);
        assert!(!later.contains(&"payment.completed at order".to_owned()), "{later:?}");
        assert_eq!(unchecked(None, false, &all, &["order"]).1.len(), many, "which orders is not known");
        assert_eq!(unchecked(Some("order"), true, &all, &[]).0, 1);
    }
}
