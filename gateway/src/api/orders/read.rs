//! `GET /api/orders/{id}`.

use axum::{extract::State, http::StatusCode, response::Response};

use super::get_order;
use crate::{
    api::{model, params::PathOrderId, schema},
    auth::{Allowed, scope},
    http::{Call, json},
    problem::{Problem, ProblemType},
    upstream::Upstream,
};

/// Reads an order
///
/// As it is now. An order of somebody else looks as if it never existed.
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
                ("Age" = u64, description = "For how many seconds this state has been known, if it is not read anew."),
                ("Holdfast-Stale" = String, description = "Present if the order service can't be reached and this is the last known state."),
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
    State(upstream): State<Upstream>,
    caller: Allowed<scope::OrdersRead>,
    call: Call,
    PathOrderId(id): PathOrderId,
) -> Result<Response, Problem> {
    let order = get_order(&upstream, &caller.user_id, &call, id).await?;
    Ok(json::response(StatusCode::OK, &order))
}
