//! One order: its events over all services, who has handled each, and why it waits.

use std::collections::HashMap;

use anyhow::Result;
use askama::Template;
use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use futures_util::future::join_all;
use holdfast_operator::{service::Service, ticket::Author};
use holdfast_proto::{from_timestamp, ops::v1 as pb, topic};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{LetterRow, letter_link, letter_of, letters_of, messages_link, no_such_id, reconcile_link};
use crate::{
    ask::{answers, note},
    saga::{self, Event, Evidence, Reader, Reading, Waits},
    session::Session,
    state::Console,
    view::{self, Frame, Moment, ROWS_MAX, Shown},
};

/// Parked letters of one order that are looked into; each is a call.
const LETTERS_LOOKED_INTO_MAX: usize = 16;

#[derive(Debug, Template)]
#[template(path = "order.html", blocks = ["live"])]
pub(super) struct View {
    frame: Frame,
    order: Shown,
    messages: String,
    reconcile: String,
    waits: Shown,
    /// Of the letter that it stands behind.
    link: String,
    events: Vec<EventRow>,
    letters: Vec<LetterRow>,
    has_more: bool,
}

#[derive(Debug)]
struct EventRow {
    at: Moment,
    after: String,
    topic: Shown,
    id: Shown,
    writer: &'static str,
    readings: Vec<ReadingRow>,
}

#[derive(Debug)]
struct ReadingRow {
    service: &'static str,
    state: &'static str,
    detail: Shown,
    link: String,
}

impl ReadingRow {
    fn of(service: &'static str, reading: &Reading) -> Self {
        let row = |state, detail: &str, link| Self { service, state, detail: Shown::of(detail), link };
        match reading {
            Reading::Handled => row("handled", "", String::new()),
            Reading::Parked { letter, class } => row("parked", class, letter_link(letter)),
            Reading::Unhandled(place) => row("not handled", place, String::new()),
            Reading::NotKnown => row("not known", "", String::new()),
        }
    }
}

/// Why an order waits, in a sentence.
pub(super) fn sentence(waits: &Waits) -> String {
    match waits {
        Waits::Unknown => "No service that was asked has written an event about this order.".to_owned(),
        Waits::BehindLetter { service, letter, class, .. } => {
            let class = if class.is_empty() { String::new() } else { format!(" ({class})") };
            format!("Its events wait at {service} behind the dead letter {letter}{class}.")
        }
        Waits::ForReader { topic, service, place, .. } => {
            format!("{service} has not handled its {topic}: {place}.")
        }
        Waits::Nothing { all_asked: true } => "Every event that was written was handled.".to_owned(),
        Waits::Nothing { all_asked: false } => {
            "Nothing is known to be missing, but not every service could be asked.".to_owned()
        }
    }
}

impl View {
    pub(super) fn of(
        frame: Frame,
        order_id: &str,
        evidence: &Evidence,
        letters: &[pb::DeadLetter],
        all_asked: bool,
        now: OffsetDateTime,
    ) -> Self {
        let events = saga::events(evidence, order_id, now);
        let waits = saga::waits(evidence, order_id, &events, all_asked);
        let first = events.iter().find_map(|event| event.time);
        let row = |event: &Event| EventRow {
            at: Moment::of(event.time, now),
            after: event.time.zip(first).map_or_else(String::new, |(time, first)| {
                format!("+{:.3} s", (time - first).as_seconds_f64())
            }),
            topic: Shown::of(&event.topic),
            id: Shown::of(&event.id),
            writer: event.writer,
            readings: event.readings.iter().map(|(name, reading)| ReadingRow::of(name, reading)).collect(),
        };
        Self {
            frame,
            order: Shown::of(order_id),
            messages: messages_link(order_id),
            reconcile: reconcile_link(order_id),
            waits: Shown::of(sentence(&waits)),
            link: match &waits {
                Waits::BehindLetter { letter, .. } => letter_link(letter),
                _ => String::new(),
            },
            has_more: events.len() > ROWS_MAX || letters.len() > ROWS_MAX,
            events: events.iter().take(ROWS_MAX).map(row).collect(),
            letters: letters.iter().take(ROWS_MAX).map(|letter| LetterRow::of(letter, now)).collect(),
        }
    }
}

/// What the services have written about orders. Why some were not asked goes to `missing`.
pub(super) async fn written(
    console: &Console,
    subjects: &[String],
    missing: &mut Vec<String>,
) -> Vec<(&'static str, Vec<pb::WrittenEvent>)> {
    let asked = console
        .ask(|service| async move {
            let request = service.request(pb::ListWrittenEventsRequest { subjects: subjects.to_vec() })?;
            Ok(service.answer(service.reconcile().list_written_events(request).await)?.events)
        })
        .await;
    answers(asked, missing)
}

