//! A letter is repaired: the original beside what a redrive is to use. The original is kept, so an edit can be taken back.

use anyhow::{Result, ensure};
use askama::Template;
use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use holdfast_operator::{
    document::{Document, fill},
    service::{CallError, Service},
    ticket::digest_of,
};
use holdfast_proto::ops::v1 as pb;
use serde::Deserialize;
use tonic::Code;
use uuid::Uuid;

use super::{Form, find_letter, letter_link, no_such_id, not_found, reason_of};
use crate::{
    job::refusal,
    payloads::Payloads,
    router::BODY_BYTES_MAX,
    session::Session,
    state::Console,
    view::{self, Frame, Shown, message},
};

/// A form is longer than its text, by up to three characters for each.
const TEXT_BYTES_MAX: usize = BODY_BYTES_MAX / 4;

#[derive(Debug, Template)]
#[template(path = "edit.html")]
pub(super) struct View {
    frame: Frame,
    letter: Shown,
    link: String,
    original: Shown,
    /// What is in the field: as it is now, or what was typed and refused.
    text: Shown,
    digest: String,
    reason: Shown,
    refused: Shown,
}

#[derive(Deserialize)]
pub(crate) struct Typed {
    document: String,
    reason: String,
    digest: String,
}

/// By which it is seen that somebody else has edited or redriven the letter meanwhile.
pub(super) fn digest(letter: &pb::DeadLetter) -> String {
    let pb::DeadLetter { state, redrive_count, edited_value, edited_key, edited_headers, .. } = letter;
    digest_of(&format!("{state} {redrive_count} {edited_value:?} {edited_key:?} {edited_headers:?}"))
}

fn as_received(letter: &pb::DeadLetter) -> pb::DeadLetter {
    pb::DeadLetter { edited_value: None, edited_key: None, edited_headers: Vec::new(), ..letter.clone() }
}

impl View {
    pub(super) fn of(
        frame: Frame,
        letter: &pb::DeadLetter,
        typed: Option<&Typed>,
        refused: &str,
    ) -> Result<Self> {
        let original = Document::of(&as_received(letter))?.to_text()?;
        let text = match typed {
            Some(typed) => typed.document.clone(),
            None => Document::of(letter)?.to_text()?,
        };
        ensure!(
            original.len().max(text.len()) <= TEXT_BYTES_MAX,
            "this letter is too large for a form: edit it with the command"
        );
        Ok(Self {
            frame,
            letter: Shown::of(&letter.id),
            link: letter_link(&letter.id),
            original: Shown::lines(original),
            text: Shown::lines(text.replace('\r', "")),
            digest: digest(letter),
            reason: Shown::of(typed.map(|typed| typed.reason.as_str()).unwrap_or_default()),
            refused: Shown::of(refused),
        })
    }
}

/// A form shows everything of a letter.
fn is_hidden(console: &Console) -> Option<Response> {
    let text =
        "this console shows no values (`--payloads`), and an editor would: edit the letter with the command";
    (console.payloads != Payloads::Full).then(|| message(StatusCode::FORBIDDEN, "Not shown", text))
}

fn show(
    console: &Console,
    session: &Session,
    missing: &[String],
    letter: &pb::DeadLetter,
    (status, typed, refused): (StatusCode, Option<&Typed>, &str),
) -> Response {
    let frame = Frame::new(console, "Edit", &session.author)
        .missing(missing)
        .command(console.command(&format!("dlq edit {} --reason TEXT", letter.id)));
    match View::of(frame, letter, typed, refused) {
        Ok(view) => view::page(status, &view),
        Err(error) => {
            message(StatusCode::UNPROCESSABLE_ENTITY, "Cannot be edited here", format!("{error:#}"))
        }
    }
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
) -> Response {
    let Ok(id) = Uuid::try_parse(&id) else { return no_such_id() };
    if let Some(refusal) = is_hidden(&console) {
        return refusal;
    }
    let mut missing = Vec::new();
    match find_letter(&console, id, &mut missing).await {
        Some((_, letter)) => show(&console, &session, &missing, &letter, (StatusCode::OK, None, "")),
        None => not_found(&missing, id),
    }
}

pub(crate) async fn submit(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    Form(typed): Form<Typed>,
) -> Response {
    let Ok(id) = Uuid::try_parse(&id) else { return no_such_id() };
    if let Some(refusal) = is_hidden(&console) {
        return refusal;
    }
    let mut missing = Vec::new();
    let Some((service, letter)) = find_letter(&console, id, &mut missing).await else {
        return not_found(&missing, id);
    };
    let again = |status, why: &str| show(&console, &session, &missing, &letter, (status, Some(&typed), why));
    let reason = match reason_of(&typed.reason) {
        Ok(reason) => reason,
        Err(why) => return again(StatusCode::UNPROCESSABLE_ENTITY, why),
    };
    if typed.digest != digest(&letter) {
        return again(StatusCode::CONFLICT, CHANGED);
    }
    match keep(&service, &letter, &typed.document, &reason, &session.author.name).await {
        Ok(()) => Redirect::to(&letter_link(&letter.id)).into_response(),
        // Somebody else was faster, since the letter was read for this.
        Err(error) if is_outdated(&error) => match find_letter(&console, id, &mut missing).await {
            Some((_, letter)) => {
                show(&console, &session, &missing, &letter, (StatusCode::CONFLICT, Some(&typed), CHANGED))
            }
            None => not_found(&missing, id),
        },
        Err(error) => {
            let status = if refusal(&error).is_some() || !error.is::<CallError>() {
                StatusCode::UNPROCESSABLE_ENTITY
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            again(status, &format!("{error:#}"))
        }
    }
}

const CHANGED: &str =
    "the letter has changed since you opened it, so nothing was kept; your text is still here";

fn is_outdated(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(CallError::Refused { code: Code::Aborted, .. }))
}

async fn keep(
    service: &Service,
    letter: &pb::DeadLetter,
    text: &str,
    reason: &str,
    author: &str,
) -> Result<()> {
    let mut request = Document::of(letter)?.edit_to(letter, &text.replace('\r', ""))?;
    fill(letter, &mut request)?;
    let is_something = !request.value.is_empty() || request.key.is_some() || !request.headers.is_empty();
    ensure!(is_something, "nothing was changed");
    request.id.clone_from(&letter.id);
    request.based_on.clone_from(&letter.revision);
    reason.clone_into(&mut request.reason);
    author.clone_into(&mut request.author);
    tracing::info!(
        author,
        reason,
        service = service.name,
        dead_letter = letter.id,
        "an operator edits a dead letter"
    );
    service.answer(service.dead_letters().edit_dead_letter(service.request(request)?).await)?;
    Ok(())
}
