//! `GET /api/orders/{id}/events`: an order as it is, then each of its changes until its end.

use axum::{extract::State, http::HeaderMap, response::Response};

use super::sse;
use crate::{
    api::params::PathOrderId,
    auth::{Allowed, scope},
    http::Call,
    live::{Live, Source},
    problem::Problem,
};

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
