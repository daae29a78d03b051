//! Redrive, discard and restore: what would be done, and the confirmation of exactly that.

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

use super::{Form, Step, confirm::not_looked_at, letter_link, order_link, reason_of};
use crate::{
    job::{Action, Job, LETTERS_MAX, Line, Preview, Progress, Selection, begin, preview},
    session::Session,
    state::Console,
    view::{self, Frame, ROWS_MAX, Refusal, Shown, link, message, word},
    when::When,
};

/// How many letters at a time.
const STEPS: [u32; 4] = [1, 5, 50, LETTERS_MAX];
/// Letters per second; 0 is as fast as they go.
const RATES: [u32; 4] = [0, 1, 10, 100];

#[derive(Debug, Template)]
#[template(path = "desk.html")]
pub(super) struct View {
    frame: Frame,
    action: &'static str,
    button: &'static str,
    is_redrive: bool,
    /// What would be done to them, and what they are now.
    done: &'static str,
    state: String,
    /// By which they are selected.
    filter: Vec<(&'static str, Shown)>,
    /// What the form sends back.
    fields: Vec<(&'static str, Shown)>,
    steps: Vec<Step>,
    rates: Vec<Step>,
    force: Step,
    letters: u64,
    planned: usize,
    lines: Vec<LineRow>,
    digest: String,
    confirmation: String,
    reason: Shown,
    refused: Shown,
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
    #[serde(default)]
    since: When,
    #[serde(default)]
    until: When,
    max: u32,
    #[serde(default)]
    rate: u32,
    #[serde(default)]
    force: bool,
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
            since: self.since.clone(),
            until: self.until.clone(),
            max: self.max,
            rate: self.rate,
            force: self.force,
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
        let filter = [
            ("service", selection.service.as_str()),
            ("topic", &selection.topic),
            ("class", &selection.class),
            ("order", &selection.order),
            ("id", &selection.id),
            ("since", selection.since.text()),
            ("until", selection.until.text()),
        ];
        let filter: Vec<_> = filter
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name, Shown::of(value)))
            .collect();
        let how = [("max", selection.max.to_string()), ("rate", selection.rate.to_string())];
        let how = how.into_iter().chain([("force", selection.force.to_string())]);
        let choice =
            |name: String, is_chosen, of: &Selection| Step { name, link: link("/desk", of), is_chosen };
        let step = |max: u32| {
            let name =
                if max == LETTERS_MAX { format!("all (at most {max} at a time)") } else { max.to_string() };
            choice(name, max == selection.max, &Selection { max, ..selection.clone() })
        };
        let rate = |rate: u32| {
            let name = if rate == 0 { "as fast as they go".to_owned() } else { format!("{rate} a second") };
            choice(name, rate == selection.rate, &Selection { rate, ..selection.clone() })
        };
        let is_planned = |line: &&Line| line.result == "planned";
        Self {
            frame,
            action: selection.action.name(),
            button: title(selection.action),
            is_redrive: selection.action == Action::Redrive,
            done: done(selection.action),
            state: word(selection.state().as_str_name(), "DEAD_LETTER_STATE_"),
            fields: filter.iter().cloned().chain(how.map(|(name, value)| (name, Shown::of(value)))).collect(),
            filter,
            steps: STEPS.map(step).into(),
            rates: RATES.map(rate).into(),
            force: choice(
                "letters that were redriven 3 times without success".to_owned(),
                selection.force,
                &Selection { force: !selection.force, ..selection.clone() },
            ),
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
        Action::Restore => "Restore",
    }
}

const fn done(action: Action) -> &'static str {
    match action {
        Action::Redrive => "tried",
        Action::Discard => "discarded",
        Action::Restore => "parked again, as they were",
    }
}

fn show(
    console: &Console,
    session: &Session,
    selection: &Selection,
    preview: &Preview,
    (status, reason, refused): (StatusCode, &str, &str),
) -> Response {
    let frame = Frame::new(console, title(selection.action), &session.author);
    let frame = selection.commands().iter().fold(frame, |frame, words| frame.command(console.command(words)));
    // A refused confirmation gets a new one: what is shown has changed.
    let view = View::of(frame, selection, preview, Uuid::now_v7(), (reason, refused));
    view::page(status, &view)
}

/// The preview of a selection, or why there is none.
async fn look(console: &Console, selection: &Selection) -> Result<Preview, Refusal> {
    let refused = |status, text: &str| Refusal::from(message(status, "Not understood", text));
    if let Some(wrong) = selection.wrong() {
        return Err(refused(StatusCode::BAD_REQUEST, wrong));
    }
    let Some(service) = console.service(&selection.service) else {
        return Err(refused(StatusCode::BAD_REQUEST, "there is no such service"));
    };
    preview(service, selection).await.map_err(|error| not_looked_at(&error).into())
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(selection): Query<Selection>,
) -> Result<Response, Refusal> {
    let selection = selection.fixed();
    let preview = look(&console, &selection).await?;
    Ok(show(&console, &session, &selection, &preview, (StatusCode::OK, "", "")))
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
        Err(refusal) => return refusal.into_response(),
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
        return again(StatusCode::CONFLICT, "nothing matches");
    }
    let job = Job {
        selection: selection.clone(),
        author: session.author.name.clone(),
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
