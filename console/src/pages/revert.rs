//! The edits of a letter are taken back.

use axum::{
    Extension,
    extract::{Path, State},
    response::Response,
};
use holdfast_operator::service::Service;
use holdfast_proto::ops::v1 as pb;
use uuid::Uuid;

use super::{
    Form,
    confirm::{self, Consent, Plan},
    edit::digest,
    find_letter, is_edited, letter_link, no_such_id, not_found, state_of,
};
use crate::{session::Session, state::Console, view::Refusal};

pub(super) fn plan(letter: &pb::DeadLetter) -> Plan {
    let impossible = match letter.state() {
        pb::DeadLetterState::Parked if is_edited(letter) => String::new(),
        pb::DeadLetterState::Parked => "it was not edited".to_owned(),
        _ => format!("only a parked letter can be edited, and it is {}", state_of(letter)),
    };
    Plan {
        title: "Take an edit back",
        path: format!("{}/revert", letter_link(&letter.id)),
        sentences: vec![
            format!("all edits of the dead letter {} are taken back", letter.id),
            "a redrive uses its key, headers and value as they were received".to_owned(),
        ],
        impossible,
        // By which it is seen that it was edited again meanwhile.
        fields: vec![("edit", digest(letter))],
        number: None,
        button: "Take it back",
        command: format!("dlq edit {} --revert --reason TEXT", letter.id),
        missing: Vec::new(),
    }
}

async fn look(console: &Console, id: &str) -> Result<(Service, pb::DeadLetter, Plan), Refusal> {
    let Ok(id) = Uuid::try_parse(id) else { return Err(no_such_id().into()) };
    let mut missing = Vec::new();
    let Some((service, letter)) = find_letter(console, id, &mut missing).await else {
        return Err(not_found(&missing, id).into());
    };
    let mut plan = plan(&letter);
    plan.missing = missing;
    Ok((service, letter, plan))
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let (_, _, plan) = look(&console, &id).await?;
    Ok(confirm::page(&console, &session, &plan))
}

pub(crate) async fn submit(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    Form(consent): Form<Consent>,
) -> Result<Response, Refusal> {
    let (service, letter, plan) = look(&console, &id).await?;
    let act = |reason| async {
        let request = pb::EditDeadLetterRequest {
            id: letter.id.clone(),
            revert: true,
            reason,
            author: session.author.name.clone(),
            ..pb::EditDeadLetterRequest::default()
        };
        service.answer(service.dead_letters().edit_dead_letter(service.request(request)?).await)?;
        Ok(letter_link(&letter.id))
    };
    Ok(confirm::submit(&console, &session, &plan, &consent, act).await)
}
