//! `GET /api/orders/{id}`.

use axum::{extract::State, http::StatusCode, response::Response};

use super::get_order;
use crate::{
    api::params::PathOrderId,
    auth::{Allowed, scope},
    http::{Call, json},
    problem::Problem,
    upstream::Upstream,
};

pub(crate) async fn read(
    State(upstream): State<Upstream>,
    caller: Allowed<scope::OrdersRead>,
    call: Call,
    PathOrderId(id): PathOrderId,
) -> Result<Response, Problem> {
    let order = get_order(&upstream, &caller.user_id, &call, id).await?;
    Ok(json::response(StatusCode::OK, &order))
}
