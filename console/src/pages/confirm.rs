//! What is done at once after it was confirmed: it is said in sentences, and what is confirmed is the digest of these.

use anyhow::Result;
use askama::Template;
use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use holdfast_operator::ticket::digest_of;
use serde::Deserialize;

use super::reason_of;
use crate::{
    job::refusal,
    session::Session,
    state::Console,
    view::{self, Frame, Shown, message},
};

/// What would be done.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) title: &'static str,
    /// Of the page, where it is confirmed too.
    pub(super) path: String,
    pub(super) sentences: Vec<String>,
    /// Why it can't be done as things are; empty if it can.
    pub(super) impossible: String,
    /// What the form sends back.
    pub(super) fields: Vec<(&'static str, String)>,
    /// One of the fields that can be changed.
    pub(super) number: Option<Number>,
    pub(super) button: &'static str,
    /// The command that does the same.
    pub(super) command: String,
    pub(super) missing: Vec<String>,
}

/// A number that can be chosen.
#[derive(Debug, Clone)]
pub(super) struct Number {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) value: u32,
    pub(super) least: u32,
    pub(super) most: u32,
}

/// Who wants it, and why; beside the fields of the plan.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Consent {
    pub(crate) digest: String,
    pub(crate) reason: String,
}

#[derive(Debug, Template)]
#[template(path = "confirm.html")]
pub(super) struct View {
    frame: Frame,
    sentences: Vec<Shown>,
    is_possible: bool,
    number: Option<Number>,
    fields: Vec<(&'static str, Shown)>,
    path: String,
    button: &'static str,
    digest: String,
    reason: Shown,
    refused: Shown,
}

impl Plan {
    fn digest(&self) -> String {
        let Self { title, path, sentences, fields, .. } = self;
        digest_of(&format!("{title}\n{path}\n{sentences:?}\n{fields:?}"))
    }
}

impl View {
    pub(super) fn of(frame: Frame, plan: &Plan, reason: &str, refused: &str) -> Self {
        let refused = if refused.is_empty() { &plan.impossible } else { refused };
        Self {
            frame,
            sentences: plan.sentences.iter().map(Shown::of).collect(),
            is_possible: plan.impossible.is_empty(),
            number: plan.number.clone(),
            fields: plan.fields.iter().map(|(name, value)| (*name, Shown::of(value))).collect(),
            path: plan.path.clone(),
            button: plan.button,
            digest: plan.digest(),
            reason: Shown::of(reason),
            refused: Shown::of(refused),
        }
    }
}

fn show(
    console: &Console,
    session: &Session,
    plan: &Plan,
    (status, reason, refused): (StatusCode, &str, &str),
) -> Response {
    let frame = Frame::new(console, plan.title, &session.author)
        .missing(&plan.missing)
        .command(console.command(&plan.command));
    view::page(status, &View::of(frame, plan, reason, refused))
}

/// There is no plan, because its service was not asked.
pub(super) fn not_looked_at(error: &anyhow::Error) -> Response {
    message(StatusCode::SERVICE_UNAVAILABLE, "Not looked at", format!("nothing was done: {error:#}"))
}

/// The page on which a plan is confirmed.
pub(super) fn page(console: &Console, session: &Session, plan: &Plan) -> Response {
    show(console, session, plan, (StatusCode::OK, "", ""))
}

/// Does what was confirmed, if it is still what would be done, and leads to the page on which that is seen: `act` gets the reason and
/// returns the page's path.
pub(super) async fn submit<A>(
    console: &Console,
    session: &Session,
    plan: &Plan,
    consent: &Consent,
    act: impl FnOnce(String) -> A,
) -> Response
where
    A: Future<Output = Result<String>>,
{
    let again = |status, why: &str| show(console, session, plan, (status, &consent.reason, why));
    let reason = match reason_of(&consent.reason) {
        Ok(reason) => reason,
        Err(why) => return again(StatusCode::UNPROCESSABLE_ENTITY, why),
    };
    if !plan.impossible.is_empty() {
        return again(StatusCode::CONFLICT, "");
    }
    if consent.digest != plan.digest() {
        let why = "what would be done has changed since you looked, so nothing was done: look again, and confirm that";
        return again(StatusCode::CONFLICT, why);
    }
    tracing::info!(
        author = session.author.name,
        reason,
        action = plan.title,
        plan = plan.sentences.join(" "),
        "an operator changes something"
    );
    match act(reason).await {
        Ok(path) => Redirect::to(&path).into_response(),
        Err(error) => {
            let is_refused = refusal(&error).is_some();
            let status = if is_refused { StatusCode::CONFLICT } else { StatusCode::SERVICE_UNAVAILABLE };
            again(status, &format!("{error:#}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever of a plan changes, what was confirmed is not that any more.
    #[test]
    fn a_digest_is_of_what_is_said() {
        let plan = Plan { title: "Skip", sentences: vec!["one".to_owned()], ..Plan::default() };
        let digest = plan.digest();
        assert_eq!(plan.clone().digest(), digest);
        for other in [
            Plan { title: "Resume", ..plan.clone() },
            Plan { sentences: vec!["two".to_owned()], ..plan.clone() },
            Plan { fields: vec![("records", "2".to_owned())], ..plan.clone() },
            Plan { path: "/elsewhere".to_owned(), ..plan.clone() },
        ] {
            assert_ne!(other.digest(), digest, "{other:?}");
        }
    }
}
