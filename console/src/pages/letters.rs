//! Parked letters by their cause: service, topic and class.

use std::collections::BTreeMap;

use askama::Template;
use axum::{Extension, extract::State, http::StatusCode, response::Response};
use holdfast_operator::ticket::Author;
use holdfast_proto::{from_timestamp, ops::v1 as pb};
use time::OffsetDateTime;

use crate::{
    ask::answers,
    job::stats,
    session::Session,
    state::Console,
    view::{self, Frame, Moment, ROWS_MAX, Shown, link},
};

#[derive(Debug, Template)]
#[template(path = "letters.html", blocks = ["live"])]
pub(super) struct View {
    pub(super) frame: Frame,
    pub(super) groups: Vec<Group>,
    pub(super) has_more: bool,
}

#[derive(Debug)]
pub(super) struct Group {
    service: &'static str,
    topic: Shown,
    class: Shown,
    parked: u64,
    oldest: Moment,
    list: String,
    redrive: String,
    discard: String,
}

/// The groups of all services, the largest first.
pub(super) fn groups(
    stats: &[(&'static str, pb::GetDeadLetterStatsResponse)],
    now: OffsetDateTime,
) -> (Vec<Group>, bool) {
    let of_each =
        stats.iter().flat_map(|(service, stats)| stats.stats.iter().map(move |stats| (*service, stats)));
    let mut all: Vec<_> = of_each.filter(|(_, stats)| stats.parked > 0).collect();
    all.sort_by_key(|(_, stats)| std::cmp::Reverse(stats.parked));
    let group = |(service, stats): &(&'static str, &pb::DeadLetterStats)| {
        let of = |action: &str| {
            let mut parameters =
                BTreeMap::from([("service", *service), ("topic", &stats.topic), ("class", &stats.class)]);
            if action.is_empty() {
                return link("/letters/list", &parameters);
            }
            parameters.insert("action", action);
            link("/desk", &parameters)
        };
        Group {
            service,
            topic: Shown::of(&stats.topic),
            class: Shown::of(&stats.class),
            parked: stats.parked,
            oldest: Moment::of(from_timestamp(stats.oldest_parked_at.as_ref()), now),
            list: of(""),
            redrive: of("redrive"),
            discard: of("discard"),
        }
    };
    (all.iter().take(ROWS_MAX).map(group).collect(), all.len() > ROWS_MAX)
}

pub(super) async fn view(console: &Console, author: &Author) -> View {
    let mut missing = Vec::new();
    let stats = answers(console.ask(|service| async move { stats(&service).await }).await, &mut missing);
    let now = OffsetDateTime::now_utc();
    let frame = Frame::new(console, "Dead letters", author)
        .live(&[("page", "letters")], now)
        .missing(&missing)
        .command(console.command("dlq stats"));
    let (groups, has_more) = groups(&stats, now);
    View { frame, groups, has_more }
}

pub(crate) async fn page(State(console): State<Console>, Extension(session): Extension<Session>) -> Response {
    view::page(StatusCode::OK, &view(&console, &session.author).await)
}
