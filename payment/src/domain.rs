//! Accounts and payments, and what may happen to them. Pure: no I/O, no clock, no randomness.

use holdfast_proto::{Currency, Money, OrderId, UserId, limits::AMOUNT_MINOR_MAX};
use time::OffsetDateTime;
use uuid::Uuid;

/// Largest balance, in cents: far above any sum of credits, far below the end of `i64`.
pub const BALANCE_MINOR_MAX: i64 = 1_000_000_000_000_000;

/// The status of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Charged once.
    Success,
    /// Not charged; terminal.
    InsufficientFunds,
    /// Charged once and refunded once; terminal.
    Refunded,
}

/// The payment of one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// Its id.
    pub payment_id: Uuid,
    /// What it is for.
    pub order_id: OrderId,
    /// Who pays.
    pub user_id: UserId,
    /// The order's total.
    pub amount: Money,
    /// How it went.
    pub status: Status,
    /// When it was decided.
    pub created_at: OffsetDateTime,
    /// When it changed last.
    pub updated_at: OffsetDateTime,
}

/// The current state of an account. A user without an account has a balance of zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Whose it is.
    pub user_id: UserId,
    /// Never negative.
    pub balance: Money,
}

/// Why a balance changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Balance at the start of a development stack.
    Opening,
    /// Money paid in.
    Credit,
    /// An order was paid.
    Charge(OrderId),
    /// A charge was refunded.
    Refund(OrderId),
}

/// One change of a balance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose balance.
    pub user_id: UserId,
    /// Why.
    pub kind: EntryKind,
    /// Signed: a charge is negative.
    pub amount: Money,
    /// The balance after it.
    pub balance_after: Money,
    /// When.
    pub created_at: OffsetDateTime,
}

/// Why something can't be done with an account or payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Amounts of money that moves are positive.
    #[error("amount is not positive")]
    Amount,
    /// A single credit is limited.
    #[error("amount must be 0.01 to 1000000.00")]
    CreditAmount,
    /// A currency other than the account's.
    #[error("currency is not the account's")]
    Currency,
    /// The balance would exceed its limit.
    #[error("balance would pass its limit")]
    BalanceLimit,
    /// The order was paid by another user or with another amount.
    #[error("payment of this order has another user or amount")]
    OtherPayment,
    /// A refund for an order that was never charged.
    #[error("order was never charged")]
    NeverCharged,
}

impl Account {
    /// An account with nothing in it.
    #[must_use]
    pub const fn empty(user_id: UserId, currency: Currency) -> Self {
        Self { user_id, balance: Money::new(0, currency) }
    }

    /// Decides the payment of an order. With enough money the balance falls and there is a ledger entry; otherwise
    /// nothing is charged, and that is final.
    pub fn charge(
        &mut self,
        payment_id: Uuid,
        order_id: OrderId,
        amount: Money,
        now: OffsetDateTime,
    ) -> Result<(Payment, Option<Entry>), Violation> {
        if amount.minor_units <= 0 {
            return Err(Violation::Amount);
        }
        if amount.currency != self.balance.currency {
            return Err(Violation::Currency);
        }
        let (status, entry) = if self.balance.minor_units >= amount.minor_units {
            (Status::Success, Some(self.book(EntryKind::Charge(order_id), -amount.minor_units, now)?))
        } else {
            (Status::InsufficientFunds, None)
        };
        let payment = Payment {
            payment_id,
            order_id,
            user_id: self.user_id.clone(),
            amount,
            status,
            created_at: now,
            updated_at: now,
        };
        Ok((payment, entry))
    }

    /// Pays money in.
    pub fn credit(
        &mut self,
        kind: EntryKind,
        amount: Money,
        now: OffsetDateTime,
    ) -> Result<Entry, Violation> {
        if amount.currency != self.balance.currency {
            return Err(Violation::Currency);
        }
        let limit = if kind == EntryKind::Credit { AMOUNT_MINOR_MAX } else { BALANCE_MINOR_MAX };
        if !(1..=limit).contains(&amount.minor_units) {
            return Err(Violation::CreditAmount);
        }
        self.book(kind, amount.minor_units, now)
    }

    /// Refunds the charge of a payment, once.
    pub fn refund(&mut self, payment: &mut Payment, now: OffsetDateTime) -> Result<Option<Entry>, Violation> {
        match payment.status {
            Status::Refunded => Ok(None),
            Status::InsufficientFunds => Err(Violation::NeverCharged),
            Status::Success => {
                let entry =
                    self.book(EntryKind::Refund(payment.order_id), payment.amount.minor_units, now)?;
                payment.status = Status::Refunded;
                payment.updated_at = payment.updated_at.max(now);
                Ok(Some(entry))
            }
        }
    }

    fn book(&mut self, kind: EntryKind, minor_units: i64, now: OffsetDateTime) -> Result<Entry, Violation> {
        let balance = self
            .balance
            .minor_units
            .checked_add(minor_units)
            .filter(|balance| (0..=BALANCE_MINOR_MAX).contains(balance))
            .ok_or(Violation::BalanceLimit)?;
        self.balance.minor_units = balance;
        Ok(Entry {
            user_id: self.user_id.clone(),
            kind,
            amount: Money::new(minor_units, self.balance.currency),
            balance_after: self.balance,
            created_at: now,
        })
    }
}

/// Whether a second order event for an existing payment is a repetition (nothing happens) or contradicts it.
pub fn check_repeated(payment: &Payment, user_id: &UserId, amount: Money) -> Result<(), Violation> {
    if payment.user_id == *user_id && payment.amount == amount {
        Ok(())
    } else {
        Err(Violation::OtherPayment)
    }
}
