//! What became of what was confirmed: as its service said, and as it has the letters now.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{desk::LineRow, no_such_id};
use crate::{
    ask::{Asked, note},
    job::{Job, Progress, locked, parked_of_each, read_back},
    session::Session,
    state::Console,
    view::{self, Frame, Moment, ROWS_MAX, Shown, message},
};

#[derive(Debug, Template)]
#[template(path = "job.html")]
pub(super) struct View {
    frame: Frame,
    action: &'static str,
    author: Shown,
    reason: Shown,
    began: Moment,
    planned: usize,
    done: usize,
    is_running: bool,
    broken: Shown,
    /// How many have which result.
    results: Vec<(Shown, usize)>,
    /// How many are in which state now, as the service says.
    states: Vec<(Shown, usize)>,
    /// Services that have more parked than before.
    more: Vec<(&'static str, u64)>,
    lines: Vec<LineRow>,
    has_more: bool,
}

fn counted<'t>(texts: impl Iterator<Item = &'t str>) -> Vec<(Shown, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    counts.into_iter().map(|(text, count)| (Shown::of(text), count)).collect()
}

impl View {
    pub(super) fn of(
        frame: Frame,
        job: &Job,
        states: &BTreeMap<String, String>,
        parked_now: &BTreeMap<&'static str, u64>,
        now: OffsetDateTime,
    ) -> Self {
        let state_of = |id: &str| states.get(id).map_or("not known", String::as_str);
        let more = parked_now.iter().filter_map(|(service, now)| {
            let more = now.checked_sub(*job.parked_before.get(service)?)?;
            (more > 0).then_some((*service, more))
        });
        Self {
            frame,
            action: job.selection.action.name(),
            author: Shown::of(&job.author),
            reason: Shown::of(&job.reason),
            began: Moment::of(Some(job.began_at), now),
            planned: job.planned,
            done: job.lines.len(),
            is_running: job.progress == Progress::Running,
            broken: match &job.progress {
                Progress::Broken(why) => Shown::of(why),
                Progress::Running | Progress::Done => Shown::default(),
            },
            results: counted(job.lines.iter().map(|line| line.result.as_str())),
            states: counted(job.lines.iter().map(|line| state_of(&line.id))),
            more: more.collect(),
            lines: job
                .lines
                .iter()
                .take(ROWS_MAX)
                .map(|line| LineRow::of(line, state_of(&line.id)))
                .collect(),
            has_more: job.lines.len() > ROWS_MAX,
        }
    }
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
) -> Response {
    let Ok(id) = Uuid::try_parse(&id) else { return no_such_id() };
    let Some(job) = console.jobs.of(id) else {
        let text = "this console knows nothing of it: it was restarted, or has done much since. What was done is in the audit";
        return message(StatusCode::NOT_FOUND, "Not known", text);
    };
    let job = locked(&job).clone();
    let mut missing = Vec::new();
    let ids: Vec<String> = job.lines.iter().map(|line| line.id.clone()).collect();
    let states = match console.service(&job.selection.service) {
        Some(service) if !ids.is_empty() => match read_back(service, &ids).await {
            Asked::Answer(states) => states,
            Asked::NotAsked(why) => {
                note(&mut missing, why);
                BTreeMap::new()
            }
        },
        _ => BTreeMap::new(),
    };
    let parked_now = parked_of_each(&console, &mut missing).await;
    let frame = Frame::new(&console, "What was done", &session.author)
        .missing(&missing)
        .command(console.command("dlq audit --since 1h"));
    view::page(StatusCode::OK, &View::of(frame, &job, &states, &parked_now, OffsetDateTime::now_utc()))
}
