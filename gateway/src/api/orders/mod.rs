//! `/api/orders`, and what its operations share.

mod all_events;
mod create;
mod delivery;
mod events;
mod list;
mod payment;
mod read;
mod sse;

use axum::{Router, routing::get};
use holdfast_proto::{OrderId, UserId, order::v1 as order};
use tonic::{Code, Response, Status};
use utoipa::OpenApi;

use super::model;
use crate::{http::Call, problem::Problem, state::Gateway, upstream::Upstream};

/// What the document says of them.
#[derive(OpenApi)]
#[openapi(paths(
    list::list,
    create::create,
    all_events::all_events,
    read::read,
    events::events,
    payment::payment,
    delivery::delivery
))]
pub(crate) struct Document;

/// The operations.
pub(crate) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/api/orders", get(list::list).post(create::create))
        .route("/api/orders/events", get(all_events::all_events))
        .route("/api/orders/{id}", get(read::read))
        .route("/api/orders/{id}/events", get(events::events))
        .route("/api/orders/{id}/payment", get(payment::payment))
        .route("/api/orders/{id}/delivery", get(delivery::delivery))
}

/// Returns an order of this user. An order of somebody else is not found.
async fn get_order(
    upstream: &Upstream,
    user_id: &UserId,
    call: &Call,
    order_id: OrderId,
) -> Result<model::Order, Problem> {
    let message = order::GetOrderRequest { order_id: order_id.to_string(), user_id: user_id.to_string() };
    let answer = upstream.orders().get_order(call.request(message)?).await?;
    model::Order::from_proto(answer.into_inner().order)
}

/// Whether a part of an order that is absent now will exist later.
enum WillExist {
    Always,
    UnlessDeclined,
}

/// Returns a part of an order, such as its payment. Both calls run at the same time. If the order can't be read, its failure is
/// returned, whatever became of the part: if an order is not the caller's, neither are its parts.
async fn get_part<M>(
    order: impl Future<Output = Result<model::Order, Problem>>,
    part: impl Future<Output = Result<Response<M>, Status>>,
    will_exist: WillExist,
) -> Result<M, Problem> {
    let (order, part) = tokio::join!(order, part);
    let order = order?;
    part.map(Response::into_inner).map_err(|status| match (status.code(), will_exist) {
        (Code::NotFound, WillExist::UnlessDeclined) if order.is_declined() => Problem::not_found(),
        (Code::NotFound, _) => Problem::not_yet(),
        _ => status.into(),
    })
}
