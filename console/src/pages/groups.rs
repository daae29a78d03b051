//! Consumer groups: where each service reads, how much waits, and which consumers are stopped.

use std::{cmp::Reverse, collections::BTreeMap};

use anyhow::Result;
use askama::Template;
use axum::{Extension, extract::State, http::StatusCode, response::Response};
use holdfast_operator::{
    position::{gap, lag},
    service::Service,
    ticket::Author,
};
use holdfast_proto::{from_timestamp, ops::v1 as pb};
use time::OffsetDateTime;

use super::Stop;
use crate::{
    ask::answers,
    job::stats,
    session::Session,
    state::Console,
    view::{self, Frame, Moment, ROWS_MAX, Shown, link},
};

#[derive(Debug, Template)]
#[template(path = "groups.html", blocks = ["live"])]
pub(super) struct View {
    pub(super) frame: Frame,
    pub(super) services: Vec<ServiceRow>,
}

#[derive(Debug)]
pub(super) struct ServiceRow {
    name: &'static str,
    state: String,
    stops: Vec<Stop>,
    seen: Moment,
    partitions: Vec<PartitionRow>,
    has_more: bool,
    resume: String,
}

#[derive(Debug)]
struct PartitionRow {
    topic: Shown,
    number: i32,
    lag: String,
    position: String,
    committed: String,
    first: String,
    end: String,
    parked: i64,
    set_aside: i64,
    gap: &'static str,
    /// Empty where nothing waits.
    skip: String,
}

fn known(number: Option<i64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

impl PartitionRow {
    fn of(service: &'static str, position: &pb::ConsumerPosition) -> Self {
        let lag = lag(position);
        let place = [
            ("service", service.to_owned()),
            ("topic", position.topic.clone()),
            ("partition", position.partition.to_string()),
            ("offset", position.position.or(position.first).unwrap_or_default().to_string()),
        ];
        let waits = lag.is_some_and(|lag| lag > 0);
        Self {
            topic: Shown::of(&position.topic),
            number: position.partition,
            lag: known(lag),
            position: known(position.position),
            committed: known(position.committed),
            first: known(position.first),
            end: known(position.end),
            parked: position.parked,
            set_aside: position.set_aside,
            gap: gap(position),
            skip: if waits { link("/groups/skip", &BTreeMap::from(place)) } else { String::new() },
        }
    }
}

impl ServiceRow {
    pub(super) fn of(
        name: &'static str,
        positions: &pb::ListPositionsResponse,
        stops: &[pb::ConsumerStop],
        now: OffsetDateTime,
    ) -> Self {
        let mut all: Vec<_> = positions.positions.iter().collect();
        let has_more = all.len() > ROWS_MAX;
        if has_more {
            all.sort_by_key(|position| Reverse(lag(position)));
        }
        let waiting: i64 = positions.positions.iter().filter_map(lag).sum();
        Self {
            name,
            state: match (stops.len(), waiting) {
                (0, 0) => "nothing waits".to_owned(),
                (0, waiting) => format!("{waiting} wait"),
                (stopped, waiting) => format!("{stopped} stopped, {waiting} wait"),
            },
            stops: stops.iter().take(ROWS_MAX).map(|stop| Stop::of(stop, now)).collect(),
            seen: Moment::of(from_timestamp(positions.seen_at.as_ref()), now),
            partitions: all
                .into_iter()
                .take(ROWS_MAX)
                .map(|position| PartitionRow::of(name, position))
                .collect(),
            has_more,
            resume: link("/groups/resume", &[("service", name)]),
        }
    }
}

/// Where a service reads.
pub(super) async fn positions(service: &Service) -> Result<pb::ListPositionsResponse> {
    let request = service.request(pb::ListPositionsRequest::default())?;
    Ok(service.answer(service.dead_letters().list_positions(request).await)?)
}

pub(super) async fn view(console: &Console, author: &Author) -> View {
    let mut missing = Vec::new();
    let asked = console.ask(|service| async move {
        let (positions, stats) = tokio::join!(positions(&service), stats(&service));
        Ok((positions?, stats?))
    });
    let asked = answers(asked.await, &mut missing);
    let now = OffsetDateTime::now_utc();
    let frame = Frame::new(console, "Consumer groups", author)
        .live(&[("page", "groups")], now)
        .missing(&missing)
        .command(console.command("positions"))
        .command(console.command("dlq stats"));
    let row = |(name, (positions, stats)): &(
        &'static str,
        (pb::ListPositionsResponse, pb::GetDeadLetterStatsResponse),
    )| { ServiceRow::of(name, positions, &stats.stops, now) };
    View { frame, services: asked.iter().map(row).collect() }
}

pub(crate) async fn page(State(console): State<Console>, Extension(session): Extension<Session>) -> Response {
    view::page(StatusCode::OK, &view(&console, &session.author).await)
}
