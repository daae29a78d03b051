//! An order as a commit left it.

use holdfast_proto::{OrderId, UserId, from_timestamp, order::v1 as pb};
use time::OffsetDateTime;

/// A change that was pushed, or a state that was read. Its ids are parsed and its order is there.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(super) order_id: OrderId,
    pub(super) user_id: UserId,
    /// Of this change among all of its user; 0 where it is not known.
    pub(crate) position: i64,
    /// The version that it has replaced; 0 if there was none, or it was read.
    pub(super) previous_version: i64,
    /// The order.
    pub(crate) order: pb::Order,
    /// When it was committed, if it was pushed.
    pub(super) committed_at: Option<OffsetDateTime>,
}

impl Change {
    /// `None` if the message is not valid, which is a defect of the service.
    pub(super) fn pushed(message: pb::OrderChange, committed_at: Option<OffsetDateTime>) -> Option<Self> {
        let order = message.order?;
        Some(Self {
            order_id: OrderId::parse(&order.order_id).ok()?,
            user_id: UserId::parse(&order.user_id).ok()?,
            position: message.position,
            previous_version: message.previous_version,
            order,
            committed_at,
        })
    }

    /// A state that was read: whatever came before it doesn't matter.
    pub(super) fn read(order: pb::Order, position: i64) -> Option<Self> {
        Self::pushed(pb::OrderChange { order: Some(order), position, previous_version: 0 }, None)
    }

    /// Everything that one commit has changed.
    pub(super) fn of_commit(message: pb::WatchOrdersResponse) -> impl Iterator<Item = Option<Self>> {
        let committed_at = from_timestamp(message.committed_at.as_ref());
        message.changes.into_iter().map(move |change| Self::pushed(change, committed_at))
    }

    pub(crate) fn version(&self) -> i64 {
        self.order.version
    }

    /// Whether nothing can change any more.
    pub(super) fn is_terminal(&self) -> bool {
        match self.order.status() {
            pb::OrderStatus::InsufficientFunds | pb::OrderStatus::Refunded => true,
            pb::OrderStatus::Paid => self.order.delivery_status() == pb::OrderDeliveryStatus::Delivered,
            pb::OrderStatus::Pending | pb::OrderStatus::Unspecified => false,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A change of an order of alice, as it is pushed.
    pub(crate) fn change(order_id: OrderId, position: i64, version: i64) -> Change {
        let order = pb::Order {
            order_id: order_id.to_string(),
            user_id: "alice".to_owned(),
            status: pb::OrderStatus::Pending.into(),
            version,
            ..pb::Order::default()
        };
        let message = pb::OrderChange { order: Some(order), position, previous_version: version - 1 };
        Change::pushed(message, None).expect("valid")
    }

    /// An order has ended when nothing can change any more: a failed delivery is still to be refunded.
    #[test]
    fn an_order_ends_when_nothing_can_change() {
        use pb::{OrderDeliveryStatus as Delivery, OrderStatus as Status};
        for (status, delivery, expected) in [
            (Status::Pending, Delivery::Unspecified, false),
            (Status::Paid, Delivery::OutForDelivery, false),
            (Status::Paid, Delivery::Failed, false),
            (Status::Paid, Delivery::Delivered, true),
            (Status::InsufficientFunds, Delivery::Unspecified, true),
            (Status::Refunded, Delivery::Failed, true),
        ] {
            let mut change = change(OrderId::generate(), 1, 1);
            change.order.set_status(status);
            change.order.set_delivery_status(delivery);
            assert_eq!(change.is_terminal(), expected, "{status:?} {delivery:?}");
        }
    }
}
