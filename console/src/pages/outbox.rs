//! Rows of outboxes that can't be published and hold back their topic and key.

use anyhow::Result;
use askama::Template;
use axum::{Extension, extract::State, http::StatusCode, response::Response};
use holdfast_operator::service::Service;
use holdfast_proto::{from_timestamp, ops::v1 as pb};
use time::OffsetDateTime;

use crate::{
    ask::answers,
    payloads::Payloads,
    session::Session,
    state::Console,
    view::{self, Frame, Moment, ROWS_MAX, Shown},
};

#[derive(Debug, Template)]
#[template(path = "outbox.html")]
pub(super) struct View {
    pub(super) frame: Frame,
    pub(super) rows: Vec<Row>,
    pub(super) has_more: bool,
}

#[derive(Debug)]
pub(super) struct Row {
    service: &'static str,
    id: i64,
    topic: Shown,
    key: Shown,
    bytes: i64,
    written: Moment,
    retry: Moment,
    attempts: i32,
    behind: i64,
    error: Shown,
}

/// The rows of all services, the oldest first, and whether there are more.
pub(super) fn rows(
    pages: &[(&'static str, pb::ListHeldBackRowsResponse)],
    payloads: Payloads,
    now: OffsetDateTime,
) -> (Vec<Row>, bool) {
    let of_each = pages.iter().flat_map(|(service, page)| page.rows.iter().map(move |row| (*service, row)));
    let mut all: Vec<_> = of_each.collect();
    all.sort_by_key(|(_, row)| from_timestamp(row.written_at.as_ref()));
    let has_more = all.len() > ROWS_MAX || pages.iter().any(|(_, page)| !page.next_page_token.is_empty());
    let row = |(service, row): &(&'static str, &pb::HeldBackRow)| Row {
        service,
        id: row.id,
        topic: Shown::of(&row.topic),
        key: payloads.bytes(&row.key),
        bytes: row.value_bytes,
        written: Moment::of(from_timestamp(row.written_at.as_ref()), now),
        retry: Moment::of(from_timestamp(row.retry_at.as_ref()), now),
        attempts: row.attempts,
        behind: row.waiting_behind,
        error: Shown::of(&row.last_error),
    };
    (all.iter().take(ROWS_MAX).map(row).collect(), has_more)
}

async fn held_back(service: &Service) -> Result<pb::ListHeldBackRowsResponse> {
    let page_size = u32::try_from(ROWS_MAX).unwrap_or(u32::MAX);
    let request = service.request(pb::ListHeldBackRowsRequest { page_size, page_token: String::new() })?;
    Ok(service.answer(service.outbox().list_held_back_rows(request).await)?)
}

pub(crate) async fn page(State(console): State<Console>, Extension(session): Extension<Session>) -> Response {
    let mut missing = Vec::new();
    let pages = answers(console.ask(|service| async move { held_back(&service).await }).await, &mut missing);
    let (rows, has_more) = rows(&pages, console.payloads, OffsetDateTime::now_utc());
    let frame = Frame::new(&console, "Outbox", &session.author)
        .missing(&missing)
        .command(console.command("outbox list"))
        .command(console.command("outbox retry --all"));
    view::page(StatusCode::OK, &View { frame, rows, has_more })
}
