//! What an order is and how it changes. Pure: no I/O, no clock, no randomness.
//!
//! Events of several topics arrive in any order and more than once. [`Order::apply`] is written so that any arrival order
//! of the same events ends in the same order: statuses have ranks and only rise, and an event that proves an earlier
//! one (a delivery proves the payment) brings its effect along.

use holdfast_proto::{
    Currency, Money, MoneyError, OrderId, UserId,
    limits::{
        ADDRESS_CHARS_MAX, AMOUNT_MINOR_MAX, ITEMS_MAX, PRODUCT_ID_CHARS_MAX, QUANTITY_MAX, is_address,
        is_product_id,
    },
};
use time::OffsetDateTime;

/// The status of an order; ranks rise only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Payment not decided.
    Pending,
    /// Charged.
    Paid,
    /// Not charged; terminal.
    InsufficientFunds,
    /// Charged and refunded; terminal.
    Refunded,
}

/// What the order knows of its delivery; ranks rise only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// Waits for its carrier.
    Pending,
    /// On its way.
    InTransit,
    /// In the last vehicle.
    OutForDelivery,
    /// Arrived; terminal.
    Delivered,
    /// Will not arrive; terminal, the payment is returned.
    Failed,
}

impl DeliveryStatus {
    const fn rank(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::InTransit => 1,
            Self::OutForDelivery => 2,
            Self::Delivered | Self::Failed => 3,
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Which product.
    pub product_id: String,
    /// How many pieces.
    pub quantity: u32,
    /// Price of one piece.
    pub price: Money,
}

/// A request to create an order, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Whose order it will be.
    pub user_id: UserId,
    /// Where it goes.
    pub delivery_address: String,
    /// At least one.
    pub items: Vec<Item>,
    /// Sum of the lines.
    pub total: Money,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// No lines, or too many.
    #[error("items must have 1 to {ITEMS_MAX} entries")]
    Items,
    /// A product id breaks its limits.
    #[error("items[{0}].product_id must be 1 to {PRODUCT_ID_CHARS_MAX} of A-Z a-z 0-9 . _ : -")]
    ProductId(usize),
    /// A quantity breaks its limits.
    #[error("items[{0}].quantity must be 1 to {QUANTITY_MAX}")]
    Quantity(usize),
    /// A price breaks its limits.
    #[error("items[{0}].price must be 0.01 to 1000000.00")]
    Price(usize),
    /// A price in a currency in which nobody has an account: it could never be paid.
    #[error("items[{0}].price must be in {currency}", currency = Currency::EUR)]
    Currency(usize),
    /// The lines can't be summed.
    #[error("the total {0}")]
    Total(#[source] MoneyError),
    /// The address breaks its limits.
    #[error(
        "delivery_address must be 1 to {ADDRESS_CHARS_MAX} characters, not blank, without control characters"
    )]
    Address,
}

impl Draft {
    /// Checks everything that the contract says about an order.
    pub fn new(user_id: UserId, delivery_address: String, items: Vec<Item>) -> Result<Self, DraftError> {
        if items.is_empty() || items.len() > ITEMS_MAX {
            return Err(DraftError::Items);
        }
        if !is_address(&delivery_address) {
            return Err(DraftError::Address);
        }
        let mut total: Option<Money> = None;
        for (index, item) in items.iter().enumerate() {
            if !is_product_id(&item.product_id) {
                return Err(DraftError::ProductId(index));
            }
            if !(1..=QUANTITY_MAX).contains(&item.quantity) {
                return Err(DraftError::Quantity(index));
            }
            if item.price.currency != Currency::EUR {
                return Err(DraftError::Currency(index));
            }
            if !(1..=AMOUNT_MINOR_MAX).contains(&item.price.minor_units) {
                return Err(DraftError::Price(index));
            }
            let line = item.price.checked_mul(item.quantity).map_err(DraftError::Total)?;
            total = Some(match total {
                Some(total) => total.checked_add(line).map_err(DraftError::Total)?,
                None => line,
            });
        }
        let total = total.ok_or(DraftError::Items)?;
        Ok(Self { user_id, delivery_address, items, total })
    }

