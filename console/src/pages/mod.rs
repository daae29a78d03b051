//! The pages, one file each: what is asked, and what is shown. What is shown is made by a pure function of what was answered.

pub(crate) mod asset;
pub(crate) mod audit;
pub(crate) mod components;
pub(crate) mod confirm;
pub(crate) mod desk;
pub(crate) mod edit;
pub(crate) mod enter;
pub(crate) mod find;
pub(crate) mod groups;
pub(crate) mod job;
pub(crate) mod letter;
pub(crate) mod letters;
pub(crate) mod list;
pub(crate) mod live;
pub(crate) mod message;
pub(crate) mod order;
pub(crate) mod order_messages;
pub(crate) mod outbox;
pub(crate) mod reconcile;
mod record;
pub(crate) mod redrives;
pub(crate) mod reemit;
pub(crate) mod resume;
pub(crate) mod revert;
pub(crate) mod skip;
pub(crate) mod start;
pub(crate) mod stuck;
pub(crate) mod topic;
pub(crate) mod topics;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use anyhow::Result;
use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{StatusCode, header},
    response::Response,
};
use holdfast_common::consumer::REASON_BYTES_MAX;
use holdfast_operator::service::Service;
use holdfast_proto::{from_timestamp, ops::v1 as pb};
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    ask::{Asked, is_not_found},
    state::Console,
    view::{Moment, Shown, link, message, word},
    when::When,
};

/// Characters of a reason: with the name of its author it fits where the audit keeps it.
const REASON_CHARACTERS_MAX: usize = 128;
// A character has at most four bytes.
const _: () = assert!(REASON_CHARACTERS_MAX * 4 <= REASON_BYTES_MAX);

/// The fields of a form.
pub(crate) struct Form<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Form<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let refused = |status, text: &str| message(status, "Not understood", text);
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        // Without its parameters.
        let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
        if kind != Some("application/x-www-form-urlencoded") {
            return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "only forms are taken"));
        }
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|_| {
            refused(StatusCode::PAYLOAD_TOO_LARGE, "the form is too large, or was not sent whole")
        })?;
        let fields = serde_urlencoded::from_bytes(&body);
        fields.map(Self).map_err(|error| {
            refused(StatusCode::UNPROCESSABLE_ENTITY, &format!("the form is wrong: {error}"))
        })
    }
}

/// The reason of a change, or what is wrong with it.
fn reason_of(text: &str) -> Result<String, &'static str> {
    let fits = !text.trim().is_empty()
        && text.chars().count() <= REASON_CHARACTERS_MAX
        && !text.chars().any(char::is_control);
    if fits {
        Ok(text.trim().to_owned())
    } else {
        Err("a reason is needed, of 1 to 128 characters on one line")
    }
}

/// The path of an order's page; empty if this is no id of one.
fn order_link(id: &str) -> String {
    Uuid::try_parse(id).map(|id| format!("/orders/{id}")).unwrap_or_default()
}

/// The path of the page that says whether events of an order are lost; empty if this is no id of one.
fn reconcile_link(id: &str) -> String {
    Uuid::try_parse(id).map(|id| link("/reconcile", &[("order", id.to_string())])).unwrap_or_default()
}

/// The path of the page of an order's messages; empty if this is no id of one.
fn messages_link(id: &str) -> String {
    Uuid::try_parse(id).map(|id| format!("/orders/{id}/messages")).unwrap_or_default()
}

/// The path of a letter's page; empty if this is no id of one.
fn letter_link(id: &str) -> String {
    Uuid::try_parse(id).map(|id| format!("/letters/{id}")).unwrap_or_default()
}

fn no_such_id() -> Response {
    message(StatusCode::NOT_FOUND, "No such id", "this is no id such as 01a21184-8763-7214-acea-bb1c3b689082")
}

/// The state of a letter as people write it.
fn state_of(letter: &pb::DeadLetter) -> String {
    word(letter.state().as_str_name(), "DEAD_LETTER_STATE_")
}

/// A choice that is a link.
#[derive(Debug)]
struct Step {
    name: String,
    link: String,
    is_chosen: bool,
}

/// How long ago, beside any time: what is often looked at.
const SINCE: [&str; 3] = ["", "1h", "24h"];

