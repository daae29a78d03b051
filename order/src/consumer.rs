//! Turns events of other services into changes of orders.

use std::collections::{BTreeSet, HashMap};

use holdfast_common::{
    clock,
    consumer::{Accepted, Answer, Class, Handler, Poison, check},
    database::{DatabaseError, after_commit},
    event::Metadata,
    metric::ORDER_PAYMENT_SECONDS,
    record::Record,
};
use holdfast_proto::{Money, OrderId, UserId, delivery::v1 as delivery, payment::v1 as payment, topic};
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::{
    changes::Changes,
    domain::{Change, DeliveryStatus, Event, Order},
    store,
};

/// Handles the events of payment and delivery.
#[derive(Debug, Clone, Default)]
pub struct OrderEvents {
    changes: Changes,
}

impl OrderEvents {
    /// Announces what changes.
    #[must_use]
    pub const fn new(changes: Changes) -> Self {
        Self { changes }
    }
}

/// An event for one order.
#[derive(Debug, Clone)]
pub struct OrderEvent {
    /// Which one.
    pub order_id: OrderId,
    user_id: UserId,
    event: Event,
}

/// What events change.
#[derive(Debug)]
pub struct ChangedByEvents {
    orders: Vec<Order>,
    /// Their versions before.
    before: HashMap<OrderId, i64>,
    /// How long payments took from the orders' creation.
    payment_times: Vec<time::Duration>,
}

impl Handler for OrderEvents {
    type Event = OrderEvent;
    type Changes = ChangedByEvents;

    fn versions(&self, topic: &str) -> &'static [u32] {
        match topic {
            topic::PAYMENT_COMPLETED | topic::PAYMENT_REFUNDED | topic::DELIVERY_STATUS_UPDATED => &[1],
            _ => &[],
        }
    }

    fn decode(&self, record: &Record, metadata: &Metadata) -> Result<OrderEvent, Poison> {
        let (order_id, user_id, event) = match record.topic.as_str() {
            topic::PAYMENT_COMPLETED => {
                let message: payment::PaymentCompleted = check::message(record)?;
                let amount = check::field("amount", Money::from_proto(message.amount.as_ref()))?;
                let event = match message.status() {
                    payment::PaymentStatus::Success => Event::Charged(amount),
                    payment::PaymentStatus::InsufficientFunds => Event::Declined,
                    _ => return Err(check::violation("status is not valid for this event")),
                };
                (message.order_id, message.user_id, event)
            }
            topic::PAYMENT_REFUNDED => {
                let message: payment::PaymentRefunded = check::message(record)?;
                let amount = check::field("amount", Money::from_proto(message.amount.as_ref()))?;
                (message.order_id, message.user_id, Event::Refunded(amount))
            }
            topic::DELIVERY_STATUS_UPDATED => {
                let message: delivery::DeliveryStatusUpdated = check::message(record)?;
                let status = match message.status() {
                    delivery::DeliveryStatus::Pending => DeliveryStatus::Pending,
                    delivery::DeliveryStatus::InTransit => DeliveryStatus::InTransit,
                    delivery::DeliveryStatus::OutForDelivery => DeliveryStatus::OutForDelivery,
                    delivery::DeliveryStatus::Delivered => DeliveryStatus::Delivered,
                    delivery::DeliveryStatus::Failed => DeliveryStatus::Failed,
                    delivery::DeliveryStatus::Unspecified => {
                        return Err(check::violation("status is not known"));
                    }
                };
                (message.order_id, message.user_id, Event::Delivery(status))
            }
            other => return Err(check::not_read(other)),
        };
        check::placed(record, metadata, &user_id, &order_id)?;
        Ok(OrderEvent {
            order_id: check::field("order_id", OrderId::parse(&order_id))?,
            user_id: check::field("user_id", UserId::parse(&user_id))?,
            event,
        })
    }

    async fn decide(
        &self,
        connection: &mut PgConnection,
        events: &[Accepted<OrderEvent>],
    ) -> Result<(Vec<Answer>, ChangedByEvents), DatabaseError> {
        let ids: Vec<OrderId> = events.iter().map(|accepted| accepted.event.order_id).collect();
        let mut orders = store::lock_orders(connection, &ids).await?;
        let before = orders.iter().map(|(id, order)| (*id, order.version)).collect();
        let undecided: BTreeSet<OrderId> =
            orders.values().filter(|order| order.is_undecided()).map(|order| order.order_id).collect();
        let now = clock::now();
        let (answers, changed) = decide(&mut orders, events, now);
        let decided = undecided.iter().filter_map(|id| orders.get(id)).filter(|order| !order.is_undecided());
        let payment_times = decided.map(|order| now - order.created_at).collect();
        let orders = changed.iter().filter_map(|id| orders.remove(id)).collect();
        Ok((answers, ChangedByEvents { orders, before, payment_times }))
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        changes: ChangedByEvents,
    ) -> Result<(), DatabaseError> {
        let ChangedByEvents { orders, before, payment_times } = changes;
        report_after_commit(payment_times);
        let changed = store::update_orders(connection, &orders, &before).await?;
        self.changes.announce_after_commit(changed);
        Ok(())
    }
}

/// Applies `events` to `orders`, which are those of them that exist. Returns an answer for each event, and which orders
/// changed. Pure.
#[expect(clippy::implicit_hasher, reason = "only our own callers")]
pub fn decide(
    orders: &mut HashMap<OrderId, Order>,
    events: &[Accepted<OrderEvent>],
    now: OffsetDateTime,
) -> (Vec<Answer>, BTreeSet<OrderId>) {
    let mut changed = BTreeSet::new();
    let mut answers = Vec::with_capacity(events.len());
    for Accepted { event, .. } in events {
        // The order is stored before its first event is published, so an unknown one was never ours.
        let order = orders.get_mut(&event.order_id);
        let Some(order) = order.filter(|order| order.user_id == event.user_id) else {
            answers.push(refuse("no such order of this user"));
            continue;
        };
        match order.apply(event.event, now) {
            Ok(Change::Changed) => {
                changed.insert(event.order_id);
                answers.push(Answer::Applied);
            }
            Ok(Change::Nothing) => answers.push(Answer::Applied),
            Err(violation) => answers.push(refuse(&violation.to_string())),
        }
    }
    (answers, changed)
}

/// How long payments took from the orders' creation, once that is true.
fn report_after_commit(times: Vec<time::Duration>) {
    if times.is_empty() {
        return;
    }
    after_commit(move |_| {
        for time in times {
            metrics::histogram!(ORDER_PAYMENT_SECONDS).record(time.as_seconds_f64().max(0.0));
        }
    });
}

fn refuse(reason: &str) -> Answer {
    Answer::DeadLetter(Poison::new(Class::BusinessInvariant, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the contract says that this service reads is what its decoder knows.
    #[test]
    fn what_is_read_is_decoded() {
        check::reads(&OrderEvents::default(), "order");
    }
}
