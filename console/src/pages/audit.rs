//! Who did what to which letter, newest first.

use std::collections::BTreeMap;

use anyhow::Result;
use askama::Template;
use axum::{
    Extension,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use holdfast_operator::service::Service;
use holdfast_proto::ops::v1 as pb;
use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{AuditRow, no_such_id};
use crate::{
    ask::answers,
    session::Session,
    state::{Console, PARTICIPANTS},
    view::{self, Frame, ROWS_MAX, link, message},
};

#[derive(Deserialize)]
pub(crate) struct Wanted {
    #[serde(default)]
    service: String,
    #[serde(default)]
    letter: String,
    #[serde(default)]
    after: String,
}

impl Wanted {
    fn request(&self) -> pb::ListDeadLetterAuditRequest {
        pb::ListDeadLetterAuditRequest {
            dead_letter_id: self.letter.clone(),
            since: None,
            page_size: u32::try_from(ROWS_MAX).unwrap_or(u32::MAX),
            page_token: self.after.clone(),
        }
    }
}

#[derive(Debug, Template)]
#[template(path = "audit.html")]
pub(super) struct View {
    pub(super) frame: Frame,
    pub(super) services: Vec<(&'static str, String)>,
    pub(super) entries: Vec<AuditRow>,
    pub(super) next: String,
    pub(super) has_more: bool,
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
        let parameters = [("service", wanted.service.as_str()), ("letter", &wanted.letter), ("after", token)];
        link("/audit", &BTreeMap::from(parameters))
    });
    let services = PARTICIPANTS.map(|name| {
        (name, link("/audit", &BTreeMap::from([("service", name), ("letter", wanted.letter.as_str())])))
    });
    let command = if wanted.letter.is_empty() {
        "dlq audit".to_owned()
    } else {
        format!("dlq audit {}", wanted.letter)
    };
    let frame =
        Frame::new(&console, "Audit", &session.author).missing(&missing).command(console.command(&command));
    let has_more = has_more && next.is_empty();
    view::page(StatusCode::OK, &View { frame, services: services.into(), entries, next, has_more })
}

async fn entries(
    service: &Service,
    request: pb::ListDeadLetterAuditRequest,
) -> Result<pb::ListDeadLetterAuditResponse> {
    let request = service.request(request)?;
    Ok(service.answer(service.dead_letters().list_dead_letter_audit(request).await)?)
}
