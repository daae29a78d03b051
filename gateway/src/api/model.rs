//! The JSON of the contract, and how it comes from the services' messages.
#![expect(clippy::struct_field_names, reason = "the contract names the fields")]

use holdfast_proto::{
    Money, delivery::v1 as delivery, from_timestamp, order::v1 as order, payment::v1 as payment,
    r#type::v1 as value,
};
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::http::{json, problem::Problem};

/// `POST /api/orders`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewOrder {
    pub(super) user_id: Option<String>,
    pub(super) delivery_address: String,
    pub(super) items: Vec<json::Object<NewItem>>,
}

/// A line of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewItem {
    pub(super) product_id: String,
    pub(super) quantity: u32,
    pub(super) price: Box<RawValue>,
}

/// `POST /api/accounts/{user_id}/credits`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCredit {
    pub(super) amount: Box<RawValue>,
}

#[derive(Debug, Serialize)]
pub(super) struct Order {
    pub(super) order_id: String,
    user_id: String,
    status: &'static str,
    delivery_status: Option<&'static str>,
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

#[derive(Debug, Serialize)]
struct Item {
    product_id: String,
    quantity: u32,
    price: Box<RawValue>,
}

#[derive(Debug, Serialize)]
pub(super) struct OrderPage {
    pub(super) orders: Vec<Order>,
    pub(super) next_cursor: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Payment {
    payment_id: String,
    order_id: String,
    user_id: String,
    amount: Box<RawValue>,
    currency: String,
    status: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

#[derive(Debug, Serialize)]
pub(super) struct Delivery {
    delivery_id: String,
    order_id: String,
    user_id: String,
    delivery_address: String,
    status: &'static str,
    history: Vec<Step>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

#[derive(Debug, Serialize)]
struct Step {
    status: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
}

#[derive(Debug, Serialize)]
pub(super) struct Account {
    user_id: String,
    balance: Box<RawValue>,
    currency: String,
}

/// A field that a service of ours always sets is not there: its defect, not the client's.
fn incomplete() -> Problem {
    tracing::error!("a service answered without a required field");
    Problem::internal()
}

fn money(field: Option<&value::Money>) -> Result<(Box<RawValue>, String), Problem> {
    let money = Money::from_proto(field).map_err(|_| incomplete())?;
    Ok((json::number(money.to_decimal())?, money.currency.to_string()))
}

fn at(field: Option<&Timestamp>) -> Result<OffsetDateTime, Problem> {
    from_timestamp(field).ok_or_else(incomplete)
}

impl Order {
    pub(super) fn from_proto(message: Option<order::Order>) -> Result<Self, Problem> {
        use order::{OrderDeliveryStatus, OrderStatus};
        let message = message.ok_or_else(incomplete)?;
        let status = match message.status() {
            OrderStatus::Pending => "PENDING",
            OrderStatus::Paid => "PAID",
            OrderStatus::InsufficientFunds => "INSUFFICIENT_FUNDS",
            OrderStatus::Refunded => "REFUNDED",
            OrderStatus::Unspecified => return Err(incomplete()),
        };
        let delivery_status = match message.delivery_status() {
            OrderDeliveryStatus::Unspecified => None,
            OrderDeliveryStatus::Pending => Some("PENDING"),
            OrderDeliveryStatus::InTransit => Some("IN_TRANSIT"),
            OrderDeliveryStatus::OutForDelivery => Some("OUT_FOR_DELIVERY"),
            OrderDeliveryStatus::Delivered => Some("DELIVERED"),
            OrderDeliveryStatus::Failed => Some("FAILED"),
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

    /// Whether there never will be a delivery.
    pub(super) fn is_declined(&self) -> bool {
        self.status == "INSUFFICIENT_FUNDS"
    }
}

impl Payment {
    pub(super) fn from_proto(message: Option<payment::Payment>) -> Result<Self, Problem> {
        use payment::PaymentStatus;
        let message = message.ok_or_else(incomplete)?;
        let status = match message.status() {
            PaymentStatus::Success => "SUCCESS",
            PaymentStatus::InsufficientFunds => "INSUFFICIENT_FUNDS",
            PaymentStatus::Refunded => "REFUNDED",
            PaymentStatus::Unspecified => return Err(incomplete()),
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

fn delivery_status(status: delivery::DeliveryStatus) -> Result<&'static str, Problem> {
    use delivery::DeliveryStatus;
    Ok(match status {
        DeliveryStatus::Pending => "PENDING",
        DeliveryStatus::InTransit => "IN_TRANSIT",
        DeliveryStatus::OutForDelivery => "OUT_FOR_DELIVERY",
        DeliveryStatus::Delivered => "DELIVERED",
        DeliveryStatus::Failed => "FAILED",
        DeliveryStatus::Unspecified => return Err(incomplete()),
    })
}

impl Account {
    pub(super) fn from_proto(message: Option<payment::Account>) -> Result<Self, Problem> {
        let message = message.ok_or_else(incomplete)?;
        let (balance, currency) = money(message.balance.as_ref())?;
        Ok(Self { user_id: message.user_id, balance, currency })
    }
}
