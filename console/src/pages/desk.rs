//! Redrive and discard: what would be done, and the confirmation of exactly that.

use askama::Template;
use axum::{
    Extension,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Form, letter_link, order_link, reason_of};
use crate::{
    job::{Action, Job, LETTERS_MAX, Line, Preview, Progress, Selection, begin, preview},
    session::Session,
    state::Console,
    view::{self, Frame, ROWS_MAX, Shown, link, message},
};

/// How many letters at a time.
const STEPS: [u32; 4] = [1, 5, 50, LETTERS_MAX];

#[derive(Debug, Template)]
#[template(path = "desk.html")]
pub(super) struct View {
    frame: Frame,
    action: &'static str,
    is_discard: bool,
    fields: Vec<(&'static str, Shown)>,
    steps: Vec<Step>,
    letters: u64,
    planned: usize,
    lines: Vec<LineRow>,
    digest: String,
    confirmation: String,
    reason: Shown,
    refused: Shown,
}

#[derive(Debug)]
struct Step {
    name: String,
    link: String,
    is_chosen: bool,
}

/// A letter of a preview or a job.
#[derive(Debug)]
pub(super) struct LineRow {
    pub(super) id: Shown,
    pub(super) link: String,
    pub(super) topic: Shown,
    pub(super) order: Shown,
    pub(super) order_link: String,
    pub(super) result: Shown,
    pub(super) why: Shown,
    /// As its service has it now; of a job only.
    pub(super) now: Shown,
}

impl LineRow {
    pub(super) fn of(line: &Line, now: &str) -> Self {
        Self {
            id: Shown::of(&line.id),
            link: letter_link(&line.id),
            topic: Shown::of(&line.topic),
            order: Shown::of(&line.order),
            order_link: order_link(&line.order),
            result: Shown::of(&line.result),
            why: Shown::of(&line.why),
            now: Shown::of(now),
        }
    }
}

/// What is confirmed.
#[derive(Debug, Deserialize)]
pub(crate) struct Confirmed {
    action: Action,
    service: String,
    #[serde(default)]
    topic: String,
    #[serde(default)]
    class: String,
    #[serde(default)]
    order: String,
    #[serde(default)]
    id: String,
    max: u32,
    digest: String,
    confirmation: Uuid,
    reason: String,
}

impl Confirmed {
    fn selection(&self) -> Selection {
        Selection {
            action: self.action,
            service: self.service.clone(),
            topic: self.topic.clone(),
            class: self.class.clone(),
            order: self.order.clone(),
            id: self.id.clone(),
            max: self.max,
        }
    }
}

impl View {
    pub(super) fn of(
        frame: Frame,
        selection: &Selection,
        preview: &Preview,
        confirmation: Uuid,
        (reason, refused): (&str, &str),
    ) -> Self {
        let fields = [
            ("service", &selection.service),
            ("topic", &selection.topic),
            ("class", &selection.class),
            ("order", &selection.order),
            ("id", &selection.id),
        ];
        let step = |max: u32| Step {
            name: if max == LETTERS_MAX { format!("all (at most {max} at a time)") } else { max.to_string() },
            link: link("/desk", &Selection { max, ..selection.clone() }),
            is_chosen: max == selection.max,
        };
        let is_planned = |line: &&Line| line.result == "planned";
        Self {
            frame,
            action: selection.action.name(),
            is_discard: selection.action == Action::Discard,
            fields: fields
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| (name, Shown::of(value)))
                .chain([("max", Shown::of(selection.max.to_string()))])
                .collect(),
            steps: STEPS.map(step).into(),
            letters: preview.letters,
            planned: preview.lines.iter().filter(is_planned).count(),
            lines: preview.lines.iter().take(ROWS_MAX).map(|line| LineRow::of(line, "")).collect(),
            digest: preview.digest.clone(),
            confirmation: confirmation.to_string(),
            reason: Shown::of(reason),
            refused: Shown::of(refused),
        }
    }
}

const fn title(action: Action) -> &'static str {
    match action {
        Action::Redrive => "Redrive",
        Action::Discard => "Discard",
    }
}

fn show(
    console: &Console,
    session: &Session,
    selection: &Selection,
    preview: &Preview,
    (status, reason, refused): (StatusCode, &str, &str),
) -> Response {
    let frame = Frame::new(console, title(selection.action), &session.author)
        .command(console.command(&selection.command()));
    // A refused confirmation gets a new one: what is shown has changed.
    let view = View::of(frame, selection, preview, Uuid::new_v4(), (reason, refused));
    view::page(status, &view)
}

/// The preview of a selection, or why there is none.
async fn look(console: &Console, selection: &Selection) -> Result<Preview, Box<Response>> {
    let refused = |status, text: &str| Box::new(message(status, "Not understood", text));
    if let Some(wrong) = selection.wrong() {
        return Err(refused(StatusCode::BAD_REQUEST, wrong));
    }
    let Some(service) = console.service(&selection.service) else {
        return Err(refused(StatusCode::BAD_REQUEST, "there is no such service"));
    };
    preview(service, selection).await.map_err(|error| {
        Box::new(message(
            StatusCode::SERVICE_UNAVAILABLE,
            "Not looked at",
            format!("nothing was done: {error:#}"),
        ))
    })
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(selection): Query<Selection>,
) -> Response {
    match look(&console, &selection).await {
        Ok(preview) => show(&console, &session, &selection, &preview, (StatusCode::OK, "", "")),
        Err(refusal) => *refusal,
    }
}

pub(crate) async fn submit(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Form(confirmed): Form<Confirmed>,
) -> Response {
    let id = confirmed.confirmation;
    let its_page = || Redirect::to(&format!("/jobs/{id}")).into_response();
    // A second click.
    if console.jobs.of(id).is_some() {
        return its_page();
    }
    let selection = confirmed.selection();
    let preview = match look(&console, &selection).await {
        Ok(preview) => preview,
        Err(refusal) => return *refusal,
    };
    let again =
        |status, why: &str| show(&console, &session, &selection, &preview, (status, &confirmed.reason, why));
    let reason = match reason_of(&confirmed.reason) {
        Ok(reason) => reason,
        Err(why) => return again(StatusCode::UNPROCESSABLE_ENTITY, why),
    };
    if confirmed.digest != preview.digest {
        let why = "what would be done has changed since you looked, so nothing was done: look again, and confirm that";
        return again(StatusCode::CONFLICT, why);
    }
    if preview.lines.is_empty() {
        return again(StatusCode::CONFLICT, "nothing that is parked matches");
    }
    let job = Job {
        selection: selection.clone(),
        author: session.author.clone(),
        reason,
        began_at: OffsetDateTime::now_utc(),
        planned: 0,
        progress: Progress::Running,
        lines: Vec::new(),
        parked_before: std::collections::BTreeMap::new(),
    };
    match begin(&console, id, &preview, job).await {
        Ok(()) => its_page(),
        Err(error) => again(StatusCode::SERVICE_UNAVAILABLE, &format!("nothing was done: {error:#}")),
    }
}
