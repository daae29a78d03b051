//! Letters that match a filter, which is in the address.

use askama::Template;
use axum::{
    Extension,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use holdfast_common::consumer::Class;
use holdfast_proto::{ops::v1 as pb, to_timestamp, topic::EVENT_TOPICS};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{LetterRow, Step, letters_of, since_steps};
use crate::{
    ask::answers,
    session::Session,
    state::{Console, PARTICIPANTS},
    view::{self, Frame, ROWS_MAX, Shown, link, message},
    when::When,
};

/// States by which letters are looked for; empty is any.
const STATES: [(&str, pb::DeadLetterState); 4] = [
    ("parked", pb::DeadLetterState::Parked),
    ("redriven", pb::DeadLetterState::Redriven),
    ("discarded", pb::DeadLetterState::Discarded),
    ("set-aside", pb::DeadLetterState::SetAside),
];

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub(crate) struct Filter {
    #[serde(default)]
    service: String,
    #[serde(default)]
    topic: String,
    #[serde(default)]
    class: String,
    #[serde(default)]
    order: String,
    #[serde(default = "parked")]
    state: String,
    /// Parked at or after.
    #[serde(default)]
    since: When,
    /// Parked before.
    #[serde(default)]
    until: When,
    #[serde(default)]
    after: String,
}

fn parked() -> String {
    "parked".to_owned()
}

impl Filter {
    /// Why it can't be meant: a mistyped filter must not match everything.
    fn wrong(&self) -> Option<&'static str> {
        let is_known = |value: &str, of: &[&str]| value.is_empty() || of.contains(&value);
        if !is_known(&self.service, &PARTICIPANTS) {
            return Some("there is no such service");
        }
        if !is_known(&self.topic, &EVENT_TOPICS) {
            return Some("there is no such topic");
        }
        if !is_known(&self.class, &Class::ALL.map(Class::as_str)) {
            return Some("there is no such class");
        }
        if self.state != "all" && !is_known(&self.state, &STATES.map(|(name, _)| name)) {
            return Some("there is no such state");
        }
        let is_order = self.order.is_empty() || Uuid::try_parse(&self.order).is_ok();
        (!is_order).then_some("an order is named by its id")
    }

    fn request(&self) -> pb::ListDeadLettersRequest {
        let state = STATES.iter().find(|(name, _)| *name == self.state).map(|(_, state)| *state);
        pb::ListDeadLettersRequest {
            topic: self.topic.clone(),
            class: self.class.clone(),
            subject: self.order.clone(),
            since: self.since.at().map(to_timestamp),
            until: self.until.at().map(to_timestamp),
            state: state.unwrap_or_default().into(),
            page_size: u32::try_from(ROWS_MAX).unwrap_or(u32::MAX),
            page_token: self.after.clone(),
            ..pb::ListDeadLettersRequest::default()
        }
    }

    /// What can be done with all that match, by its name, with its link.
    fn actions(&self) -> Vec<(&'static str, String)> {
        let names: &[(&str, &str)] = match self.state.as_str() {
            "parked" => &[("Redrive…", "redrive"), ("Discard…", "discard")],
            "discarded" => &[("Restore…", "restore")],
            _ => &[],
        };
        let is_any_time = self.since.at().or(self.until.at()).is_none();
        let is_narrow =
            !(self.topic.is_empty() && self.class.is_empty() && self.order.is_empty() && is_any_time);
        let link = |(name, action): &(&'static str, &str)| {
            let of = [
                ("action", *action),
                ("service", &self.service),
                ("topic", &self.topic),
                ("class", &self.class),
                ("order", &self.order),
                ("since", self.since.text()),
                ("until", self.until.text()),
            ];
            (*name, link("/desk", &of))
        };
        if is_narrow && !self.service.is_empty() { names.iter().map(link).collect() } else { Vec::new() }
    }

    /// The same filter for letters that were parked since another time.
    fn since(&self, since: &str) -> String {
        let of = [
            ("service", self.service.as_str()),
            ("topic", &self.topic),
            ("class", &self.class),
            ("order", &self.order),
            ("state", &self.state),
            ("since", since),
        ];
        link("/letters/list", &of)
    }

    fn command(&self) -> String {
        let options = [
            ("service", self.service.as_str()),
            ("topic", &self.topic),
            ("class", &self.class),
            ("order", &self.order),
            ("state", &self.state),
            ("since", self.since.text()),
            ("until", self.until.text()),
        ];
        let given = options.into_iter().filter(|(_, value)| !value.is_empty());
        given.fold("dlq list".to_owned(), |words, (option, value)| format!("{words} --{option} {value}"))
    }
}