/// What each reader has not handled of that, and how far it is.
pub(super) async fn readers(
    console: &Console,
    written: &[(&'static str, Vec<pb::WrittenEvent>)],
    subjects: &[String],
    missing: &mut Vec<String>,
) -> HashMap<&'static str, Reader> {
    let asked = console
        .ask(|service| {
            let topics = topic::read_by(service.name);
            let events = written.iter().flat_map(|(_, events)| events);
            let of_interest = events.filter(|event| topics.contains(&event.topic.as_str()));
            let ids: Vec<String> =
                of_interest.map(|event| event.event_id.clone()).filter(|id| !id.is_empty()).collect();
            reader(service, ids, subjects.to_vec())
        })
        .await;
    answers(asked, missing).into_iter().collect()
}

async fn reader(service: Service, event_ids: Vec<String>, subjects: Vec<String>) -> Result<Reader> {
    let unhandled = service.request(pb::ListUnhandledEventsRequest { event_ids, subjects })?;
    let positions = service.request(pb::ListPositionsRequest::default())?;
    let (mut reconcile, mut dead_letters) = (service.reconcile(), service.dead_letters());
    let (unhandled, positions) =
        tokio::join!(reconcile.list_unhandled_events(unhandled), dead_letters.list_positions(positions));
    let (unhandled, positions) = (service.answer(unhandled)?, service.answer(positions)?);
    Ok(Reader {
        unhandled: unhandled.event_ids.into_iter().collect(),
        parked: unhandled.parked,
        seen_at: from_timestamp(positions.seen_at.as_ref()),
        positions: positions.positions,
    })
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
) -> Response {
    let Ok(id) = Uuid::try_parse(&id) else { return no_such_id() };
    view::page(StatusCode::OK, &view(&console, &session.author, id).await)
}

pub(super) async fn view(console: &Console, author: &Author, id: Uuid) -> View {
    let order_id = id.to_string();
    let subjects = [order_id.clone()];
    let mut missing = Vec::new();
    let wanted = pb::ListDeadLettersRequest {
        subject: order_id.clone(),
        page_size: u32::try_from(ROWS_MAX).unwrap_or(u32::MAX),
        ..pb::ListDeadLettersRequest::default()
    };
    let mut missing_letters = Vec::new();
    let (written, listed) = tokio::join!(
        written(console, &subjects, &mut missing),
        console.ask(|service| {
            let wanted = wanted.clone();
            async move { letters_of(&service, wanted).await }
        })
    );
    let listed = answers(listed, &mut missing_letters);
    let readers = readers(console, &written, &subjects, &mut missing).await;
    let mut evidence = Evidence { written, readers, ..Evidence::default() };
    look_into(console, &listed, &mut evidence, &mut missing_letters).await;
    for why in missing_letters {
        note(&mut missing, why);
    }
    let mut letters: Vec<pb::DeadLetter> =
        listed.into_iter().flat_map(|(_, page)| page.dead_letters).collect();
    // The ids are of version 7: the order of parking.
    letters.sort_by(|a, b| a.id.cmp(&b.id));
    let now = OffsetDateTime::now_utc();
    let frame = Frame::new(console, "Order", author)
        .live(&[("page", "order"), ("id", &order_id)], now)
        .missing(&missing)
        .command(console.command(&format!("orders show {order_id}")));
    View::of(frame, &order_id, &evidence, &letters, missing.is_empty(), now)
}

/// Reads the headers of parked letters, which name their events.
async fn look_into(
    console: &Console,
    listed: &[(&'static str, pb::ListDeadLettersResponse)],
    evidence: &mut Evidence,
    missing: &mut Vec<String>,
) {
    let is_parked = |letter: &&pb::DeadLetter| letter.state() == pb::DeadLetterState::Parked;
    for (name, page) in listed {
        let Some(service) = console.service(name) else { continue };
        let parked: Vec<_> = page.dead_letters.iter().filter(is_parked).collect();
        if parked.len() > LETTERS_LOOKED_INTO_MAX || !page.next_page_token.is_empty() {
            evidence.has_more_letters.push(name);
        }
        let ids =
            parked.iter().take(LETTERS_LOOKED_INTO_MAX).filter_map(|letter| Uuid::try_parse(&letter.id).ok());
        for letter in join_all(ids.map(|id| letter_of(service, id))).await {
            match letter {
                Ok(letter) => evidence.letters.extend(letter.map(|letter| (*name, letter))),
                Err(error) => {
                    evidence.has_more_letters.push(name);
                    note(missing, format!("{error:#}"));
                }
            }
        }
    }
    // Of a service whose letters were not listed nothing is known to be handled.
    let was_listed = |name: &&str| listed.iter().any(|(listed, _)| listed == name);
    let unlisted: Vec<_> = evidence.readers.keys().copied().filter(|name| !was_listed(name)).collect();
    evidence.has_more_letters.extend(unlisted);
}
