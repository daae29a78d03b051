//! Redrives as their services know them, whoever has begun them, from the console or elsewhere; and the end of one.

use anyhow::Result;
use askama::Template;
use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use holdfast_operator::{
    redrive::{author, left, may_go_on, state_name},
    service::Service,
    ticket::Author,
};
use holdfast_proto::{from_timestamp, ops::v1 as pb};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Form,
    confirm::{self, Consent, Plan},
    no_such_id,
};
use crate::{
    ask::answers,
    job::{redrives, with_reason},
    session::Session,
    state::Console,
    view::{self, Frame, Moment, ROWS_MAX, Refusal, Shown, message},
};

#[derive(Debug, Template)]
#[template(path = "redrives.html", blocks = ["live"])]
pub(super) struct View {
    pub(super) frame: Frame,
    pub(super) redrives: Vec<Row>,
}

/// A redrive.
#[derive(Debug)]
pub(super) struct Row {
    service: &'static str,
    pub(super) state: &'static str,
    by: Shown,
    cancelled_by: Shown,
    selection: Shown,
    began: Moment,
    seen: Moment,
    pub(super) redriven: u64,
    pub(super) failed: u64,
    pub(super) refused: u64,
    pub(super) behind: u64,
    pub(super) left: u64,
    /// Where it can be ended; empty if it can't any more.
    pub(super) end: String,
}

impl Row {
    pub(super) fn of(service: &'static str, redrive: &pb::Redrive, now: OffsetDateTime) -> Self {
        Self {
            service,
            state: state_name(redrive.state()),
            by: Shown::of(author(&redrive.actor)),
            cancelled_by: Shown::of(author(&redrive.cancelled_by)),
            selection: Shown::of(&redrive.selection),
            began: Moment::of(from_timestamp(redrive.started_at.as_ref()), now),
            seen: Moment::of(from_timestamp(redrive.seen_at.as_ref()), now),
            redriven: redrive.redriven,
            failed: redrive.failed,
            refused: redrive.refused,
            behind: redrive.behind,
            left: left(redrive),
            end: if may_go_on(redrive, now) { redrive_link(&redrive.id) } else { String::new() },
        }
    }
}

/// The path of the page that ends a redrive; empty if this is no id of one.
fn redrive_link(id: &str) -> String {
    Uuid::try_parse(id).map(|id| format!("/redrives/{id}")).unwrap_or_default()
}

/// The latest redrives of all services, the last one first.
pub(super) fn rows(of_each: &[(&'static str, Vec<pb::Redrive>)], now: OffsetDateTime) -> Vec<Row> {
    let mut all: Vec<_> = of_each
        .iter()
        .flat_map(|(service, redrives)| redrives.iter().map(move |redrive| (*service, redrive)))
        .collect();
    all.sort_by_key(|(_, redrive)| std::cmp::Reverse(from_timestamp(redrive.started_at.as_ref())));
    all.iter().take(ROWS_MAX).map(|(service, redrive)| Row::of(service, redrive, now)).collect()
}

async fn all(console: &Console, missing: &mut Vec<String>) -> Vec<(&'static str, Vec<pb::Redrive>)> {
    answers(console.ask(|service| async move { redrives(&service).await }).await, missing)
}

pub(super) async fn view(console: &Console, author: &Author) -> View {
    let mut missing = Vec::new();
    let of_each = all(console, &mut missing).await;
    let now = OffsetDateTime::now_utc();
    let redrives = rows(&of_each, now);
    let frame = Frame::new(console, "Redrives", author)
        .live(&[("page", "redrives")], now)
        .missing(&missing)
        .command(console.command("dlq redrive --status"));
    View { frame, redrives }
}

pub(crate) async fn page(State(console): State<Console>, Extension(session): Extension<Session>) -> Response {
    view::page(StatusCode::OK, &view(&console, &session.author).await)
}

/// What it means to end a redrive.
pub(super) fn plan(service: &str, redrive: &pb::Redrive, now: OffsetDateTime) -> Plan {
    let impossible = if may_go_on(redrive, now) {
        String::new()
    } else {
        format!("it has ended already: {}", state_name(redrive.state()))
    };
    Plan {
        title: "End a redrive",
        path: redrive_link(&redrive.id),
        sentences: vec![
            format!(
                "{service} handles no further letter of the redrive that {} has begun",
                author(&redrive.actor)
            ),
            format!("selected were: {}", redrive.selection),
            "what it has redriven stays redriven; what is left stays parked".to_owned(),
        ],
        impossible,
        fields: Vec::new(),
        number: None,
        button: "End it",
        command: format!("dlq redrive --cancel --service {service}"),
        missing: Vec::new(),
    }
}

async fn look(console: &Console, id: &str) -> Result<(Service, Plan), Refusal> {
    let Ok(id) = Uuid::try_parse(id) else { return Err(no_such_id().into()) };
    let (mut missing, id) = (Vec::new(), id.to_string());
    let of_each = all(console, &mut missing).await;
    let found = of_each.iter().find_map(|(service, redrives)| {
        redrives.iter().find(|redrive| redrive.id == id).map(|redrive| (*service, redrive))
    });
    let Some((service, redrive)) = found else {
        let text = match missing.as_slice() {
            [] => "no service has redriven under this id lately".to_owned(),
            missing => format!("no service that could be asked knows it. Not asked: {}", missing.join("; ")),
        };
        return Err(message(StatusCode::NOT_FOUND, "No such redrive", text).into());
    };
    let mut plan = plan(service, redrive, OffsetDateTime::now_utc());
    plan.missing = missing;
    match console.service(service) {
        Some(service) => Ok((service.clone(), plan)),
        None => Err(no_such_id().into()),
    }
}

pub(crate) async fn end(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let (_, plan) = look(&console, &id).await?;
    Ok(confirm::page(&console, &session, &plan))
}

pub(crate) async fn submit(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    Form(consent): Form<Consent>,
) -> Result<Response, Refusal> {
    let (service, plan) = look(&console, &id).await?;
    // As a redrive, its end has no reason of its own in the audit.
    let authored = |reason: String| with_reason(&session.author.name, &reason);
    let act = |reason: String| async {
        let request = service.request(pb::CancelRedriveRequest { id, author: authored(reason) })?;
        service.answer(service.dead_letters().cancel_redrive(request).await)?;
        Ok("/redrives".to_owned())
    };
    Ok(confirm::submit(&console, &session, &plan, &consent, act).await)
}
