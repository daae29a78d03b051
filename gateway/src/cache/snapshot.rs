//! An order at one version: what is pushed to those who watch it, and what is kept of it. It never changes, so it is shared.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use holdfast_proto::{OrderId, UserId, order::v1 as pb};

/// See the module. Its ids are parsed.
#[derive(Debug)]
pub(crate) struct OrderSnapshot {
    pub(crate) order_id: OrderId,
    pub(crate) user_id: UserId,
    /// As the service sent it.
    pub(crate) message: pb::Order,
    /// Written when it is first asked for, and once, however many clients get it.
    json: OnceLock<Bytes>,
}

impl OrderSnapshot {
    /// `None` if the message is not valid, which is a defect of the service.
    pub(crate) fn new(message: pb::Order) -> Option<Self> {
        Some(Self {
            order_id: OrderId::parse(&message.order_id).ok()?,
            user_id: UserId::parse(&message.user_id).ok()?,
            message,
            json: OnceLock::new(),
        })
    }

    pub(crate) const fn version(&self) -> i64 {
        self.message.version
    }

    /// As it was at first: a bug that is planted shows it again later.
    pub(crate) fn as_created(&self) -> Arc<Self> {
        let mut message = self.message.clone();
        message.set_status(pb::OrderStatus::Pending);
        message.set_delivery_status(pb::OrderDeliveryStatus::Unspecified);
        message.version = 1;
        message.updated_at = message.created_at;
        Arc::new(Self {
            order_id: self.order_id,
            user_id: self.user_id.clone(),
            message,
            json: OnceLock::new(),
        })
    }

    /// Whether nothing can change any more.
    pub(crate) fn is_terminal(&self) -> bool {
        match self.message.status() {
            pb::OrderStatus::InsufficientFunds | pb::OrderStatus::Refunded => true,
            pb::OrderStatus::Paid => self.message.delivery_status() == pb::OrderDeliveryStatus::Delivered,
            pb::OrderStatus::Pending | pb::OrderStatus::Unspecified => false,
        }
    }

    /// Whether there will never be a delivery.
    pub(crate) fn is_declined(&self) -> bool {
        self.message.status() == pb::OrderStatus::InsufficientFunds
    }

    /// Its JSON, which `write` makes of the message.
    pub(crate) fn json<E>(&self, write: impl FnOnce(&pb::Order) -> Result<Bytes, E>) -> Result<Bytes, E> {
        if let Some(json) = self.json.get() {
            return Ok(json.clone());
        }
        let json = write(&self.message)?;
        Ok(self.json.get_or_init(|| json).clone())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An order of alice that is pending.
    pub(crate) fn pending(order_id: OrderId, version: i64) -> pb::Order {
        pb::Order {
            order_id: order_id.to_string(),
            user_id: "alice".to_owned(),
            status: pb::OrderStatus::Pending.into(),
            version,
            ..pb::Order::default()
        }
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
            let mut message = pending(OrderId::generate(), 1);
            message.set_status(status);
            message.set_delivery_status(delivery);
            let order = OrderSnapshot::new(message).expect("valid");
            assert_eq!(order.is_terminal(), expected, "{status:?} {delivery:?}");
        }
    }

    /// The JSON is written once, and not kept if it can't be written.
    #[test]
    fn the_json_is_written_once() {
        let order = OrderSnapshot::new(pending(OrderId::generate(), 1)).expect("valid");
        assert_eq!(order.json(|_| Err("no")), Err("no"));
        assert_eq!(order.json::<()>(|_| Ok(Bytes::from_static(b"{}"))), Ok(Bytes::from_static(b"{}")));
        assert_eq!(order.json(|_| Err("again")), Ok(Bytes::from_static(b"{}")));
    }
}
