//! The topics of the contract: who writes which event, and who reads it.

use crate::{delivery, order, payment};

/// A business event: its protobuf message knows its topic.
pub trait Event: prost::Message + Default {
    /// The topic; the CloudEvents type is `holdfast.<topic>.v<version>`.
    const TOPIC: &'static str;
    /// Grows only with a change that old readers can't read.
    const VERSION: u32 = 1;
}

impl Event for order::v1::OrderCreated {
    const TOPIC: &'static str = ORDER_CREATED;
}
impl Event for payment::v1::PaymentCompleted {
    const TOPIC: &'static str = PAYMENT_COMPLETED;
}
impl Event for payment::v1::PaymentRefunded {
    const TOPIC: &'static str = PAYMENT_REFUNDED;
}
impl Event for delivery::v1::DeliveryStatusUpdated {
    const TOPIC: &'static str = DELIVERY_STATUS_UPDATED;
}

/// Written by order, read by payment.
pub const ORDER_CREATED: &str = "order.created";
/// Written by payment, read by order and delivery.
pub const PAYMENT_COMPLETED: &str = "payment.completed";
/// Written by payment, read by order.
pub const PAYMENT_REFUNDED: &str = "payment.refunded";
/// Written by delivery, read by order and payment.
pub const DELIVERY_STATUS_UPDATED: &str = "delivery.status.updated";

/// Topic and consumer group of each reading; a group is named after its service.
pub const READINGS: [(&str, &str); 6] = [
    (ORDER_CREATED, "payment"),
    (PAYMENT_COMPLETED, "order"),
    (PAYMENT_COMPLETED, "delivery"),
    (PAYMENT_REFUNDED, "order"),
    (DELIVERY_STATUS_UPDATED, "order"),
    (DELIVERY_STATUS_UPDATED, "payment"),
];

/// The topics that carry events.
pub const EVENT_TOPICS: [&str; 4] =
    [ORDER_CREATED, PAYMENT_COMPLETED, PAYMENT_REFUNDED, DELIVERY_STATUS_UPDATED];

/// The topics that `group` reads.
#[must_use]
pub fn read_by(group: &str) -> Vec<&'static str> {
    READINGS.iter().filter(|(_, reader)| *reader == group).map(|(topic, _)| *topic).collect()
}

/// The full name of the message that a topic carries, for tools that decode events by [`crate::DESCRIPTORS`].
#[must_use]
pub fn message_name(topic: &str) -> Option<&'static str> {
    match topic {
        ORDER_CREATED => Some("holdfast.order.v1.OrderCreated"),
        PAYMENT_COMPLETED => Some("holdfast.payment.v1.PaymentCompleted"),
        PAYMENT_REFUNDED => Some("holdfast.payment.v1.PaymentRefunded"),
        DELIVERY_STATUS_UPDATED => Some("holdfast.delivery.v1.DeliveryStatusUpdated"),
        _ => None,
    }
}