/// A choice of a form.
#[derive(Debug)]
pub(super) struct Choice {
    value: &'static str,
    is_chosen: bool,
}

fn choices(of: impl Iterator<Item = &'static str>, chosen: &str) -> Vec<Choice> {
    of.map(|value| Choice { value, is_chosen: value == chosen }).collect()
}

#[derive(Debug, Template)]
#[template(path = "list.html")]
pub(super) struct View {
    frame: Frame,
    services: Vec<Choice>,
    topics: Vec<Choice>,
    classes: Vec<Choice>,
    states: Vec<Choice>,
    order: Shown,
    since: Shown,
    until: Shown,
    within: Vec<Step>,
    letters: Vec<LetterRow>,
    /// What can be done with all that match; empty if too little is chosen for that.
    actions: Vec<(&'static str, String)>,
    next: String,
    has_more: bool,
}

impl View {
    pub(super) fn of(
        frame: Frame,
        filter: &Filter,
        pages: Vec<(&'static str, pb::ListDeadLettersResponse)>,
        now: OffsetDateTime,
    ) -> Self {
        let tokens: Vec<_> = pages
            .iter()
            .map(|(_, page)| page.next_page_token.clone())
            .filter(|token| !token.is_empty())
            .collect();
        // A page token is that of one service.
        let next = match tokens.as_slice() {
            [token] if !filter.service.is_empty() => {
                link("/letters/list", &Filter { after: token.clone(), ..filter.clone() })
            }
            _ => String::new(),
        };
        let mut letters: Vec<_> = pages.into_iter().flat_map(|(_, page)| page.dead_letters).collect();
        letters.sort_by(|a, b| a.id.cmp(&b.id));
        Self {
            frame,
            services: choices(PARTICIPANTS.into_iter(), &filter.service),
            topics: choices(EVENT_TOPICS.into_iter(), &filter.topic),
            classes: choices(Class::ALL.map(Class::as_str).into_iter(), &filter.class),
            states: choices(STATES.into_iter().map(|(name, _)| name).chain(["all"]), &filter.state),
            order: Shown::of(&filter.order),
            since: Shown::of(filter.since.text()),
            until: Shown::of(filter.until.text()),
            within: since_steps(&filter.since, |since| filter.since(since)),
            actions: filter.actions(),
            has_more: next.is_empty() && (letters.len() > ROWS_MAX || !tokens.is_empty()),
            next,
            letters: letters.iter().take(ROWS_MAX).map(|letter| LetterRow::of(letter, now)).collect(),
        }
    }
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(filter): Query<Filter>,
) -> Response {
    if let Some(wrong) = filter.wrong() {
        return message(StatusCode::BAD_REQUEST, "Not understood", wrong);
    }
    let mut missing = Vec::new();
    let asked = console
        .ask(|service| {
            let is_wanted = filter.service.is_empty() || filter.service == service.name;
            let request = is_wanted.then(|| filter.request());
            async move {
                match request {
                    Some(request) => letters_of(&service, request).await,
                    None => Ok(pb::ListDeadLettersResponse::default()),
                }
            }
        })
        .await;
    let pages = answers(asked, &mut missing);
    let frame = Frame::new(&console, "Letters", &session.author)
        .missing(&missing)
        .command(console.command(&filter.command()));
    view::page(StatusCode::OK, &View::of(frame, &filter, pages, OffsetDateTime::now_utc()))
}
