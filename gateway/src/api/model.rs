//! The JSON of responses, each shape with its conversion from a service's message. The JSON of a request is in the file of its
//! operation.
#![expect(clippy::struct_field_names, reason = "the contract names the fields")]

use holdfast_proto::{
    Money, delivery::v1 as delivery, from_timestamp, order::v1 as order, payment::v1 as payment,
    r#type::v1 as value,
};
use prost_types::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::schema;
use crate::{http::json, problem::Problem};

/// An order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Order {
    #[schema(value_type = schema::OrderId)]
    pub(super) order_id: String,
    #[schema(value_type = schema::UserId)]
    user_id: String,
    status: OrderStatus,
    /// Null as long as there is no delivery.
    #[schema(required)]
    delivery_status: Option<DeliveryStatus>,
    #[schema(value_type = schema::Address)]
    delivery_address: String,
    items: Vec<Item>,
    #[schema(value_type = schema::Money)]
    total_amount: Box<RawValue>,
    #[schema(value_type = schema::Currency)]
    currency: String,
    /// Grows with each change.
    #[schema(minimum = 1)]
    version: i64,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

/// How far an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum OrderStatus {
    Pending,
    Paid,
    InsufficientFunds,
    Refunded,
}

/// A line of an order.
#[derive(Debug, Serialize, ToSchema)]
struct Item {
    #[schema(value_type = schema::ProductId)]
    product_id: String,
    #[schema(value_type = schema::Quantity)]
    quantity: u32,
    /// Of one piece.
    #[schema(value_type = schema::Money)]
    price: Box<RawValue>,
}

impl Order {
    pub(super) fn from_proto(message: Option<order::Order>) -> Result<Self, Problem> {
        use order::OrderDeliveryStatus;
        let message = message.ok_or_else(incomplete)?;
        let status = match message.status() {
            order::OrderStatus::Pending => OrderStatus::Pending,
            order::OrderStatus::Paid => OrderStatus::Paid,
            order::OrderStatus::InsufficientFunds => OrderStatus::InsufficientFunds,
            order::OrderStatus::Refunded => OrderStatus::Refunded,
            order::OrderStatus::Unspecified => return Err(incomplete()),
        };
        let delivery_status = match message.delivery_status() {
            OrderDeliveryStatus::Unspecified => None,
            OrderDeliveryStatus::Pending => Some(DeliveryStatus::Pending),
            OrderDeliveryStatus::InTransit => Some(DeliveryStatus::InTransit),
            OrderDeliveryStatus::OutForDelivery => Some(DeliveryStatus::OutForDelivery),
            OrderDeliveryStatus::Delivered => Some(DeliveryStatus::Delivered),
            OrderDeliveryStatus::Failed => Some(DeliveryStatus::Failed),
        };
        let items = message
            .items
            .into_iter()
            .map(|item| {
                let (price, _) = money(item.price.as_ref())?;
                Ok(Item { product_id: item.product_id, quantity: item.quantity, price })
            })
            .collect::<Result<_, Problem>>()?;
        let (total_amount, currency) = money(message.total.as_ref())?;
        Ok(Self {
            status,
            delivery_status,
            items,
            total_amount,
            currency,
            created_at: at(message.created_at.as_ref())?,
            updated_at: at(message.updated_at.as_ref())?,
            order_id: message.order_id,
            user_id: message.user_id,
            delivery_address: message.delivery_address,
            version: message.version,
        })
    }
}

/// What became of the payment of an order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Payment {
    #[schema(format = "uuid")]
    payment_id: String,
    #[schema(value_type = schema::OrderId)]
    order_id: String,
    #[schema(value_type = schema::UserId)]
    user_id: String,
    #[schema(value_type = schema::Money)]
    amount: Box<RawValue>,
    #[schema(value_type = schema::Currency)]
    currency: String,
    status: PaymentStatus,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

/// How a payment ended.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum PaymentStatus {
    Success,
    InsufficientFunds,
    Refunded,
}

