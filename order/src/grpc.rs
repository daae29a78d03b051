//! Translates between gRPC and the domain.

use futures_util::{FutureExt as _, stream::BoxStream};
use holdfast_common::{
    database::Database, deadline::Deadline, idempotency, subject::authorize, trace::TraceContext,
};
use holdfast_proto::{
    IdempotencyKey, Money, OrderId, UserId, limits::PAGE_SIZE_MAX, order::v1 as pb,
    order::v1::order_service_server::OrderService, scope, to_timestamp,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use crate::{
    changes::{self, Changes},
    create::{Created, NewOrder, create},
    domain::{self, Draft, Item, Order},
    event::item_to_proto,
    page::Page,
    store::{self, ChangedSince},
};

/// The gRPC service.
#[derive(Debug, Clone)]
pub(crate) struct OrderHandler {
    database: Database,
    changes: Changes,
    stop: CancellationToken,
}

/// Longest name of a reader.
const READER_BYTES_MAX: usize = 64;

impl OrderHandler {
    pub(crate) const fn new(database: Database, changes: Changes, stop: CancellationToken) -> Self {
        Self { database, changes, stop }
    }
}

#[tonic::async_trait]
impl OrderService for OrderHandler {
    async fn create_order(
        &self,
        request: Request<pb::CreateOrderRequest>,
    ) -> Result<Response<pb::CreateOrderResponse>, Status> {
        let (deadline, trace) = (Deadline::of(&request), TraceContext::of(request.metadata()));
        let still_running = idempotency::still_running(request.metadata());
        let user_id = authorized_user(request.metadata(), &request.get_ref().user_id, scope::ORDERS_WRITE)?;
        let request = request.into_inner();
        let key = IdempotencyKey::parse(&request.idempotency_key)
            .map_err(|error| Status::invalid_argument(format!("idempotency_key {error}")))?;
        let draft = parse_draft(user_id, request.delivery_address, request.items)?;
        let created = create(&self.database, &self.changes, NewOrder { draft, key, trace }, deadline).await;
        let Created { order, replayed } =
            created.map_err(|error| error.into_status(still_running, |never| match never {}))?;
        Ok(Response::new(pb::CreateOrderResponse { order: Some(order_to_proto(&order)), replayed }))
    }

    async fn get_order(
        &self,
        request: Request<pb::GetOrderRequest>,
    ) -> Result<Response<pb::GetOrderResponse>, Status> {
        let deadline = Deadline::of(&request);
        let user_id = authorized_user(request.metadata(), &request.get_ref().user_id, scope::ORDERS_READ)?;
        let request = request.into_inner();
        let order_id = parse_order_id(&request.order_id)?;
        let order = self
            .database
            .read(deadline, move |connection| store::order_of_user(connection, order_id, user_id).boxed())
            .await?;
        let order = order.ok_or_else(|| Status::not_found("no such order"))?;
        Ok(Response::new(pb::GetOrderResponse { order: Some(order_to_proto(&order)) }))
    }

    async fn list_orders(
        &self,
        request: Request<pb::ListOrdersRequest>,
    ) -> Result<Response<pb::ListOrdersResponse>, Status> {
        let deadline = Deadline::of(&request);
        let user_id = authorized_user(request.metadata(), &request.get_ref().user_id, scope::ORDERS_READ)?;
        let request = request.into_inner();
        let page_size = parse_page_size(request.page_size)?;
        let before = match request.page_token.as_str() {
            "" => None,
            token => {
                Some(OrderId::parse(token).map_err(|_| Status::invalid_argument("page_token is not valid"))?)
            }
        };
        let page = self.database.read(deadline, move |connection| {
            async move {
                let (mut page, mut before) = (Page::new(page_size), before);
                while let Some(limit) = page.wanted() {
                    let orders = store::orders_of_user(connection, &user_id, before, limit).await?;
                    page.take(orders.iter().map(order_to_proto));
                    before = page.last().and_then(|last: &pb::Order| OrderId::parse(&last.order_id).ok());
                }
                Ok(page)
            }
            .boxed()
        });
        let (orders, more) = page.await?.finish();
        let next_page_token = orders.last().filter(|_| more).map(|order| order.order_id.clone());
        Ok(Response::new(pb::ListOrdersResponse {
            orders,
            next_page_token: next_page_token.unwrap_or_default(),
        }))
    }

    async fn list_changed_orders(
        &self,
        request: Request<pb::ListChangedOrdersRequest>,
    ) -> Result<Response<pb::ListChangedOrdersResponse>, Status> {
        let deadline = Deadline::of(&request);
        let user = authorized_user(request.metadata(), &request.get_ref().user_id, scope::ORDERS_READ)?;
        let request = request.into_inner();
        let page_size = parse_page_size(request.page_size)?;
        let until = if request.until_position == 0 { i64::MAX } else { request.until_position };
        let mut since = ChangedSince {
            user,
            after: request.after_position,
            until,
            unfinished_only: request.unfinished_only,
        };
        let page = self.database.read(deadline, move |connection| {
            async move {
                // First: what is committed meanwhile is in the page, so the position never promises too much.
                let position = store::user_position(connection, &since.user).await?;
                let mut page = Page::new(page_size);
                while let Some(limit) = page.wanted() {
                    let changed = store::changed_orders(connection, &since, limit).await?;
                    page.take(changed.iter().map(changes::to_proto));
                    since.after = page.last().map_or(since.after, |last: &pb::OrderChange| last.position);
                }
                Ok((position, page))
            }
            .boxed()
        });
        let (position, page) = page.await?;
        let (changes, more) = page.finish();
        Ok(Response::new(pb::ListChangedOrdersResponse { changes, position, more }))
    }

    type WatchOrdersStream = BoxStream<'static, Result<pb::WatchOrdersResponse, Status>>;

    async fn watch_orders(
        &self,
        request: Request<pb::WatchOrdersRequest>,
    ) -> Result<Response<Self::WatchOrdersStream>, Status> {
        let reader = request.into_inner().reader;
        if !(1..=READER_BYTES_MAX).contains(&reader.len()) {
            return Err(Status::invalid_argument(format!(
                "reader must be 1 to {READER_BYTES_MAX} characters"
            )));
        }
        let changes = self.changes.watch(self.stop.clone())?;
        tracing::info!(reader, "changes of orders are read");
        Ok(Response::new(Box::pin(changes)))
    }
}

fn parse_page_size(page_size: u32) -> Result<u32, Status> {
    if (1..=PAGE_SIZE_MAX).contains(&page_size) {
        return Ok(page_size);
    }
    Err(Status::invalid_argument(format!("page_size must be 1 to {PAGE_SIZE_MAX}")))
}

/// The user whom a call is about, if the caller may do this for them.
fn authorized_user(metadata: &MetadataMap, user_id: &str, scope: &str) -> Result<UserId, Status> {
    let user_id =
        UserId::parse(user_id).map_err(|error| Status::invalid_argument(format!("user_id {error}")))?;
    authorize(metadata, &user_id, scope)?;
    Ok(user_id)
}

fn parse_order_id(text: &str) -> Result<OrderId, Status> {
    OrderId::parse(text).map_err(|error| Status::invalid_argument(format!("order_id {error}")))
}

fn parse_draft(user_id: UserId, address: String, items: Vec<pb::OrderItem>) -> Result<Draft, Status> {
    let items = items
        .into_iter()
        .enumerate()
        .map(|(index, item)| {
            let price = Money::from_proto(item.price.as_ref())
                .map_err(|error| Status::invalid_argument(format!("items[{index}].price {error}")))?;
            Ok(Item { product_id: item.product_id, quantity: item.quantity, price })
        })
        .collect::<Result<Vec<_>, Status>>()?;
    Draft::new(user_id, address, items).map_err(|error| Status::invalid_argument(error.to_string()))
}

pub(crate) fn order_to_proto(order: &Order) -> pb::Order {
    let status = match order.status {
        domain::Status::Pending => pb::OrderStatus::Pending,
        domain::Status::Paid => pb::OrderStatus::Paid,
        domain::Status::InsufficientFunds => pb::OrderStatus::InsufficientFunds,
        domain::Status::Refunded => pb::OrderStatus::Refunded,
    };
    let delivery_status = match order.delivery_status {
        None => pb::OrderDeliveryStatus::Unspecified,
        Some(domain::DeliveryStatus::Pending) => pb::OrderDeliveryStatus::Pending,
        Some(domain::DeliveryStatus::InTransit) => pb::OrderDeliveryStatus::InTransit,
        Some(domain::DeliveryStatus::OutForDelivery) => pb::OrderDeliveryStatus::OutForDelivery,
        Some(domain::DeliveryStatus::Delivered) => pb::OrderDeliveryStatus::Delivered,
        Some(domain::DeliveryStatus::Failed) => pb::OrderDeliveryStatus::Failed,
    };
    pb::Order {
        order_id: order.order_id.to_string(),
        user_id: order.user_id.to_string(),
        status: status.into(),
        delivery_status: delivery_status.into(),
        delivery_address: order.delivery_address.clone(),
        items: order.items.iter().map(item_to_proto).collect(),
        total: Some(order.total.to_proto()),
        version: order.version,
        created_at: Some(to_timestamp(order.created_at)),
        updated_at: Some(to_timestamp(order.updated_at)),
    }
}
