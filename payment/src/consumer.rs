//! Turns events of other services into charges and refunds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use holdfast_common::{
    clock,
    consumer::{Accepted, Answer, Class, Handler, Poison, check},
    database::DatabaseError,
    event::{Metadata, NewEvent},
    outbox::OutboxRecord,
    planted::{Bug, planted},
    record::Record,
};
use holdfast_proto::{Currency, Money, OrderId, UserId, delivery::v1 as delivery, order::v1 as order, topic};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    domain::{Account, Entry, Payment, Violation, check_repeated},
    event::{completed, refunded},
    store,
};

/// Handles the events of order and delivery.
#[derive(Debug, Clone, Copy)]
pub struct PaymentEvents;

/// An event for the payment of one order.
#[derive(Debug, Clone)]
pub struct PaymentEvent {
    /// Which one.
    pub order_id: OrderId,
    /// Who pays.
    pub user_id: UserId,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    OrderCreated { total: Money, delivery_address: String },
    DeliveryFailed,
    DeliveryMoved,
}

impl Handler for PaymentEvents {
    type Event = PaymentEvent;
    type Changes = Batch;

    fn versions(&self, topic: &str) -> &'static [u32] {
        match topic {
            topic::ORDER_CREATED | topic::DELIVERY_STATUS_UPDATED => &[1],
            _ => &[],
        }
    }

    fn decode(&self, record: &Record, metadata: &Metadata) -> Result<PaymentEvent, Poison> {
        let (order_id, user_id, kind) = match record.topic.as_str() {
            topic::ORDER_CREATED => {
                let message: order::OrderCreated = check::message(record)?;
                let total = check::field("total", Money::from_proto(message.total.as_ref()))?;
                if total.minor_units <= 0 {
                    return Err(check::violation("total is not positive"));
                }
                let kind = Kind::OrderCreated { total, delivery_address: message.delivery_address };
                (message.order_id, message.user_id, kind)
            }
            topic::DELIVERY_STATUS_UPDATED => {
                let message: delivery::DeliveryStatusUpdated = check::message(record)?;
                let kind = match message.status() {
                    delivery::DeliveryStatus::Failed => Kind::DeliveryFailed,
                    delivery::DeliveryStatus::Unspecified => {
                        return Err(check::violation("status is not known"));
                    }
                    _ => Kind::DeliveryMoved,
                };
                (message.order_id, message.user_id, kind)
            }
            other => return Err(check::not_read(other)),
        };
        check::placed(record, metadata, &user_id, &order_id)?;
        Ok(PaymentEvent {
            order_id: check::field("order_id", OrderId::parse(&order_id))?,
            user_id: check::field("user_id", UserId::parse(&user_id))?,
            kind,
        })
    }

    async fn decide(
        &self,
        connection: &mut PgConnection,
        events: &[Accepted<PaymentEvent>],
    ) -> Result<(Vec<Answer>, Batch), DatabaseError> {
        let mut batch = Batch::load(connection, events).await?;
        let answers = batch.decide(events, clock::now());
        Ok((answers, batch))
    }

    async fn write(&self, connection: &mut PgConnection, batch: Batch) -> Result<(), DatabaseError> {
        batch.save(connection).await
    }
}

/// A batch in memory: what is stored is loaded once, the events are applied to it, and what changed is written once.
#[derive(Debug, Default)]
pub struct Batch {
    /// The accounts that the events touch, as far as they exist.
    pub accounts: HashMap<UserId, Account>,
    /// The payments that they touch, as far as they exist.
    pub payments: HashMap<OrderId, Payment>,
    /// To be written.
    pub entries: Vec<Entry>,
    /// The new payments, with the addresses of their orders.
    pub inserted: BTreeMap<OrderId, String>,
    /// The payments that were refunded.
    pub refunded: BTreeSet<OrderId>,
    /// To be written.
    pub outbox: Vec<OutboxRecord>,
}

