//! `/api/orders`, and what its operations share.

mod all_events;
mod create;
mod delivery;
mod entity_tag;
mod events;
mod list;
mod payment;
mod read;
mod sse;

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::FromRef, routing::get};
use bytes::Bytes;
use holdfast_proto::{OrderId, UserId, order::v1 as order};
use tonic::{Code, Response, Status};
use utoipa::OpenApi;

use super::model;
use crate::{
    cache::{Look, OrderCache, OrderSnapshot, Reading},
    http::{Call, json},
    problem::Problem,
    state::Gateway,
    upstream::Upstream,
};

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

/// Where orders are read.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    cache: OrderCache,
    upstream: Upstream,
}

impl FromRef<Gateway> for Orders {
    fn from_ref(gateway: &Gateway) -> Self {
        Self { cache: gateway.cache.clone(), upstream: gateway.upstream.clone() }
    }
}

/// An order for its user.
struct Found {
    order: Arc<OrderSnapshot>,
    /// Order is away, and this was the state so long ago.
    stale: Option<Duration>,
}

/// Orders of a user, and where the next ones begin, if there are more.
type Page = (Vec<Arc<OrderSnapshot>>, Option<String>);

impl Orders {
    /// An order of this user, at `seen` or a later version. An order of somebody else is not found.
    async fn get(
        &self,
        user_id: &UserId,
        call: &Call,
        order_id: OrderId,
        seen: i64,
    ) -> Result<Found, Problem> {
        match self.cache.look(order_id, user_id, seen).await {
            Look::Known(order) => Ok(Found { order, stale: None }),
            // On the heap: what most requests do not need should not make their state large.
            Look::Read(reading) => Box::pin(self.read(user_id, call, order_id, reading)).await,
        }
    }

    async fn read(
        &self,
        user_id: &UserId,
        call: &Call,
        order_id: OrderId,
        reading: Reading,
    ) -> Result<Found, Problem> {
        let message = order::GetOrderRequest { order_id: order_id.to_string(), user_id: user_id.to_string() };
        match self.upstream.orders().get_order(call.request(message)?).await {
            Ok(answer) => {
                let order = answer.into_inner().order.and_then(OrderSnapshot::new);
                Ok(Found { order: reading.done(order.ok_or_else(model::incomplete)?).await, stale: None })
            }
            Err(status) if is_away(&status) => match reading.last_known().await {
                Some((order, age)) => Ok(Found { order, stale: Some(age) }),
                None => Err(status.into()),
            },
            Err(status) => Err(status.into()),
        }
    }

    /// A page of a user's orders.
    async fn list(&self, request: tonic::Request<order::ListOrdersRequest>) -> Result<Page, Problem> {
        let answer = self.upstream.orders().list_orders(request).await?.into_inner();
        let orders = answer.orders.into_iter().map(|order| OrderSnapshot::new(order).map(Arc::new));
        let orders: Vec<_> = orders.collect::<Option<_>>().ok_or_else(model::incomplete)?;
        self.cache.saw_all(&orders).await;
        Ok((orders, Some(answer.next_page_token).filter(|token| !token.is_empty())))
    }
}

/// Whether a service did not answer, or not in time, or had no room.
fn is_away(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted)
}

/// An order as a body.
fn to_json(order: &OrderSnapshot) -> Result<Bytes, Problem> {
    order.json(|message| json::bytes(&model::Order::from_proto(Some(message.clone()))?))
}

/// Whether a part of an order that is absent now will exist later.
enum WillExist {
    Always,
    UnlessDeclined,
}

/// Returns a part of an order, such as its payment. Both calls run at the same time. If the order can't be read, its failure is
/// returned, whatever became of the part: if an order is not the caller's, neither are its parts.
async fn get_part<M>(
    order: impl Future<Output = Result<Found, Problem>>,
    part: impl Future<Output = Result<Response<M>, Status>>,
    will_exist: WillExist,
) -> Result<M, Problem> {
    let (order, part) = tokio::join!(order, part);
    // Whose it is never changes, so the last known state is as good as any.
    let Found { order, .. } = order?;
    part.map(Response::into_inner).map_err(|status| match (status.code(), will_exist) {
        (Code::NotFound, WillExist::UnlessDeclined) if order.is_declined() => Problem::not_found(),
        (Code::NotFound, _) => Problem::not_yet(),
        _ => status.into(),
    })
}
