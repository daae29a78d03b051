//! The event that reports a step.

use holdfast_common::{event::NewEvent, outbox::OutboxRecord, trace::TraceContext};
use holdfast_proto::{delivery::v1 as pb, to_timestamp, topic::Event as _};
use prost::Message as _;
use uuid::Uuid;

use crate::domain::{Delivery, Status};

/// `delivery.status.updated` for the delivery's current status.
#[must_use]
pub fn status_updated(delivery: &Delivery, trace: Option<TraceContext>) -> OutboxRecord {
    let message = pb::DeliveryStatusUpdated {
        delivery_id: delivery.delivery_id.to_string(),
        order_id: delivery.order_id.to_string(),
        user_id: delivery.user_id.to_string(),
        status: status_to_proto(delivery.status).into(),
        updated_at: Some(to_timestamp(delivery.updated_at)),
    };
    let event = NewEvent {
        id: Uuid::now_v7(),
        topic: pb::DeliveryStatusUpdated::TOPIC,
        version: pb::DeliveryStatusUpdated::VERSION,
        key: delivery.user_id.to_string(),
        subject: delivery.order_id.to_string(),
        time: delivery.updated_at,
        trace,
        payload: message.encode_to_vec(),
    };
    OutboxRecord::from_event(event, "delivery")
}

pub(crate) const fn status_to_proto(status: Status) -> pb::DeliveryStatus {
    match status {
        Status::Pending => pb::DeliveryStatus::Pending,
        Status::InTransit => pb::DeliveryStatus::InTransit,
        Status::OutForDelivery => pb::DeliveryStatus::OutForDelivery,
        Status::Delivered => pb::DeliveryStatus::Delivered,
        Status::Failed => pb::DeliveryStatus::Failed,
    }
}
