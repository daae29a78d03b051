//! One letter: what it is, its record, decoded and as bytes, what a redrive would use instead, and what was done to it.

use std::collections::BTreeMap;

use anyhow::Result;
use askama::Template;
use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use holdfast_proto::{
    from_timestamp,
    ops::v1::{self as pb, DeadLetterState},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    AuditRow, LetterRow, find_letter, is_edited, letter_link, no_such_id, not_found,
    record::{Record, message_link},
};
use crate::{
    payloads::Payloads,
    session::Session,
    state::Console,
    view::{self, Frame, Moment, ROWS_MAX, Shown, link, message},
};

#[derive(Debug, Template)]
#[template(path = "letter.html")]
pub(super) struct View {
    frame: Frame,
    letter: LetterRow,
    partition: i32,
    offset: i64,
    /// Of the message that it was, if its topic still has it.
    message: String,
    blocked_by: Shown,
    blocked_link: String,
    attempts: i32,
    redrives: i32,
    first_failed: Moment,
    original: Record,
    edited: Option<Record>,
    history: Vec<AuditRow>,
    has_more: bool,
    redrive: String,
    discard: String,
    restore: String,
    state: DeadLetterState,
    /// Whether it can be edited here, where everything of it is shown then.
    is_full: bool,
}

fn named(headers: &[pb::RecordHeader]) -> impl Iterator<Item = (&str, &[u8])> {
    headers.iter().map(|header| (header.name.as_str(), header.value.as_slice()))
}

impl View {
    pub(super) fn of(
        frame: Frame,
        service: &'static str,
        letter: &pb::DeadLetter,
        payloads: Payloads,
        now: OffsetDateTime,
    ) -> Result<Self> {
        let topic = &letter.topic;
        let original = Record::of(
            payloads,
            topic,
            letter.key.as_deref(),
            named(&letter.headers),
            letter.value.as_deref(),
        )?;
        let edited = is_edited(letter).then(|| {
            let headers =
                if letter.edited_headers.is_empty() { &letter.headers } else { &letter.edited_headers };
            let key = letter.edited_key.as_deref().or(letter.key.as_deref());
            Record::of(
                payloads,
                topic,
                key,
                named(headers),
                letter.edited_value.as_deref().or(letter.value.as_deref()),
            )
        });
        let desk = |action| {
            link(
                "/desk",
                &BTreeMap::from([("action", action), ("service", service), ("id", letter.id.as_str())]),
            )
        };
        Ok(Self {
            frame,
            partition: letter.partition,
            offset: letter.offset,
            message: message_link(topic, letter.partition, letter.offset),
            blocked_by: Shown::of(&letter.blocked_by),
            blocked_link: letter_link(&letter.blocked_by),
            attempts: letter.attempts,
            redrives: letter.redrive_count,
            first_failed: Moment::of(from_timestamp(letter.first_failed_at.as_ref()), now),
            original,
            edited: edited.transpose()?,
            has_more: letter.history.len() > ROWS_MAX,
            history: letter
                .history
                .iter()
                .take(ROWS_MAX)
                .map(|entry| AuditRow::of(entry, service, now))
                .collect(),
            is_full: payloads == Payloads::Full,
            redrive: desk("redrive"),
            discard: desk("discard"),
            restore: desk("restore"),
            state: letter.state(),
            letter: LetterRow::of(letter, now),
        })
    }
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
) -> Response {
    let Ok(id) = Uuid::try_parse(&id) else { return no_such_id() };
    let mut missing = Vec::new();
    let Some((service, letter)) = find_letter(&console, id, &mut missing).await else {
        return not_found(&missing, id);
    };
    let frame = Frame::new(&console, "Dead letter", &session.author)
        .missing(&missing)
        .command(console.command(&format!("dlq show {id}")));
    match View::of(frame, service.name, &letter, console.payloads, OffsetDateTime::now_utc()) {
        Ok(view) => view::page(StatusCode::OK, &view),
        Err(error) => message(StatusCode::INTERNAL_SERVER_ERROR, "Cannot be shown", format!("{error:#}")),
    }
}