impl Batch {
    /// Loads and locks what the events touch: payments first, then accounts, each in a fixed order.
    async fn load(
        connection: &mut PgConnection,
        events: &[Accepted<PaymentEvent>],
    ) -> Result<Self, DatabaseError> {
        let acting = || {
            events
                .iter()
                .map(|accepted| &accepted.event)
                .filter(|event| !matches!(event.kind, Kind::DeliveryMoved))
        };
        let orders: Vec<OrderId> = acting().map(|event| event.order_id).collect();
        let users: BTreeSet<&UserId> = acting().map(|event| &event.user_id).collect();
        let users: Vec<&UserId> = users.into_iter().collect();
        if orders.is_empty() {
            return Ok(Self::default());
        }
        let (payments, accounts) = store::lock_payments_and_accounts(connection, &orders, &users).await?;
        Ok(Self { accounts, payments, ..Self::default() })
    }

    /// Applies `events` in order to what is in memory, and returns an answer for each. Pure.
    pub fn decide(&mut self, events: &[Accepted<PaymentEvent>], now: OffsetDateTime) -> Vec<Answer> {
        let answer =
            |accepted: &Accepted<PaymentEvent>| match self.apply(&accepted.event, &accepted.metadata, now) {
                Ok(()) => Answer::Applied,
                Err(violation) => {
                    Answer::DeadLetter(Poison::new(Class::BusinessInvariant, violation.to_string()))
                }
            };
        events.iter().map(answer).collect()
    }

    fn apply(
        &mut self,
        event: &PaymentEvent,
        metadata: &Metadata,
        now: OffsetDateTime,
    ) -> Result<(), Violation> {
        match &event.kind {
            Kind::DeliveryMoved => Ok(()),
            Kind::OrderCreated { total, delivery_address } => {
                if let Some(payment) = self.payments.get(&event.order_id) {
                    return check_repeated(payment, &event.user_id, *total);
                }
                // A user without an account has no money; there is no need to store an account for that.
                let account = self
                    .accounts
                    .entry(event.user_id.clone())
                    .or_insert_with(|| Account::empty(event.user_id.clone(), Currency::EUR));
                let (payment, entry) = account.charge(Uuid::now_v7(), event.order_id, *total, now)?;
                self.entries.extend(entry);
                self.emit(completed(&payment, delivery_address), metadata);
                self.inserted.insert(event.order_id, delivery_address.clone());
                self.payments.insert(event.order_id, payment);
                Ok(())
            }
            Kind::DeliveryFailed => {
                let payment = self.payments.get_mut(&event.order_id);
                let Some(payment) = payment.filter(|payment| payment.user_id == event.user_id) else {
                    return Err(Violation::NeverCharged);
                };
                let account = self.accounts.get_mut(&event.user_id).ok_or(Violation::NeverCharged)?;
                if let Some(entry) = account.refund(payment, now)? {
                    if !planted(Bug::DroppedRefund) {
                        self.entries.push(entry);
                    }
                    self.refunded.insert(event.order_id);
                    let event = refunded(payment);
                    self.emit(event, metadata);
                }
                Ok(())
            }
        }
    }

    /// Queues an event for the outbox.
    fn emit(&mut self, event: NewEvent, cause: &Metadata) {
        self.outbox.push(OutboxRecord::from_event(event.caused_by(cause.trace), "payment"));
    }

    async fn save(self, connection: &mut PgConnection) -> Result<(), DatabaseError> {
        let touched: BTreeSet<&UserId> = self.entries.iter().map(|entry| &entry.user_id).collect();
        let accounts: Vec<&Account> = touched.iter().filter_map(|user| self.accounts.get(*user)).collect();
        let new = self.inserted.iter();
        let new: Vec<_> =
            new.filter_map(|(id, address)| Some((self.payments.get(id)?, address.as_str()))).collect();
        // One that was created and refunded in this batch was inserted in its final state.
        let old = self.refunded.iter().filter(|id| !self.inserted.contains_key(id));
        let old: Vec<_> = old.filter_map(|id| self.payments.get(id)).collect();
        store::update_payments(connection, &old).await?;
        let changes = store::Changes { accounts, entries: &self.entries, payments: new, events: self.outbox };
        store::save(connection, changes).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the contract says that this service reads is what its decoder knows.
    #[test]
    fn what_is_read_is_decoded() {
        check::reads(&PaymentEvents, "payment");
    }
}
