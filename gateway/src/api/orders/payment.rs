//! `GET /api/orders/{id}/payment`.

use axum::{extract::State, http::StatusCode, response::Response};
use holdfast_proto::payment::v1::GetPaymentRequest;

use super::{Orders, WillExist, get_part};
use crate::{
    api::{model, params::PathOrderId},
    auth::{Allowed, scope},
    http::{Call, json},
    problem::{Problem, ProblemType},
    upstream::Upstream,
};

/// Reads the payment of an order
///
/// It does not exist yet for a moment after the order was created.
#[utoipa::path(
    get,
    path = "/api/orders/{id}/payment",
    tag = "orders",
    operation_id = "readPayment",
    params(PathOrderId),
    responses((status = OK, description = "The payment.", body = model::Payment)),
    security(("token" = ["orders:read"])),
    extensions(
        ("x-other-user" = json!("not-found")),
        ("x-problems" = json!([ProblemType::NotFound.slug(), ProblemType::NotYet.slug()]))
    )
)]
pub(crate) async fn payment(
    State(orders): State<Orders>,
    State(upstream): State<Upstream>,
    caller: Allowed<scope::OrdersRead>,
    call: Call,
    PathOrderId(id): PathOrderId,
) -> Result<Response, Problem> {
    let message = GetPaymentRequest { order_id: id.to_string(), user_id: caller.user_id.to_string() };
    let request = call.request(message)?;
    let mut payments = upstream.payments();
    let order = orders.get(&caller.user_id, &call, id, 0);
    let found = get_part(order, payments.get_payment(request), WillExist::Always).await?;
    Ok(json::response(StatusCode::OK, &model::Payment::from_proto(found.payment)?))
}
