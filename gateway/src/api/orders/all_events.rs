//! `GET /api/orders/events`: the caller's orders that can still change, then each change of any of their orders.

use axum::{extract::State, http::HeaderMap, response::Response};

use super::sse;
use crate::{
    auth::{Allowed, scope},
    http::Call,
    live::{Live, Source},
    problem::Problem,
};

pub(crate) async fn all_events(
    State(live): State<Live>,
    caller: Allowed<scope::OrdersRead>,
    call: Call,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let source = Source::User(caller.user_id.clone());
    let seen = sse::last_event_id(&headers);
    let watcher = live.open(source, &caller.user_id, caller.valid_until, seen, &call).await?;
    Ok(sse::response(watcher))
}
