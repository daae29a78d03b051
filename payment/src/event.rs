//! The events that this service writes.

use holdfast_common::event::NewEvent;
use holdfast_proto::{payment::v1 as pb, to_timestamp};

use crate::{
    domain::{Payment, Status},
    grpc::status_to_proto,
};

/// `payment.completed` as it was written when the payment was decided, also if it was refunded since.
pub(crate) fn completed(payment: &Payment, delivery_address: &str) -> NewEvent {
    let decided = match payment.status {
        Status::InsufficientFunds => Status::InsufficientFunds,
        Status::Success | Status::Refunded => Status::Success,
    };
    let message = pb::PaymentCompleted {
        payment_id: payment.payment_id.to_string(),
        order_id: payment.order_id.to_string(),
        user_id: payment.user_id.to_string(),
        amount: Some(payment.amount.to_proto()),
        status: status_to_proto(decided).into(),
        delivery_address: delivery_address.to_owned(),
        completed_at: Some(to_timestamp(payment.created_at)),
    };
    NewEvent::of(&message, payment.user_id.to_string(), payment.order_id.to_string(), payment.created_at)
}

/// `payment.refunded` for a refunded payment.
pub(crate) fn refunded(payment: &Payment) -> NewEvent {
    let message = pb::PaymentRefunded {
        payment_id: payment.payment_id.to_string(),
        order_id: payment.order_id.to_string(),
        user_id: payment.user_id.to_string(),
        amount: Some(payment.amount.to_proto()),
        refunded_at: Some(to_timestamp(payment.updated_at)),
    };
    NewEvent::of(&message, payment.user_id.to_string(), payment.order_id.to_string(), payment.updated_at)
}
