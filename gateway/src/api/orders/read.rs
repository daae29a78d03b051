//! `GET /api/orders/{id}`.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};

use super::{Found, Orders, entity_tag, to_json};
use crate::{
    api::params::PathOrderId,
    auth::{Allowed, scope},
    http::{Call, json},
    problem::Problem,
};

/// Says that order is away, so that this is the last known state, `Age` seconds old.
const HOLDFAST_STALE: HeaderName = HeaderName::from_static("holdfast-stale");

pub(crate) async fn read(
    State(orders): State<Orders>,
    caller: Allowed<scope::OrdersRead>,
    call: Call,
    PathOrderId(id): PathOrderId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let condition = entity_tag::IfNoneMatch::of(&headers);
    let Found { order, stale } = orders.get(&caller.user_id, &call, id, condition.newest()).await?;
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
