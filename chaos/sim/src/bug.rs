//! Bugs on purpose: a simulation that has never found one proves nothing by its silence.

/// A way in which the modelled part is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Every event is taken for new.
    NoInbox,
    /// The position moves before the effects are there.
    PositionBeforeCommit,
    /// The relay deletes a row when it sends it.
    DeleteBeforeAcknowledgement,
    /// The relay claims only rows above the last one that it has claimed.
    ClaimAfterLastId,
    /// Later events of a parked one are not parked behind it.
    BlockedNotParked,
    /// A record that must be parked is only counted.
    PoisonDropped,
    /// A redrive goes on after a letter that failed.
    RedriveSkipsFailures,
    /// A refund does not enter the ledger.
    RefundDropped,
    /// Events are not written together with the change that they report.
    EventAfterCommit,
    /// A repeated idempotency key makes a second order.
    KeyForgotten,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::NoInbox,
        Self::PositionBeforeCommit,
        Self::DeleteBeforeAcknowledgement,
        Self::ClaimAfterLastId,
        Self::BlockedNotParked,
        Self::PoisonDropped,
        Self::RedriveSkipsFailures,
        Self::RefundDropped,
        Self::EventAfterCommit,
        Self::KeyForgotten,
    ];
}
