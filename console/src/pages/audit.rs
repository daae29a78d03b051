//! Who did what to which letter, newest first.

use anyhow::Result;
use askama::Template;
use axum::{
    Extension,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use holdfast_operator::service::Service;
use holdfast_proto::{ops::v1 as pb, to_timestamp};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{AuditRow, Step, no_such_id, since_steps};
use crate::{
    ask::answers,
    session::Session,
    state::{Console, PARTICIPANTS},
    view::{self, Frame, ROWS_MAX, Shown, link, message},
    when::When,
};

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub(crate) struct Wanted {
    #[serde(default)]
    service: String,
    #[serde(default)]
    letter: String,
    /// Done at or after.
    #[serde(default)]
    since: When,
    /// Done before.
    #[serde(default)]
    until: When,
    #[serde(default)]
    after: String,
}

impl Wanted {
    fn request(&self) -> pb::ListDeadLetterAuditRequest {
        pb::ListDeadLetterAuditRequest {
            dead_letter_id: self.letter.clone(),
            since: self.since.at().map(to_timestamp),
            until: self.until.at().map(to_timestamp),
            page_size: u32::try_from(ROWS_MAX).unwrap_or(u32::MAX),
            page_token: self.after.clone(),
        }
    }

    /// What was done at that service; the first page.
    fn of_service(&self, name: &str) -> String {
        link("/audit", &Self { service: name.to_owned(), after: String::new(), ..self.clone() })
    }

    fn since(&self, since: &str) -> String {
        link("/audit", &[("service", self.service.as_str()), ("letter", &self.letter), ("since", since)])
    }

    fn command(&self) -> String {
        let letter = if self.letter.is_empty() { String::new() } else { format!(" {}", self.letter) };
        let times = [("since", self.since.text()), ("until", self.until.text())];
        let given = times.into_iter().filter(|(_, time)| !time.is_empty());
        given.fold(format!("dlq audit{letter}"), |words, (option, time)| format!("{words} --{option} {time}"))
    }
}

#[derive(Debug, Template)]
#[template(path = "audit.html")]
pub(super) struct View {
    frame: Frame,
    services: Vec<(&'static str, String)>,
    service: Shown,
    letter: Shown,
    since: Shown,
    until: Shown,
    within: Vec<Step>,
    entries: Vec<AuditRow>,
    next: String,
    has_more: bool,
}

impl View {
    pub(super) fn of(
        frame: Frame,
        wanted: &Wanted,
        entries: Vec<AuditRow>,
        next: String,
        has_more: bool,
    ) -> Self {
        Self {
            frame,
            services: PARTICIPANTS.map(|name| (name, wanted.of_service(name))).into(),
            service: Shown::of(&wanted.service),
            letter: Shown::of(&wanted.letter),
            since: Shown::of(wanted.since.text()),
            until: Shown::of(wanted.until.text()),
            within: since_steps(&wanted.since, |since| wanted.since(since)),
            entries,
            next,
            has_more,
        }
    }
}

/// The newest entries of all services.
pub(super) fn rows(
    pages: &[(&'static str, pb::ListDeadLetterAuditResponse)],
    now: OffsetDateTime,
) -> (Vec<AuditRow>, bool) {
    let of_each =
        pages.iter().flat_map(|(service, page)| page.entries.iter().map(move |entry| (*service, entry)));
    let mut all: Vec<_> = of_each.collect();
    // The ids are of version 7.
    all.sort_by(|(_, a), (_, b)| b.id.cmp(&a.id));
    let has_more = all.len() > ROWS_MAX || pages.iter().any(|(_, page)| !page.next_page_token.is_empty());
    (all.iter().take(ROWS_MAX).map(|(service, entry)| AuditRow::of(entry, service, now)).collect(), has_more)
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(wanted): Query<Wanted>,
) -> Response {
    if !wanted.letter.is_empty() && Uuid::try_parse(&wanted.letter).is_err() {
        return no_such_id();
    }
    if !wanted.service.is_empty() && console.service(&wanted.service).is_none() {
        return message(StatusCode::BAD_REQUEST, "Not understood", "there is no such service");
    }
    let mut missing = Vec::new();
    let asked = console
        .ask(|service| {
            let is_wanted = wanted.service.is_empty() || wanted.service == service.name;
            let request = is_wanted.then(|| wanted.request());
            async move {
                match request {
                    Some(request) => entries(&service, request).await,
                    None => Ok(pb::ListDeadLetterAuditResponse::default()),
                }
            }
        })
        .await;
    let pages = answers(asked, &mut missing);
    let (entries, has_more) = rows(&pages, OffsetDateTime::now_utc());
    let token =
        pages.iter().find(|(name, _)| *name == wanted.service).map(|(_, page)| page.next_page_token.as_str());
    let next = token.filter(|token| !token.is_empty()).map_or_else(String::new, |token| {
        link("/audit", &Wanted { after: token.to_owned(), ..wanted.clone() })
    });
    let frame = Frame::new(&console, "Audit", &session.author)
        .missing(&missing)
        .command(console.command(&wanted.command()));
    let has_more = has_more && next.is_empty();
    view::page(StatusCode::OK, &View::of(frame, &wanted, entries, next, has_more))
}

async fn entries(
    service: &Service,
    request: pb::ListDeadLetterAuditRequest,
) -> Result<pb::ListDeadLetterAuditResponse> {
    let request = service.request(request)?;
    Ok(service.answer(service.dead_letters().list_dead_letter_audit(request).await)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is looked at is in the address, and the command does the same: from one service to another the times stay.
    #[test]
    fn what_is_looked_at_is_in_the_address() {
        let wanted: Wanted =
            serde_urlencoded::from_str("service=order&since=24h&until=2026-01-31&after=x").expect("fields");
        assert_eq!(wanted.of_service("payment"), "/audit?service=payment&since=24h&until=2026-01-31");
        assert_eq!(wanted.since("1h"), "/audit?service=order&since=1h");
        assert_eq!(wanted.command(), "dlq audit --since 24h --until 2026-01-31");
        let request = wanted.request();
        assert_eq!(request.until, wanted.until.at().map(to_timestamp));
        assert!(request.since.is_some() && request.page_token == "x");
        assert!(serde_urlencoded::from_str::<Wanted>("since=yesterday").is_err());
    }
}
