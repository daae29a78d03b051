//! Consumers that the limit on dead letters has stopped go on.

use anyhow::Result;
use axum::{
    Extension,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use holdfast_operator::service::Service;
use holdfast_proto::{from_timestamp, ops::v1 as pb};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    Form,
    confirm::{self, Consent, Number, Plan},
};
use crate::{
    job::stats,
    session::Session,
    state::Console,
    view::{Moment, Refusal, link, message},
};

/// Letters that a resumed consumer may park before the limit applies again.
const PARK_MAX: u32 = 1_000_000;

#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    service: String,
    #[serde(default)]
    park: u32,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Confirmed {
    service: String,
    park: u32,
    digest: String,
    reason: String,
}

#[cfg(test)]
impl Wanted {
    pub(super) fn of(service: &str) -> Self {
        Self { service: service.to_owned(), park: 0 }
    }
}

pub(super) fn plan(wanted: &Wanted, stops: &[pb::ConsumerStop], now: OffsetDateTime) -> Plan {
    let Wanted { service, park } = wanted;
    let stopped = |stop: &pb::ConsumerStop| {
        let since = Moment::of(from_timestamp(stop.stopped_at.as_ref()), now).at;
        format!("{service}: a consumer that is stopped since {since} goes on: {}", stop.reason)
    };
    let mut sentences: Vec<String> = stops.iter().take(crate::view::ROWS_MAX).map(stopped).collect();
    if !stops.is_empty() {
        sentences.push(match park {
            0 => "each of them stops again at the limit on dead letters, counted from zero".to_owned(),
            park => format!("each of them may park {park} letters before the limit applies again"),
        });
    }
    let impossible =
        if stops.is_empty() { format!("{service}: no consumer is stopped") } else { String::new() };
    Plan {
        title: "Resume consumers",
        path: "/groups/resume".to_owned(),
        sentences,
        impossible,
        fields: vec![("service", service.clone()), ("park", park.to_string())],
        number: Some(Number {
            name: "park",
            label: "Letters that each may park before the limit applies again",
            value: *park,
            least: 0,
            most: PARK_MAX,
        }),
        button: "Resume",
        command: format!("dlq resume --service {service} --park {park} --reason TEXT"),
        missing: Vec::new(),
    }
}

async fn look<'c>(console: &'c Console, wanted: &Wanted) -> Result<(&'c Service, Plan), Refusal> {
    let Some(service) = console.service(&wanted.service).filter(|_| wanted.park <= PARK_MAX) else {
        let text = "there is no such service, or it is to park more than a million letters";
        return Err(message(StatusCode::BAD_REQUEST, "Not understood", text).into());
    };
    match stats(service).await {
        Ok(stats) => Ok((service, plan(wanted, &stats.stops, OffsetDateTime::now_utc()))),
        Err(error) => Err(confirm::not_looked_at(&error).into()),
    }
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Refusal> {
    let (_, plan) = look(&console, &wanted).await?;
    Ok(confirm::page(&console, &session, &plan))
}

pub(crate) async fn submit(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Form(confirmed): Form<Confirmed>,
) -> Result<Response, Refusal> {
    let Confirmed { service, park, digest, reason } = confirmed;
    let (service, plan) = look(&console, &Wanted { service, park }).await?;
    let act = |reason| async {
        let author = session.author.name.clone();
        let request =
            service.request(pb::ResumeConsumersRequest { dead_letters_max: park, reason, author })?;
        service.answer(service.dead_letters().resume_consumers(request).await)?;
        Ok(link("/audit", &[("service", service.name)]))
    };
    Ok(confirm::submit(&console, &session, &plan, &Consent { digest, reason }, act).await)
}
