//! gRPC to domain and back.

use aws_lc_rs::digest;
use futures_util::{FutureExt as _, future::BoxFuture};
use holdfast_common::{
    database::{Conflicting, Database, DatabaseError},
    deadline::Deadline,
    event::NewEvent,
    grpc::traceparent,
    idempotency,
    outbox::{self, OutboxRecord},
};
use holdfast_proto::{
    IdempotencyKey, Money, OrderId, UserId, limits::PAGE_SIZE_MAX, order::v1 as pb,
    order::v1::order_service_server::OrderService, to_timestamp, topic::Event as _,
};
use prost::Message as _;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    domain::{self, Draft, Item, Order},
    store,
};

/// Answers calls.
#[derive(Debug, Clone)]
pub(crate) struct OrderHandler {
    database: Database,
}

/// Why no order was created.
#[derive(Debug)]
enum CreateError {
    /// A call with the same key has not finished.
    StillRunning,
    /// The key belongs to another content.
    KeyReused,
    Database(DatabaseError),
}

impl From<DatabaseError> for CreateError {
    fn from(error: DatabaseError) -> Self {
        Self::Database(error)
    }
}

impl Conflicting for CreateError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_conflict())
    }
}

impl CreateError {
    fn into_status(self, still_running: Status) -> Status {
        match self {
            Self::StillRunning => still_running,
            Self::KeyReused => idempotency::key_reused(),
            Self::Database(error) => error.into(),
        }
    }
}

impl OrderHandler {
    pub(crate) const fn new(database: Database) -> Self {
        Self { database }
    }

    /// Order, lines, key and event in one transaction. Answers with the order and whether it was there before.
    async fn create(
        &self,
        draft: Draft,
        key: IdempotencyKey,
        traceparent: Option<String>,
        deadline: Deadline,
    ) -> Result<(Order, bool), CreateError> {
        let fingerprint = digest::digest(&digest::SHA256, &draft.canonical_bytes()).as_ref().to_vec();
        let order_id = OrderId::generate();
        self.database
            .transaction("order.create", deadline, move |connection: &mut PgConnection| {
                let (draft, key, fingerprint) = (draft.clone(), key.clone(), fingerprint.clone());
                let traceparent = traceparent.clone();
                let work: BoxFuture<'_, _> = Box::pin(async move {
                    if !idempotency::try_lock(connection, draft.user_id.as_str(), key.as_str()).await? {
                        return Err(CreateError::StillRunning);
                    }
                    if let Some(used) = store::key_use(connection, &draft.user_id, &key).await? {
                        if used.fingerprint != fingerprint {
                            return Err(CreateError::KeyReused);
                        }
                        let order =
                            store::order_of_user(connection, used.order_id, draft.user_id.clone()).await?;
                        let order = order.ok_or(DatabaseError::Corrupt("key without its order".into()))?;
                        return Ok((order.as_created(), true));
                    }
                    let order = Order::create(order_id, draft, now());
                    store::insert_order(connection, &order, &key, &fingerprint).await?;
                    let event = OutboxRecord::from_event(order_created(&order, traceparent), "order");
                    outbox::append(connection, vec![event]).await?;
                    Ok((order, false))
                });
                work
            })
            .await
    }
}

/// The database keeps microseconds: cut here, so that the first answer and a replay are the same.
fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(now.nanosecond() / 1000 * 1000).unwrap_or(now)
}

#[tonic::async_trait]
impl OrderService for OrderHandler {
    async fn create_order(
        &self,
        request: Request<pb::CreateOrderRequest>,
    ) -> Result<Response<pb::CreateOrderResponse>, Status> {
        let (deadline, traceparent) = (Deadline::of(&request), traceparent(request.metadata()));
        let still_running = idempotency::still_running(request.metadata());
        let request = request.into_inner();
        let user_id = parse_user(&request.user_id)?;
        let key = IdempotencyKey::parse(&request.idempotency_key)
            .map_err(|error| Status::invalid_argument(format!("idempotency_key {error}")))?;
        let draft = parse_draft(user_id, request.delivery_address, request.items)?;
        let created = self.create(draft, key, traceparent, deadline).await;
        let (order, replayed) = created.map_err(|error| error.into_status(still_running))?;
        if !replayed {
            metrics::counter!("orders_created_total").increment(1);
        }
        Ok(Response::new(pb::CreateOrderResponse { order: Some(order_to_proto(&order)), replayed }))
    }

    async fn get_order(
        &self,
        request: Request<pb::GetOrderRequest>,
    ) -> Result<Response<pb::GetOrderResponse>, Status> {
        let deadline = Deadline::of(&request);
        let request = request.into_inner();
        let user_id = parse_user(&request.user_id)?;
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
        let request = request.into_inner();
        let user_id = parse_user(&request.user_id)?;
        if !(1..=PAGE_SIZE_MAX).contains(&request.page_size) {
            return Err(Status::invalid_argument(format!("page_size must be 1 to {PAGE_SIZE_MAX}")));
        }
        let before = match request.page_token.as_str() {
            "" => None,
            token => {
                Some(OrderId::parse(token).map_err(|_| Status::invalid_argument("page_token is not valid"))?)
            }
        };
        // One more than asked for tells whether there is another page.
        let limit = i64::from(request.page_size) + 1;
        let mut orders = self
            .database
            .read(deadline, move |connection| {
                store::orders_of_user(connection, user_id, before, limit).boxed()
            })
            .await?;
        let more = orders.len() > request.page_size as usize;
        orders.truncate(request.page_size as usize);
        let next_page_token = orders.last().filter(|_| more).map(|order| order.order_id.to_string());
        Ok(Response::new(pb::ListOrdersResponse {
            orders: orders.iter().map(order_to_proto).collect(),
            next_page_token: next_page_token.unwrap_or_default(),
        }))
    }
}

fn parse_user(text: &str) -> Result<UserId, Status> {
    UserId::parse(text).map_err(|error| Status::invalid_argument(format!("user_id {error}")))
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

fn order_created(order: &Order, traceparent: Option<String>) -> NewEvent {
    let payload = pb::OrderCreated {
        order_id: order.order_id.to_string(),
        user_id: order.user_id.to_string(),
        delivery_address: order.delivery_address.clone(),
        items: order.items.iter().map(item_to_proto).collect(),
        total: Some(order.total.to_proto()),
        created_at: Some(to_timestamp(order.created_at)),
    };
    NewEvent {
        id: Uuid::now_v7(),
        topic: pb::OrderCreated::TOPIC,
        version: pb::OrderCreated::VERSION,
        key: order.user_id.to_string(),
        subject: order.order_id.to_string(),
        time: order.created_at,
        traceparent,
        payload: payload.encode_to_vec(),
    }
}

fn item_to_proto(item: &Item) -> pb::OrderItem {
    pb::OrderItem {
        product_id: item.product_id.clone(),
        quantity: item.quantity,
        price: Some(item.price.to_proto()),
    }
}

fn order_to_proto(order: &Order) -> pb::Order {
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
