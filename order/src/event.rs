//! The events that this service publishes.

use holdfast_common::{event::NewEvent, outbox::OutboxRecord, trace::TraceContext};
use holdfast_proto::{order::v1 as pb, to_timestamp};

use crate::domain::{Item, Order};

/// The records to append when an order was created.
#[must_use]
pub fn of_creation(order: &Order, trace: Option<TraceContext>) -> Vec<OutboxRecord> {
    vec![OutboxRecord::from_event(order_created(order, trace), "order")]
}

/// `order.created`.
pub(crate) fn order_created(order: &Order, trace: Option<TraceContext>) -> NewEvent {
    let message = pb::OrderCreated {
        order_id: order.order_id.to_string(),
        user_id: order.user_id.to_string(),
        delivery_address: order.delivery_address.clone(),
        items: order.items.iter().map(item_to_proto).collect(),
        total: Some(order.total.to_proto()),
        created_at: Some(to_timestamp(order.created_at)),
    };
    NewEvent::of(&message, order.user_id.to_string(), order.order_id.to_string(), order.created_at)
        .caused_by(trace)
}

pub(crate) fn item_to_proto(item: &Item) -> pb::OrderItem {
    pb::OrderItem {
        product_id: item.product_id.clone(),
        quantity: item.quantity,
        price: Some(item.price.to_proto()),
    }
}
