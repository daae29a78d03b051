//! `GET /api/orders/events`: the caller's orders that can still change, then each change of any of their orders.

use axum::{extract::State, http::HeaderMap, response::Response};

use super::sse;
use crate::{
    api::schema,
    auth::{Allowed, scope},
    http::Call,
    live::{Live, Source},
    problem::{Problem, ProblemType},
};

/// Watches all orders
///
/// The own ones that can still change first, then each change of any, until the client leaves or the token expires. A block with an
/// `id` and no data says that the current state is complete.
#[utoipa::path(
    get,
    path = "/api/orders/events",
    tag = "events",
    operation_id = "watchOrders",
    params(schema::LastEventId),
    responses((
            status = OK,
            description = "The stream; the schema is that of one event, whose `id` is the change position: it counts the changes of all \
                       orders of the user.",
            content_type = "text/event-stream",
            body = schema::Event
        )),
    security(("token" = ["orders:read"])),
    extensions(
        ("x-other-user" = json!("own")),
        ("x-problems" = json!([ProblemType::TooManyStreams.slug()]))
    )
)]
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
