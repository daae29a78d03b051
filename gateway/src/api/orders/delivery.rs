//! `GET /api/orders/{id}/delivery`.

use axum::{extract::State, http::StatusCode, response::Response};
use holdfast_proto::delivery::v1::GetDeliveryRequest;

use super::{Orders, WillExist, get_part};
use crate::{
    api::{model, params::PathOrderId},
    auth::{Allowed, scope},
    http::{Call, json},
    problem::{Problem, ProblemType},
    upstream::Upstream,
};

/// Reads the delivery of an order
///
/// It does not exist yet for a moment after the order was created, and never if the order could not be paid.
#[utoipa::path(
    get,
    path = "/api/orders/{id}/delivery",
    tag = "orders",
    operation_id = "readDelivery",
    params(PathOrderId),
    responses((status = OK, description = "The delivery.", body = model::Delivery)),
    security(("token" = ["orders:read"])),
    extensions(
        ("x-other-user" = json!("not-found")),
        ("x-problems" = json!([ProblemType::NotFound.slug(), ProblemType::NotYet.slug()]))
    )
)]
pub(crate) async fn delivery(
    State(orders): State<Orders>,
    State(upstream): State<Upstream>,
    caller: Allowed<scope::OrdersRead>,
    call: Call,
    PathOrderId(id): PathOrderId,
) -> Result<Response, Problem> {
    let message = GetDeliveryRequest { order_id: id.to_string(), user_id: caller.user_id.to_string() };
    let request = call.request(message)?;
    let mut deliveries = upstream.deliveries();
    let order = orders.get(&caller.user_id, &call, id, 0);
    let found = get_part(order, deliveries.get_delivery(request), WillExist::UnlessDeclined).await?;
    Ok(json::response(StatusCode::OK, &model::Delivery::from_proto(found.delivery)?))
}