    /// The content as unambiguous bytes, for the fingerprint stored with an idempotency key.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |part: &[u8]| {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        };
        put(self.user_id.as_str().as_bytes());
        put(self.delivery_address.as_bytes());
        put(self.total.currency.as_str().as_bytes());
        for item in &self.items {
            put(item.product_id.as_bytes());
            put(&item.quantity.to_be_bytes());
            put(&item.price.minor_units.to_be_bytes());
        }
        bytes
    }
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its id.
    pub order_id: OrderId,
    /// Whose it is.
    pub user_id: UserId,
    /// Payment side.
    pub status: Status,
    /// Delivery side, once there is one.
    pub delivery_status: Option<DeliveryStatus>,
    /// As it was sent.
    pub delivery_address: String,
    /// As they were sent.
    pub items: Vec<Item>,
    /// Sum of the lines.
    pub total: Money,
    /// 1 when created, one more with each change.
    pub version: i64,
    /// When it was accepted.
    pub created_at: OffsetDateTime,
    /// When it changed last.
    pub updated_at: OffsetDateTime,
}

/// What other services report about an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Charged.
    Charged(Money),
    /// Not charged for lack of funds.
    Declined,
    /// The charge was returned.
    Refunded(Money),
    /// The delivery moved.
    Delivery(DeliveryStatus),
}

/// An event that contradicts the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Charged or delivered after it was declined, or declined after that.
    #[error("payment was decided the other way")]
    PaymentDecided,
    /// The delivery has ended differently before.
    #[error("delivery ended in another way")]
    DeliveryEnded,
    /// An amount other than the order's total.
    #[error("amount is not the order's total")]
    Amount,
}

/// What an event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The order is different now.
    Changed,
    /// It was late or repeated.
    Nothing,
}

impl Order {
    /// Whether its payment is still to be decided.
    #[must_use]
    pub const fn is_undecided(&self) -> bool {
        matches!(self.status, Status::Pending)
    }

    /// A new order.
    #[must_use]
    pub fn create(order_id: OrderId, draft: Draft, now: OffsetDateTime) -> Self {
        Self {
            order_id,
            user_id: draft.user_id,
            status: Status::Pending,
            delivery_status: None,
            delivery_address: draft.delivery_address,
            items: draft.items,
            total: draft.total,
            version: 1,
            created_at: now,
            updated_at: now,
        }
    }

    /// The order as it was when it was created: the answer to a repeated request.
    #[must_use]
    pub fn as_created(mut self) -> Self {
        self.status = Status::Pending;
        self.delivery_status = None;
        self.version = 1;
        self.updated_at = self.created_at;
        self
    }

    /// Whether nothing can change any more.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        match self.status {
            Status::InsufficientFunds | Status::Refunded => true,
            Status::Paid => self.delivery_status == Some(DeliveryStatus::Delivered),
            Status::Pending => false,
        }
    }

    /// Applies an event. A late or repeated one changes nothing; one that contradicts the order is refused.
    pub fn apply(&mut self, event: Event, now: OffsetDateTime) -> Result<Change, Violation> {
        let before = (self.status, self.delivery_status);
        let (status, delivery_status) = self.after(event)?;
        if (status, delivery_status) == before {
            return Ok(Change::Nothing);
        }
        (self.status, self.delivery_status) = (status, delivery_status);
        self.version += 1;
        // Never backwards, even if the clock goes backwards.
        self.updated_at = self.updated_at.max(now);
        Ok(Change::Changed)
    }

    fn after(&self, event: Event) -> Result<(Status, Option<DeliveryStatus>), Violation> {
        let declined = self.status == Status::InsufficientFunds;
        if let Event::Charged(amount) | Event::Refunded(amount) = event
            && amount != self.total
        {
            return Err(Violation::Amount);
        }
        match event {
            Event::Charged(_) | Event::Refunded(_) | Event::Delivery(_) if declined => {
                Err(Violation::PaymentDecided)
            }
            Event::Declined if declined || self.status == Status::Pending => {
                Ok((Status::InsufficientFunds, self.delivery_status))
            }
            Event::Declined => Err(Violation::PaymentDecided),
            Event::Charged(_) => Ok((self.at_least_paid(), self.delivery_status)),
            Event::Refunded(_) => {
                if self.delivery_status == Some(DeliveryStatus::Delivered) {
                    return Err(Violation::DeliveryEnded);
                }
                // Only a failed delivery is refunded, so this implies it.
                Ok((Status::Refunded, Some(DeliveryStatus::Failed)))
            }
            // There is a delivery, so the order was paid, even if that event is still on its way.
            Event::Delivery(new) => match self.delivery_status {
                Some(old) if old.rank() == 3 && new.rank() == 3 && old != new => {
                    Err(Violation::DeliveryEnded)
                }
                Some(old) if old.rank() >= new.rank() => Ok((self.at_least_paid(), Some(old))),
                _ => Ok((self.at_least_paid(), Some(new))),
            },
        }
    }

    fn at_least_paid(&self) -> Status {
        if self.status == Status::Pending { Status::Paid } else { self.status }
    }
}
