//! `GET /api/orders/{id}/events`: an order as it is, then each of its changes until its end.

use axum::{extract::State, http::HeaderMap, response::Response};

use super::sse;
use crate::{
    api::{params::PathOrderId, schema},
    auth::{Allowed, scope},
    http::Call,
    live::{Live, Source},
    problem::{Problem, ProblemType},
};

/// Watches an order
///
/// The current state first, then each change as it is committed, until the order can't change any more or the token expires. The states
/// come in the order of their `version`. A comment is sent when nothing else was for 15 s.
#[utoipa::path(
    get,
    path = "/api/orders/{id}/events",
    tag = "events",
    operation_id = "watchOrder",
    params(PathOrderId, schema::LastEventId),
    responses(
        (
            status = OK,
            description = "The stream; the schema is that of one event, whose `id` is the order's `version`.",
            content_type = "text/event-stream",
            body = schema::Event
        ),
        (status = NO_CONTENT, description = "The order has ended, and the client knows its last state.")
    ),
    security(("token" = ["orders:read"])),
    extensions(
        ("x-other-user" = json!("not-found")),
        ("x-problems" = json!([ProblemType::NotFound.slug(), ProblemType::TooManyStreams.slug()]))
    )
)]
pub(crate) async fn events(
    State(live): State<Live>,
    caller: Allowed<scope::OrdersRead>,
    call: Call,
    PathOrderId(id): PathOrderId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let source = Source::Order(id, caller.user_id.clone());
    let seen = sse::last_event_id(&headers);
    let watcher = live.open(source, &caller.user_id, caller.valid_until, seen, &call).await?;
    Ok(sse::response(watcher))
}
