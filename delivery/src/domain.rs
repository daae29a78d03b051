//! What a delivery is and how it moves. Pure: no I/O, no clock, no randomness.

use std::time::Duration;

use holdfast_common::trace::TraceContext;
use holdfast_proto::{OrderId, UserId};
use time::OffsetDateTime;
use uuid::Uuid;

/// The status of a delivery; it moves forward only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Waits for its carrier.
    Pending,
    /// On its way.
    InTransit,
    /// In the last vehicle.
    OutForDelivery,
    /// Arrived; terminal.
    Delivered,
    /// Will not arrive; terminal.
    Failed,
}

impl Status {
    /// Whether nothing comes after it.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Delivered | Self::Failed)
    }
}

/// How deliveries proceed in this installation.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Time from one status to the next.
    pub step: Duration,
    /// Addresses that begin with this are never reached; empty for none.
    pub fail_prefix: String,
    /// How many of a million fail.
    pub fail_per_million: u64,
}

impl Plan {
    /// Whether a delivery will fail. The answer is always the same for the same order.
    #[must_use]
    pub fn will_fail(&self, order_id: OrderId, address: &str) -> bool {
        let unreachable = !self.fail_prefix.is_empty() && address.starts_with(&self.fail_prefix);
        // The last bytes of a UUIDv7 are random.
        let (_, draw) = order_id.as_uuid().as_u64_pair();
        unreachable || draw % 1_000_000 < self.fail_per_million
    }
}

/// A delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id.
    pub delivery_id: Uuid,
    /// What it delivers.
    pub order_id: OrderId,
    /// To whom.
    pub user_id: UserId,
    /// Where to.
    pub delivery_address: String,
    /// Its status.
    pub status: Status,
    /// Decided when it was created.
    pub will_fail: bool,
    /// When it moves on; none once it is terminal.
    pub due_at: Option<OffsetDateTime>,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// When it moved last.
    pub updated_at: OffsetDateTime,
    /// What it was created by: its steps belong to that trace, too.
    pub trace: Option<TraceContext>,
}

impl Delivery {
    /// The delivery of a paid order.
    #[must_use]
    pub fn create(
        delivery_id: Uuid,
        order_id: OrderId,
        user_id: UserId,
        delivery_address: String,
        plan: &Plan,
        now: OffsetDateTime,
    ) -> Self {
        Self {
            delivery_id,
            order_id,
            will_fail: plan.will_fail(order_id, &delivery_address),
            user_id,
            delivery_address,
            status: Status::Pending,
            due_at: Some(now + plan.step),
            created_at: now,
            updated_at: now,
            trace: None,
        }
    }

    /// With the trace of its cause.
    #[must_use]
    pub fn caused_by(self, trace: Option<TraceContext>) -> Self {
        Self { trace, ..self }
    }

    /// Moves one step on if it is due. Returns whether it moved.
    pub fn advance(&mut self, step: Duration, now: OffsetDateTime) -> bool {
        let Some(due_at) = self.due_at.filter(|due_at| *due_at <= now) else { return false };
        self.status = match self.status {
            Status::Pending => Status::InTransit,
            Status::InTransit => Status::OutForDelivery,
            Status::OutForDelivery if self.will_fail => Status::Failed,
            Status::OutForDelivery => Status::Delivered,
            Status::Delivered | Status::Failed => return false,
        };
        self.updated_at = self.updated_at.max(now);
        // Counted from when it was due, so that a late worker doesn't delay all later steps; but never a burst of steps
        // after a long outage.
        self.due_at = (!self.status.is_terminal()).then(|| (due_at + step).max(now));
        true
    }
}

/// An event that contradicts the existing delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("delivery of this order has another user or address")]
pub struct OtherDelivery;

/// Whether a second payment event for an order is a repetition or contradicts the first.
pub fn check_repeated(delivery: &Delivery, user_id: &UserId, address: &str) -> Result<(), OtherDelivery> {
    if delivery.user_id == *user_id && delivery.delivery_address == address {
        Ok(())
    } else {
        Err(OtherDelivery)
    }
}
