//! `GET /api/orders/{id}`.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};

use holdfast_common::planted::{Bug, now_and_then};

use super::{Found, Orders, entity_tag, to_json};
use crate::{
    api::{model, params::PathOrderId, schema},
    auth::{Allowed, scope},
    http::{Call, json},
    problem::{Problem, ProblemType},
};

/// Says that order is away, so that this is the last known state, `Age` seconds old.
const HOLDFAST_STALE: HeaderName = HeaderName::from_static("holdfast-stale");

/// Reads an order
///
/// As it is now, or was within the last second. An order of somebody else looks as if it never existed. `ETag` is the order's
/// version; `If-None-Match` gets 304 until it changes.
#[utoipa::path(
    get,
    path = "/api/orders/{id}",
    tag = "orders",
    operation_id = "readOrder",
    params(PathOrderId, schema::IfNoneMatch),
    responses(
        (
            status = OK,
            description = "The order.",
            body = model::Order,
            headers(
                ("ETag" = String, description = "Stands for this state of the order."),
                ("Age" = u64, description = "With `Holdfast-Stale`: how many seconds ago this was the state."),
                ("Holdfast-Stale" = String, description = "`true` if the order service can't be reached and this is the last known state."),
            )
        ),
        (status = NOT_MODIFIED, description = "The order has not changed since the state that `If-None-Match` names.",
            headers(("ETag" = String, description = "Stands for this state of the order.")))
    ),
    security(("token" = ["orders:read"])),
    extensions(
        ("x-other-user" = json!("not-found")),
        ("x-problems" = json!([ProblemType::NotFound.slug()]))
    )
)]
pub(crate) async fn read(
    State(orders): State<Orders>,
    caller: Allowed<scope::OrdersRead>,
    call: Call,
    PathOrderId(id): PathOrderId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let condition = entity_tag::IfNoneMatch::of(&headers);
    let Found { order, stale } = orders.get(&caller.user_id, &call, id, condition.newest()).await?;
    let order = if now_and_then(Bug::StatusGoesBack, 3) { order.as_created() } else { order };
    let mut response = if condition.matches(order.version()) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        json::response_of(StatusCode::OK, to_json(&order)?)
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, entity_tag::of(order.version()));
    if let Some(age) = stale {
        headers.insert(header::AGE, age.as_secs().into());
        headers.insert(HOLDFAST_STALE, HeaderValue::from_static("true"));
    }
    Ok(response)
}
