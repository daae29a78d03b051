//! What became of what was confirmed: as its service said, and as it has the letters now.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use holdfast_operator::ticket::Author;
use holdfast_proto::ops::v1 as pb;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{counted, desk::LineRow, no_such_id, redrives::Row};
use crate::{
    ask::{Asked, note},
    job::{Action, Job, Progress, locked, parked_of_each, read_back, redrives},
    session::Session,
    state::Console,
    view::{self, Frame, Moment, ROWS_MAX, Shown, message},
};

#[derive(Debug, Template)]
#[template(path = "job.html", blocks = ["live"])]
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
    /// As its service counts it; of a redrive only.
    redrive: Option<Row>,
    /// How many have which result.
    results: Vec<(Shown, usize)>,
    /// How many are in which state now, as the service says.
    states: Vec<(Shown, usize)>,
    /// Services that have more parked than before.
    more: Vec<(&'static str, u64)>,
    lines: Vec<LineRow>,
    has_more: bool,
}

/// What services say of a job now.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Of its letters, by their ids.
    pub(super) states: BTreeMap<String, String>,
    pub(super) parked_now: BTreeMap<&'static str, u64>,
    pub(super) redrive: Option<(&'static str, pb::Redrive)>,
}

impl View {
    pub(super) fn of(frame: Frame, job: &Job, seen: &Seen, now: OffsetDateTime) -> Self {
        let Seen { states, parked_now, redrive } = seen;
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
            redrive: redrive.as_ref().map(|(service, redrive)| Row::of(service, redrive, now)),
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

async fn look(console: &Console, id: Uuid, job: &Job, missing: &mut Vec<String>) -> Seen {
    let ids: Vec<String> = job.lines.iter().map(|line| line.id.clone()).collect();
    let mut seen = Seen { parked_now: parked_of_each(console, missing).await, ..Seen::default() };
    let Some(service) = console.service(&job.selection.service) else { return seen };
    if !ids.is_empty() {
        match read_back(service, &ids).await {
            Asked::Answer(states) => seen.states = states,
            Asked::NotAsked(why) => note(missing, why),
        }
    }
    if job.selection.action == Action::Redrive {
        match redrives(service).await {
            Ok(redrives) => {
                let redrive = redrives.into_iter().find(|redrive| redrive.id == id.to_string());
                seen.redrive = redrive.map(|redrive| (service.name, redrive));
            }
            Err(error) => note(missing, format!("{error:#}")),
        }
    }
    seen
}

/// `None` if this process knows nothing of it.
pub(super) async fn view(console: &Console, author: &Author, id: Uuid) -> Option<View> {
    let job = locked(&console.jobs.of(id)?).clone();
    let mut missing = Vec::new();
    let seen = look(console, id, &job, &mut missing).await;
    let now = OffsetDateTime::now_utc();
    let frame = Frame::new(console, "What was done", author)
        .live(&[("page", "job"), ("id", &id.to_string())], now)
        .missing(&missing)
        .command(console.command("dlq redrive --status"))
        .command(console.command("dlq audit --since 1h"));
    Some(View::of(frame, &job, &seen, now))
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
) -> Response {
    let Ok(id) = Uuid::try_parse(&id) else { return no_such_id() };
    if let Some(view) = view(&console, &session.author, id).await {
        return view::page(StatusCode::OK, &view);
    }
    let text = "this console knows nothing of it: it was restarted, or has done much since. What was done is in the audit";
    message(StatusCode::NOT_FOUND, "Not known", text)
}
