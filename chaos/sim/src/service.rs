//! The tables of the three services in memory, and their own decisions on them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use holdfast_common::{
    consumer::{Accepted, Answer, Handler},
    database::DatabaseError,
    outbox::OutboxRecord,
};
use holdfast_delivery::{
    consumer::{DeliveryEvents, PaymentDecided},
    domain::{Delivery, Plan},
};
use holdfast_order::{
    consumer::{OrderEvent, OrderEvents},
    domain::Order,
};
use holdfast_payment::{
    consumer::{Batch, PaymentEvent, PaymentEvents},
    domain::{Account, Entry, EntryKind, Payment},
};
use holdfast_proto::{OrderId, UserId};
use time::OffsetDateTime;

use crate::bug::Bug;

/// What the handler of a service decided in a transaction that is not committed yet.
#[derive(Debug)]
pub struct Decision<C> {
    /// One for each event.
    pub answers: Vec<Answer>,
    /// To its own rows.
    pub changes: C,
    /// The events that report them.
    pub outbox: Vec<OutboxRecord>,
}

/// The tables of a service.
pub trait Tables {
    /// Decodes its events.
    type Handler: Handler;
    /// What a transaction writes.
    type Changes;

    /// Its decoder.
    fn handler(&self) -> &Self::Handler;

    /// Loads what the events touch, and has the service decide.
    fn decide(&self, events: &[Accepted<EventOf<Self>>], now: OffsetDateTime) -> Decision<Self::Changes>;

    /// Writes what was decided.
    fn save(&mut self, changes: Self::Changes, bug: Option<Bug>) -> Result<(), DatabaseError>;
}

/// The events that a service handles.
pub type EventOf<T> = <<T as Tables>::Handler as Handler>::Event;

/// Those of order.
#[derive(Debug, Default)]
pub struct Orders {
    handler: OrderEvents,
    /// By id.
    pub orders: BTreeMap<OrderId, Order>,
    /// By the number of the client's key.
    pub keys: BTreeMap<usize, OrderId>,
}

impl Tables for Orders {
    type Handler = OrderEvents;
    type Changes = Vec<Order>;

    fn handler(&self) -> &OrderEvents {
        &self.handler
    }

    fn decide(&self, events: &[Accepted<OrderEvent>], now: OffsetDateTime) -> Decision<Vec<Order>> {
        let ids = events.iter().map(|accepted| accepted.event.order_id);
        let mut orders = load(&self.orders, ids);
        let (answers, changed) = holdfast_order::consumer::decide(&mut orders, events, now);
        let changes = changed.iter().filter_map(|id| orders.remove(id)).collect();
        Decision { answers, changes, outbox: Vec::new() }
    }

    fn save(&mut self, changes: Vec<Order>, _: Option<Bug>) -> Result<(), DatabaseError> {
        self.orders.extend(changes.into_iter().map(|order| (order.order_id, order)));
        Ok(())
    }
}

/// Those of payment.
#[derive(Debug)]
pub struct Payments {
    handler: PaymentEvents,
    /// By user.
    pub accounts: BTreeMap<UserId, Account>,
    /// By order, of which each has one.
    pub payments: BTreeMap<OrderId, Payment>,
    /// In the order in which they were written.
    pub entries: Vec<Entry>,
}

impl Default for Payments {
    fn default() -> Self {
        Self {
            handler: PaymentEvents,
            accounts: BTreeMap::new(),
            payments: BTreeMap::new(),
            entries: Vec::new(),
        }
    }
}

impl Tables for Payments {
    type Handler = PaymentEvents;
    type Changes = Batch;

    fn handler(&self) -> &PaymentEvents {
        &self.handler
    }

    fn decide(&self, events: &[Accepted<PaymentEvent>], now: OffsetDateTime) -> Decision<Batch> {
        let mut batch = Batch {
            accounts: load(&self.accounts, events.iter().map(|accepted| accepted.event.user_id.clone())),
            payments: load(&self.payments, events.iter().map(|accepted| accepted.event.order_id)),
            ..Batch::default()
        };
        let answers = batch.decide(events, now);
        let outbox = std::mem::take(&mut batch.outbox);
        Decision { answers, changes: batch, outbox }
    }

    fn save(&mut self, mut batch: Batch, bug: Option<Bug>) -> Result<(), DatabaseError> {
        if bug == Some(Bug::RefundDropped) {
            batch.entries.retain(|entry| !matches!(entry.kind, EntryKind::Refund(_)));
        }
        // As the unique index has it: one payment per order.
        if batch.inserted.keys().any(|id| self.payments.contains_key(id)) {
            return Err(DatabaseError::Corrupt("a second payment of an order".into()));
        }
        let touched: BTreeSet<&UserId> = batch.entries.iter().map(|entry| &entry.user_id).collect();
        for user in touched {
            // A user without an account has nothing that could change.
            if let (Some(new), Some(old)) = (batch.accounts.remove(user), self.accounts.get_mut(user)) {
                *old = new;
            }
        }
        self.entries.extend(batch.entries);
        let written = batch.inserted.keys().chain(&batch.refunded);
        self.payments.extend(written.filter_map(|id| Some((*id, batch.payments.remove(id)?))));
        Ok(())
    }
}

/// Those of delivery.
#[derive(Debug)]
pub struct Deliveries {
    handler: DeliveryEvents,
    /// How deliveries proceed.
    pub plan: Plan,
    /// By order, of which each has one.
    pub deliveries: BTreeMap<OrderId, Delivery>,
}

impl Deliveries {
    /// None yet.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self { handler: DeliveryEvents::new(plan.clone()), plan, deliveries: BTreeMap::new() }
    }
}

impl Tables for Deliveries {
    type Handler = DeliveryEvents;
    type Changes = Vec<Delivery>;

    fn handler(&self) -> &DeliveryEvents {
        &self.handler
    }

    fn decide(&self, events: &[Accepted<PaymentDecided>], now: OffsetDateTime) -> Decision<Vec<Delivery>> {
        let ids = events.iter().map(|accepted| accepted.event.order_id);
        let mut deliveries = load(&self.deliveries, ids);
        let decided = holdfast_delivery::consumer::decide(&self.plan, &mut deliveries, events, now);
        Decision { answers: decided.answers, changes: decided.new, outbox: decided.outbox }
    }

    fn save(&mut self, changes: Vec<Delivery>, _: Option<Bug>) -> Result<(), DatabaseError> {
        for delivery in changes {
            // As the unique index has it.
            if self.deliveries.contains_key(&delivery.order_id) {
                return Err(DatabaseError::Corrupt("a second delivery of an order".into()));
            }
            self.deliveries.insert(delivery.order_id, delivery);
        }
        Ok(())
    }
}

fn load<K: Ord + std::hash::Hash + Clone, V: Clone>(
    table: &BTreeMap<K, V>,
    keys: impl Iterator<Item = K>,
) -> HashMap<K, V> {
    keys.filter_map(|key| table.get(&key).cloned().map(|row| (key, row))).collect()
}
