//! Turns payments into deliveries.

use std::collections::HashMap;

use holdfast_common::{
    clock,
    consumer::{Accepted, Answer, Class, Handler, Poison, check},
    database::DatabaseError,
    event::Metadata,
    outbox::OutboxRecord,
    planted::{Bug, planted},
    record::Record,
};
use holdfast_proto::{OrderId, UserId, payment::v1 as payment, topic};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    domain::{Delivery, Plan, check_repeated},
    event, store,
};

/// Handles the events of payment.
#[derive(Debug, Clone)]
pub struct DeliveryEvents {
    plan: Plan,
}

impl DeliveryEvents {
    /// Deliveries that proceed as `plan` says.
    #[must_use]
    pub const fn new(plan: Plan) -> Self {
        Self { plan }
    }
}

/// The payment of one order was decided.
#[derive(Debug, Clone)]
pub struct PaymentDecided {
    /// Which one.
    pub order_id: OrderId,
    user_id: UserId,
    /// None: not charged, so there is nothing to deliver.
    deliver_to: Option<String>,
}

impl Handler for DeliveryEvents {
    type Event = PaymentDecided;
    type Changes = NewDeliveries;

    fn versions(&self, topic: &str) -> &'static [u32] {
        if topic == topic::PAYMENT_COMPLETED { &[1] } else { &[] }
    }

    fn decode(&self, record: &Record, metadata: &Metadata) -> Result<PaymentDecided, Poison> {
        let message: payment::PaymentCompleted = match record.topic.as_str() {
            topic::PAYMENT_COMPLETED => check::message(record)?,
            other => return Err(check::not_read(other)),
        };
        check::placed(record, metadata, &message.user_id, &message.order_id)?;
        let deliver_to = match message.status() {
            payment::PaymentStatus::Success if message.delivery_address.is_empty() => {
                return Err(check::violation("delivery_address is empty"));
            }
            payment::PaymentStatus::Success => Some(message.delivery_address),
            payment::PaymentStatus::InsufficientFunds if planted(Bug::DeliveryWithoutPayment) => {
                Some(message.delivery_address)
            }
            payment::PaymentStatus::InsufficientFunds => None,
            _ => return Err(check::violation("status is not valid for this event")),
        };
        Ok(PaymentDecided {
            order_id: check::field("order_id", OrderId::parse(&message.order_id))?,
            user_id: check::field("user_id", UserId::parse(&message.user_id))?,
            deliver_to,
        })
    }

    async fn decide(
        &self,
        connection: &mut PgConnection,
        events: &[Accepted<PaymentDecided>],
    ) -> Result<(Vec<Answer>, NewDeliveries), DatabaseError> {
        let ids: Vec<OrderId> = events
            .iter()
            .filter(|accepted| accepted.event.deliver_to.is_some())
            .map(|accepted| accepted.event.order_id)
            .collect();
        let mut deliveries: HashMap<OrderId, Delivery> =
            store::deliveries_of_orders(connection, &ids).await?;
        let Decided { answers, new, outbox } = decide(&self.plan, &mut deliveries, events, clock::now());
        Ok((answers, NewDeliveries { deliveries: new, events: outbox }))
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        changes: NewDeliveries,
    ) -> Result<(), DatabaseError> {
        store::insert_deliveries(connection, &changes.deliveries, changes.events).await
    }
}

/// Deliveries and their first events, not yet written.
#[derive(Debug)]
pub struct NewDeliveries {
    deliveries: Vec<Delivery>,
    events: Vec<OutboxRecord>,
}

/// What events lead to.
#[derive(Debug, Default)]
pub struct Decided {
    /// One for each event.
    pub answers: Vec<Answer>,
    /// To be written.
    pub new: Vec<Delivery>,
    /// To be written.
    pub outbox: Vec<OutboxRecord>,
}

/// Applies `events`; `deliveries` are those of their orders that exist. Pure.
#[expect(clippy::implicit_hasher, reason = "only our own callers")]
pub fn decide(
    plan: &Plan,
    deliveries: &mut HashMap<OrderId, Delivery>,
    events: &[Accepted<PaymentDecided>],
    now: OffsetDateTime,
) -> Decided {
    let mut decided = Decided::default();
    for Accepted { metadata, event } in events {
        let Some(address) = &event.deliver_to else {
            decided.answers.push(Answer::Applied);
            continue;
        };
        if let Some(delivery) = deliveries.get(&event.order_id) {
            decided.answers.push(match check_repeated(delivery, &event.user_id, address) {
                Ok(()) => Answer::Applied,
                Err(other) => Answer::DeadLetter(Poison::new(Class::BusinessInvariant, other.to_string())),
            });
            continue;
        }
        let user_id = event.user_id.clone();
        let id = Uuid::now_v7();
        let delivery = Delivery::create(id, event.order_id, user_id, address.clone(), plan, now)
            .caused_by(metadata.trace);
        let new_event = event::status_updated(&delivery, delivery.trace);
        decided.outbox.push(OutboxRecord::from_event(new_event, "delivery"));
        decided.new.push(delivery.clone());
        deliveries.insert(event.order_id, delivery);
        decided.answers.push(Answer::Applied);
    }
    decided
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What the contract says that this service reads is what its decoder knows.
    #[test]
    fn what_is_read_is_decoded() {
        let plan = Plan { step: Duration::ZERO, fail_prefix: String::new(), fail_per_million: 0 };
        check::reads(&DeliveryEvents::new(plan), "delivery");
    }
}