impl Payment {
    pub(super) fn from_proto(message: Option<payment::Payment>) -> Result<Self, Problem> {
        let message = message.ok_or_else(incomplete)?;
        let status = match message.status() {
            payment::PaymentStatus::Success => PaymentStatus::Success,
            payment::PaymentStatus::InsufficientFunds => PaymentStatus::InsufficientFunds,
            payment::PaymentStatus::Refunded => PaymentStatus::Refunded,
            payment::PaymentStatus::Unspecified => return Err(incomplete()),
        };
        let (amount, currency) = money(message.amount.as_ref())?;
        Ok(Self {
            status,
            amount,
            currency,
            created_at: at(message.created_at.as_ref())?,
            updated_at: at(message.updated_at.as_ref())?,
            payment_id: message.payment_id,
            order_id: message.order_id,
            user_id: message.user_id,
        })
    }
}

/// The delivery of an order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Delivery {
    #[schema(format = "uuid")]
    delivery_id: String,
    #[schema(value_type = schema::OrderId)]
    order_id: String,
    #[schema(value_type = schema::UserId)]
    user_id: String,
    #[schema(value_type = schema::Address)]
    delivery_address: String,
    status: DeliveryStatus,
    /// Oldest first.
    history: Vec<Step>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

/// A status of a delivery, and since when.
#[derive(Debug, Serialize, ToSchema)]
struct Step {
    status: DeliveryStatus,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum DeliveryStatus {
    Pending,
    InTransit,
    OutForDelivery,
    Delivered,
    Failed,
}

impl Delivery {
    pub(super) fn from_proto(message: Option<delivery::Delivery>) -> Result<Self, Problem> {
        let message = message.ok_or_else(incomplete)?;
        let history = message
            .history
            .iter()
            .map(|step| Ok(Step { status: delivery_status(step.status())?, at: at(step.at.as_ref())? }))
            .collect::<Result<_, Problem>>()?;
        Ok(Self {
            status: delivery_status(message.status())?,
            history,
            created_at: at(message.created_at.as_ref())?,
            updated_at: at(message.updated_at.as_ref())?,
            delivery_id: message.delivery_id,
            order_id: message.order_id,
            user_id: message.user_id,
            delivery_address: message.delivery_address,
        })
    }
}

fn delivery_status(status: delivery::DeliveryStatus) -> Result<DeliveryStatus, Problem> {
    Ok(match status {
        delivery::DeliveryStatus::Pending => DeliveryStatus::Pending,
        delivery::DeliveryStatus::InTransit => DeliveryStatus::InTransit,
        delivery::DeliveryStatus::OutForDelivery => DeliveryStatus::OutForDelivery,
        delivery::DeliveryStatus::Delivered => DeliveryStatus::Delivered,
        delivery::DeliveryStatus::Failed => DeliveryStatus::Failed,
        delivery::DeliveryStatus::Unspecified => return Err(incomplete()),
    })
}

/// The money of a user.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Account {
    #[schema(value_type = schema::UserId)]
    user_id: String,
    #[schema(value_type = schema::Money)]
    balance: Box<RawValue>,
    #[schema(value_type = schema::Currency)]
    currency: String,
}

impl Account {
    pub(super) fn from_proto(message: Option<payment::Account>) -> Result<Self, Problem> {
        let message = message.ok_or_else(incomplete)?;
        let (balance, currency) = money(message.balance.as_ref())?;
        Ok(Self { user_id: message.user_id, balance, currency })
    }
}

/// The problem when a field that a service always sets is absent: a defect of the service, not of the client.
pub(super) fn incomplete() -> Problem {
    tracing::error!("a response of a service lacks a required field");
    Problem::internal()
}

fn money(field: Option<&value::Money>) -> Result<(Box<RawValue>, String), Problem> {
    let money = Money::from_proto(field).map_err(|_| incomplete())?;
    Ok((json::number(money.to_decimal())?, money.currency.to_string()))
}

fn at(field: Option<&Timestamp>) -> Result<OffsetDateTime, Problem> {
    from_timestamp(field).ok_or_else(incomplete)
}
