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

use crate::{http::json, problem::Problem};

#[derive(Debug, Serialize)]
pub(super) struct Order {
    pub(super) order_id: String,
    user_id: String,
    status: OrderStatus,
    delivery_status: Option<DeliveryStatus>,
    delivery_address: String,
    items: Vec<Item>,
    total_amount: Box<RawValue>,
    currency: String,
    version: i64,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum OrderStatus {
    Pending,
    Paid,
    InsufficientFunds,
    Refunded,
}

#[derive(Debug, Serialize)]
struct Item {
    product_id: String,
    quantity: u32,
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

#[derive(Debug, Serialize)]
pub(super) struct Payment {
    payment_id: String,
    order_id: String,
    user_id: String,
    amount: Box<RawValue>,
    currency: String,
    status: PaymentStatus,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

#[derive(Debug, Clone, Copy, Serialize)]
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

#[derive(Debug, Serialize)]
pub(super) struct Delivery {
    delivery_id: String,
    order_id: String,
    user_id: String,
    delivery_address: String,
    status: DeliveryStatus,
    history: Vec<Step>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

#[derive(Debug, Serialize)]
struct Step {
    status: DeliveryStatus,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
}

#[derive(Debug, Clone, Copy, Serialize)]
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

#[derive(Debug, Serialize)]
pub(super) struct Account {
    user_id: String,
    balance: Box<RawValue>,
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
