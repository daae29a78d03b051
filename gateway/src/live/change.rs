//! An order as a commit left it.

use std::sync::Arc;

use holdfast_proto::{from_timestamp, order::v1 as pb};
use time::OffsetDateTime;

use crate::cache::OrderSnapshot;

/// A change that was pushed, or a state that was read.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// Of this change among all of its user; 0 where it is not known.
    pub(crate) position: i64,
    /// The version that it has replaced; 0 if there was none, or it was read.
    pub(super) previous_version: i64,
    /// The order.
    pub(crate) order: Arc<OrderSnapshot>,
    /// When it was committed, if it was pushed.
    pub(super) committed_at: Option<OffsetDateTime>,
}

impl Change {
    /// `None` if the message is not valid, which is a defect of the service.
    pub(super) fn pushed(message: pb::OrderChange, committed_at: Option<OffsetDateTime>) -> Option<Self> {
        Some(Self {
            position: message.position,
            previous_version: message.previous_version,
            order: Arc::new(OrderSnapshot::new(message.order?)?),
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
        self.order.version()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use holdfast_proto::OrderId;

    use super::*;
    use crate::cache::snapshot::tests::pending;

    /// A change of an order of alice, as it is pushed.
    pub(crate) fn change(order_id: OrderId, position: i64, version: i64) -> Change {
        let order = Some(pending(order_id, version));
        let message = pb::OrderChange { order, position, previous_version: version - 1 };
        Change::pushed(message, None).expect("valid")
    }
}
