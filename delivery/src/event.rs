//! The event that reports a step.

use holdfast_common::{event::NewEvent, trace::TraceContext};
use holdfast_proto::{delivery::v1 as pb, to_timestamp};

use crate::domain::{Delivery, Status};

/// `delivery.status.updated` for the delivery's current status.
#[must_use]
pub fn status_updated(delivery: &Delivery, trace: Option<TraceContext>) -> NewEvent {
    let message = pb::DeliveryStatusUpdated {
        delivery_id: delivery.delivery_id.to_string(),
        order_id: delivery.order_id.to_string(),
        user_id: delivery.user_id.to_string(),
        status: status_to_proto(delivery.status).into(),
        updated_at: Some(to_timestamp(delivery.updated_at)),
    };
    NewEvent::of(&message, delivery.user_id.to_string(), delivery.order_id.to_string(), delivery.updated_at)
        .caused_by(trace)
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
