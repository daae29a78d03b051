//! Orders that are unfinished for too long, each with what it waits for.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    Extension,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use holdfast_common::duration::parse_duration;
use holdfast_operator::ticket::Author;
use holdfast_proto::{ops::v1 as pb, to_timestamp};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    letter_link, letters_of,
    order::{readers, written},
    order_link,
};
use crate::{
    ask::{answers, note},
    saga::{self, Evidence, Waits},
    session::Session,
    state::Console,
    view::{self, Frame, Moment, ROWS_MAX, Shown, link, message},
};

/// Of an age such as `90s`.
const AGE_BYTES_MAX: usize = 16;
/// For longer than this, if nothing else is asked for.
pub(super) const OLDER: &str = "1m";

#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    #[serde(default = "older")]
    older: String,
    /// The token of a page that is not the first.
    #[serde(default)]
    after: String,
}

fn older() -> String {
    OLDER.to_owned()
}

#[derive(Debug, Template)]
#[template(path = "stuck.html", blocks = ["live"])]
pub(super) struct View {
    pub(super) frame: Frame,
    pub(super) older: Shown,
    /// Of the page that says which events of these orders are lost.
    pub(super) reconcile: String,
    pub(super) orders: Vec<Row>,
    pub(super) next: String,
}

#[derive(Debug)]
pub(super) struct Row {
    order: Shown,
    link: String,
    topic: Shown,
    service: &'static str,
    since: Moment,
    place: Shown,
    letter_link: String,
}

/// A row for each of these orders.
pub(super) fn rows(evidence: &Evidence, orders: &[String], all_asked: bool, now: OffsetDateTime) -> Vec<Row> {
    let row = |order_id: &String| {
        let events = saga::events(evidence, order_id, now);
        let waits = saga::waits(evidence, order_id, &events, all_asked);
        let row = |topic: &str, service, since, place: &str, letter: &str| Row {
            order: Shown::of(order_id),
            link: order_link(order_id),
            topic: Shown::of(topic),
            service,
            since: Moment::of(since, now),
            place: Shown::of(place),
            letter_link: letter_link(letter),
        };
        match &waits {
            Waits::BehindLetter { topic, service, letter, class } => {
                row(topic, service, None, &format!("behind dead letter {letter} {class}"), letter)
            }
            Waits::ForReader { topic, service, since, place } => row(topic, service, *since, place, ""),
            Waits::Nothing { all_asked: true } => {
                row("", "", None, "every event was handled: its delivery is on its way", "")
            }
            Waits::Nothing { all_asked: false } | Waits::Unknown => {
                row("", "", None, "not known: not every service could be asked", "")
            }
        }
    };
    orders.iter().take(ROWS_MAX).map(row).collect()
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(wanted): Query<Wanted>,
) -> Response {
    match view(&console, &session.author, &wanted).await {
        Some(view) => view::page(StatusCode::OK, &view),
        None => no_such_age(),
    }
}

pub(super) fn no_such_age() -> Response {
    message(StatusCode::BAD_REQUEST, "Not understood", "the age must be a time such as 90s, 5m or 1h")
}

impl Wanted {
    /// The first page of those that are unfinished for longer.
    pub(super) fn older(text: &str) -> Self {
        Self { older: text.to_owned(), after: String::new() }
    }
}

/// When an order must have begun to be older; `None` if that is no age, or reaches back before all time.
pub(super) fn before(older: &str, now: OffsetDateTime) -> Option<OffsetDateTime> {
    let age = parse_duration(older).ok().filter(|_| older.len() <= AGE_BYTES_MAX)?;
    now.checked_sub(time::Duration::try_from(age).ok()?)
}

/// `None` if its age is none. The first page updates by itself.
pub(super) async fn view(console: &Console, author: &Author, wanted: &Wanted) -> Option<View> {
    let now = OffsetDateTime::now_utc();
    let before = before(&wanted.older, now)?;
    let mut missing = Vec::new();
    let page_size = u32::try_from(ROWS_MAX).unwrap_or(u32::MAX);
    let unfinished = console
        .ask(|service| {
            let request = pb::ListUnfinishedRequest {
                before: Some(to_timestamp(before)),
                page_size,
                page_token: wanted.after.clone(),
            };
            async move {
                let request = service.request(request)?;
                Ok(service.answer(service.reconcile().list_unfinished(request).await)?)
            }
        })
        .await;
    let (mut orders, mut next) = (Vec::new(), String::new());
    // Only order knows when an order has ended; the others answer with nothing.
    for (_, answer) in answers(unfinished, &mut missing) {
        orders.extend(answer.subjects);
        next = if answer.next_page_token.is_empty() { next } else { answer.next_page_token };
    }
    orders.truncate(ROWS_MAX);
    let mut evidence = Evidence::default();
    if !orders.is_empty() {
        evidence.written = written(console, &orders, &mut missing).await;
        evidence.readers = readers(console, &evidence.written, &orders, &mut missing).await;
        oldest_letters(console, &mut evidence, &mut missing).await;
    }
    let next = if next.is_empty() {
        next
    } else {
        link("/stuck", &BTreeMap::from([("older", &wanted.older), ("after", &next)]))
    };
    let command = console.command(&format!("orders stuck --older-than {}", wanted.older));
    let frame = Frame::new(console, "Stuck orders", author).missing(&missing).command(command);
    let frame = if wanted.after.is_empty() {
        frame.live(&[("page", "stuck"), ("older", &wanted.older)], now)
    } else {
        frame
    };
    let orders = rows(&evidence, &orders, missing.is_empty(), now);
    let reconcile = link("/reconcile", &[("older", &wanted.older)]);
    Some(View { frame, older: Shown::of(&wanted.older), reconcile, orders, next })
}

/// The letters that orders stand behind, for their topics and classes.
async fn oldest_letters(console: &Console, evidence: &mut Evidence, missing: &mut Vec<String>) {
    let mut found = Vec::new();
    for (name, reader) in &evidence.readers {
        let ids: Vec<String> = reader.parked.iter().map(|parked| parked.dead_letter_id.clone()).collect();
        let Some(service) = console.service(name).filter(|_| !ids.is_empty()) else { continue };
        let page_size = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let wanted = pb::ListDeadLettersRequest { ids, page_size, ..pb::ListDeadLettersRequest::default() };
        match letters_of(service, wanted).await {
            Ok(page) => found.extend(page.dead_letters.into_iter().map(|letter| (*name, letter))),
            Err(error) => note(missing, format!("{error:#}")),
        }
    }
    evidence.letters = found;
}