/// Choices of how long ago something was: `link_of` is that of one.
fn since_steps(chosen: &When, link_of: impl Fn(&str) -> String) -> Vec<Step> {
    let step = |since: &str| Step {
        name: if since.is_empty() { "at any time".to_owned() } else { format!("in the last {since}") },
        link: link_of(since),
        is_chosen: chosen.text() == since,
    };
    SINCE.map(step).into()
}

/// How often each of these texts is there.
fn counted<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<(Shown, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    counts.into_iter().map(|(text, count)| (Shown::of(text), count)).collect()
}

/// Whether a redrive would use something else than what was received.
const fn is_edited(letter: &pb::DeadLetter) -> bool {
    letter.edited_value.is_some() || letter.edited_key.is_some() || !letter.edited_headers.is_empty()
}

/// A letter in a list.
#[derive(Debug, Clone)]
struct LetterRow {
    id: Shown,
    link: String,
    service: Shown,
    class: Shown,
    topic: Shown,
    order: Shown,
    order_link: String,
    state: String,
    reason: Shown,
    parked: Moment,
}

impl LetterRow {
    fn of(letter: &pb::DeadLetter, now: OffsetDateTime) -> Self {
        Self {
            id: Shown::of(&letter.id),
            link: letter_link(&letter.id),
            service: Shown::of(&letter.service),
            class: Shown::of(&letter.class),
            topic: Shown::of(&letter.topic),
            order: Shown::of(&letter.subject),
            order_link: order_link(&letter.subject),
            state: state_of(letter),
            reason: Shown::of(&letter.reason),
            parked: Moment::of(from_timestamp(letter.parked_at.as_ref()), now),
        }
    }
}

/// An action in the audit.
#[derive(Debug, Clone)]
struct AuditRow {
    at: Moment,
    service: Shown,
    actor: Shown,
    action: Shown,
    letter: Shown,
    link: String,
    detail: Shown,
}

impl AuditRow {
    fn of(entry: &pb::DeadLetterAuditEntry, service: &str, now: OffsetDateTime) -> Self {
        Self {
            at: Moment::of(from_timestamp(entry.at.as_ref()), now),
            service: Shown::of(service),
            actor: Shown::of(&entry.actor),
            action: Shown::of(&entry.action),
            letter: Shown::of(&entry.dead_letter_id),
            link: letter_link(&entry.dead_letter_id),
            detail: Shown::of(&entry.detail),
        }
    }
}

/// A consumer that is stopped.
#[derive(Debug)]
struct Stop {
    reason: Shown,
    since: Moment,
}

impl Stop {
    fn of(stop: &pb::ConsumerStop, now: OffsetDateTime) -> Self {
        Self {
            reason: Shown::of(&stop.reason),
            since: Moment::of(from_timestamp(stop.stopped_at.as_ref()), now),
        }
    }
}

/// A letter and the service that has it, as far as services were asked; why the others were not goes to `missing`.
async fn find_letter(
    console: &Console,
    id: Uuid,
    missing: &mut Vec<String>,
) -> Option<(Service, pb::DeadLetter)> {
    let asked = console
        .ask(|service| async move {
            match letter_of(&service, id).await {
                Err(error) if is_not_found(&error) => Ok(None),
                other => other.map(|letter| letter.map(|letter| (service, letter))),
            }
        })
        .await;
    let mut found = None;
    for (_, asked) in asked {
        match asked {
            Asked::Answer(letter) => found = found.or(letter),
            Asked::NotAsked(why) => crate::ask::note(missing, why),
        }
    }
    found
}

async fn letter_of(service: &Service, id: Uuid) -> Result<Option<pb::DeadLetter>> {
    let request = service.request(pb::GetDeadLetterRequest { id: id.to_string() })?;
    Ok(service.answer(service.dead_letters().get_dead_letter(request).await)?.dead_letter)
}

/// A page of letters of one service.
async fn letters_of(
    service: &Service,
    wanted: pb::ListDeadLettersRequest,
) -> Result<pb::ListDeadLettersResponse> {
    let request = service.request(wanted)?;
    Ok(service.answer(service.dead_letters().list_dead_letters(request).await)?)
}

fn not_found(missing: &[String], id: Uuid) -> Response {
    let text = match missing {
        [] => format!("no service has a dead letter {id}"),
        missing => format!(
            "no service that could be asked has a dead letter {id}. Not asked: {}",
            missing.join("; ")
        ),
    };
    message(StatusCode::NOT_FOUND, "No such letter", text)
}
