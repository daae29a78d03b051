//! The first page: what to look for, and whether anything is parked.

use askama::Template;
use axum::{Extension, extract::State, http::StatusCode, response::Response};
use holdfast_operator::ticket::Author;
use holdfast_proto::{from_timestamp, ops::v1 as pb};
use time::OffsetDateTime;

use super::Stop;
use crate::{
    ask::answers,
    job::stats,
    session::Session,
    state::Console,
    view::{self, Frame, Moment},
};

#[derive(Debug, Template)]
#[template(path = "start.html", blocks = ["live"])]
pub(super) struct View {
    pub(super) frame: Frame,
    pub(super) services: Vec<ServiceRow>,
}

#[derive(Debug)]
pub(super) struct ServiceRow {
    name: &'static str,
    parked: u64,
    oldest: Moment,
    stops: Vec<Stop>,
}

impl ServiceRow {
    pub(super) fn of(
        name: &'static str,
        stats: &pb::GetDeadLetterStatsResponse,
        now: OffsetDateTime,
    ) -> Self {
        let oldest =
            stats.stats.iter().filter_map(|stats| from_timestamp(stats.oldest_parked_at.as_ref())).min();
        Self {
            name,
            parked: stats.stats.iter().map(|stats| stats.parked).sum(),
            oldest: Moment::of(oldest, now),
            stops: stats.stops.iter().take(view::ROWS_MAX).map(|stop| Stop::of(stop, now)).collect(),
        }
    }
}

pub(super) async fn view(console: &Console, author: &Author) -> View {
    let mut missing = Vec::new();
    let stats = answers(console.ask(|service| async move { stats(&service).await }).await, &mut missing);
    let now = OffsetDateTime::now_utc();
    let frame = Frame::new(console, "Holdfast console", author)
        .live(&[("page", "start")], now)
        .missing(&missing)
        .command(console.command("dlq stats"));
    let services = stats.iter().map(|(name, stats)| ServiceRow::of(name, stats, now)).collect();
    View { frame, services }
}

pub(crate) async fn page(State(console): State<Console>, Extension(session): Extension<Session>) -> Response {
    view::page(StatusCode::OK, &view(&console, &session.author).await)
}
