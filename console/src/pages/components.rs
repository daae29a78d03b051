//! How each service is, as its admin port says: readiness with its parts, breakers, retry budgets, the end of its certificate.

use askama::Template;
use axum::{Extension, extract::State, http::StatusCode, response::Response};
use time::OffsetDateTime;

use crate::{
    admin::{Replica, look},
    ask::Asked,
    session::Session,
    state::Console,
    view::{self, Frame, Moment, ROWS_MAX, Shown},
};

#[derive(Debug, Template)]
#[template(path = "components.html")]
pub(super) struct View {
    pub(super) frame: Frame,
    pub(super) replicas: Vec<Row>,
}

#[derive(Debug)]
pub(super) struct Row {
    name: Shown,
    state: &'static str,
    /// Why it was not asked.
    why: Shown,
    parts: Vec<PartRow>,
    breakers: Vec<BreakerRow>,
    budgets: Vec<BudgetRow>,
    certificate_ends: Moment,
}

#[derive(Debug)]
struct PartRow {
    name: Shown,
    state: &'static str,
    is_required: bool,
    detail: Shown,
}

#[derive(Debug)]
struct BreakerRow {
    destination: Shown,
    endpoint: Shown,
    state: Shown,
}

#[derive(Debug)]
struct BudgetRow {
    destination: Shown,
    left: i64,
    allowed: i64,
}

impl Row {
    pub(super) fn of(replica: &Replica, now: OffsetDateTime) -> Self {
        let readiness = replica.readiness.answer();
        let metrics = replica.metrics.answer();
        let part = |(name, part): (&String, &crate::admin::Part)| PartRow {
            name: Shown::of(name),
            state: if part.ready { "ready" } else { "not ready" },
            is_required: part.required,
            detail: Shown::of(&part.detail),
        };
        let breaker = |[destination, endpoint, state]: &[String; 3]| BreakerRow {
            destination: Shown::of(destination),
            endpoint: Shown::of(endpoint),
            state: Shown::of(state),
        };
        Self {
            name: Shown::of(&replica.name),
            state: match readiness {
                Some(readiness) if !readiness.ready => "not ready",
                Some(readiness) if readiness.degraded => "degraded",
                Some(_) => "ready",
                None => "not asked",
            },
            why: match &replica.readiness {
                Asked::NotAsked(why) => Shown::of(why),
                Asked::Answer(_) => Shown::default(),
            },
            parts: readiness
                .into_iter()
                .flat_map(|of| of.components.iter())
                .take(ROWS_MAX)
                .map(part)
                .collect(),
            breakers: metrics
                .into_iter()
                .flat_map(|of| of.breakers.iter())
                .take(ROWS_MAX)
                .map(breaker)
                .collect(),
            budgets: metrics
                .into_iter()
                .flat_map(|of| of.budgets.iter())
                .take(ROWS_MAX)
                .map(|(destination, budget)| BudgetRow {
                    destination: Shown::of(destination),
                    left: budget.left,
                    allowed: budget.allowed,
                })
                .collect(),
            certificate_ends: Moment::of(metrics.and_then(|metrics| metrics.certificate_ends), now),
        }
    }
}

pub(crate) async fn page(State(console): State<Console>, Extension(session): Extension<Session>) -> Response {
    let replicas = look(&console.admin()).await;
    let now = OffsetDateTime::now_utc();
    let frame = Frame::new(&console, "Components", &session.author)
        .command(console.command("status"))
        .command(console.command("certs status"));
    let replicas = replicas.iter().map(|replica| Row::of(replica, now)).collect();
    view::page(StatusCode::OK, &View { frame, replicas })
}
