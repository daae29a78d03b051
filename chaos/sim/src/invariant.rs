//! What must hold: after each operation, and once everything has ended.

use std::collections::{BTreeMap, HashMap, HashSet};

use holdfast_common::{consumer::pure::Place, event::Metadata, record::Record};
use holdfast_delivery::domain as delivery;
use holdfast_order::domain::{DeliveryStatus, Order, Status};
use holdfast_payment::domain::{self as payment, EntryKind};
use holdfast_proto::{OrderId, UserId, delivery::v1::DeliveryStatusUpdated, topic};
use prost::Message as _;
use uuid::Uuid;

use crate::{
    broker::Broker,
    operation::User,
    participant::Participant,
    service::Tables,
    world::{Wish, World},
};

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} ({})", .step.map_or("at the end".to_owned(), |step| format!("after operation {step}")))]
pub struct Violation {
    /// After which operation; none: at the end.
    pub step: Option<usize>,
    /// What was found.
    pub what: String,
}

/// Makes the text of a violation unless the condition holds.
macro_rules! must {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}

/// What was seen of a group's events so far.
#[derive(Debug, Default)]
struct Seen {
    events: usize,
    ids: HashSet<Uuid>,
    offsets: HashMap<(String, Place), i64>,
}

/// Remembers what it needs to see that nothing goes back.
#[derive(Debug, Default)]
pub struct Observer {
    orders: BTreeMap<OrderId, (u8, i64)>,
    groups: [Seen; 3],
    /// Rows of payment and order when they were looked at. Most operations change neither.
    money_at: [usize; 3],
    orders_at: [usize; 2],
}

impl Observer {
    /// What holds at every moment.
    pub fn look(&mut self, world: &World) -> Result<(), String> {
        let (tables, applied) = (&world.payment.tables, world.payment.database.applied.len());
        let money_at = [tables.entries.len(), tables.payments.len(), applied];
        if money_at != std::mem::replace(&mut self.money_at, money_at) {
            money_adds_up(world)?;
        }
        let orders_at = [world.order.tables.orders.len(), world.order.database.applied.len()];
        if orders_at != std::mem::replace(&mut self.orders_at, orders_at) {
            self.no_order_goes_back(world)?;
        }
        let [order, payment, delivery] = &mut self.groups;
        order.look(&world.order)?;
        payment.look(&world.payment)?;
        delivery.look(&world.delivery)
    }

    fn no_order_goes_back(&mut self, world: &World) -> Result<(), String> {
        for (id, order) in &world.order.tables.orders {
            let now = (rank(order.status), order.version);
            let before = self.orders.insert(*id, now).unwrap_or(now);
            must!(now.0 >= before.0 && now.1 >= before.1, "order {id} went from {before:?} back to {now:?}");
        }
        Ok(())
    }

    /// What holds once everything has ended.
    pub fn look_at_the_end(&self, world: &World) -> Result<(), String> {
        let orders = &world.order.tables.orders;
        must!(orders.len() == world.wishes.len(), "{} wishes, {} orders", world.wishes.len(), orders.len());
        for (index, wish) in world.wishes.iter().enumerate() {
            let order = wish.accepted.and_then(|id| orders.get(&id));
            let Some(order) = order else { return Err(format!("wish {index} has no order")) };
            ended_well(world, wish, order)?;
        }
        every_event_arrived(world)?;
        deliveries_were_reported_in_order(world)
    }
}

impl Seen {
    /// Each event is applied once, and those of an aggregate in the order of their partition; the tally explains the
    /// position.
    fn look<T: Tables>(&mut self, participant: &Participant<T>) -> Result<(), String> {
        for event in &participant.database.applied[self.events..] {
            let id = event.event_id;
            must!(self.ids.insert(id), "event {id} of {:?} was applied twice", event.place);
            let lane = (event.subject.clone(), event.place.clone());
            let before = self.offsets.insert(lane, event.offset);
            must!(
                before.is_none_or(|before| before < event.offset),
                "offset {} of {:?} was applied after {before:?}, of the same aggregate",
                event.offset,
                event.place
            );
        }
        self.events = participant.database.applied.len();
        for (place, position) in &participant.database.positions {
            let tally = participant.database.tallies.get(place).copied().unwrap_or_default();
            let counted = tally.applied + tally.duplicates + tally.parked + tally.set_aside;
            must!(
                counted == position.next_offset,
                "{place:?} was read up to {}, the tally says {counted}",
                position.next_offset
            );
        }
        Ok(())
    }
}

/// Balances are explained by their entries, never negative, and no cent is made or lost.
fn money_adds_up(world: &World) -> Result<(), String> {
    let tables = &world.payment.tables;
    let mut sums: BTreeMap<&UserId, i64> = BTreeMap::new();
    let mut charged: HashMap<OrderId, (i64, i64)> = HashMap::new();
    for entry in &tables.entries {
        let sum = sums.entry(&entry.user_id).or_default();
        *sum += entry.amount.minor_units;
        must!(*sum == entry.balance_after.minor_units, "an entry of {} does not follow", entry.user_id);
        match entry.kind {
            EntryKind::Charge(order) => charged.entry(order).or_default().0 += 1,
            EntryKind::Refund(order) => charged.entry(order).or_default().1 += 1,
            EntryKind::Opening | EntryKind::Credit => {}
        }
    }
    for (user, account) in &tables.accounts {
        let (balance, sum) = (account.balance.minor_units, sums.get(user).copied().unwrap_or_default());
        must!(balance == sum && balance >= 0, "balance of {user} is {balance}, the entries say {sum}");
    }
    let mut spent = 0;
    for (id, payment) in &tables.payments {
        let expected = match payment.status {
            payment::Status::Success => (1, 0),
            payment::Status::Refunded => (1, 1),
            payment::Status::InsufficientFunds => (0, 0),
        };
        let (charges, refunds) = charged.remove(id).unwrap_or_default();
        must!(
            (charges, refunds) == expected,
            "order {id} is {:?} with {charges} charges and {refunds} refunds",
            payment.status
        );
        spent += (charges - refunds) * payment.amount.minor_units;
    }
    must!(charged.is_empty(), "{} orders were charged without a payment", charged.len());
    let balances: i64 = tables.accounts.values().map(|account| account.balance.minor_units).sum();
    must!(balances + spent == world.credited, "{balances} + {spent} of {} cents", world.credited);
    Ok(())
}

/// An order has ended as its wish says, and the three services agree on it.
fn ended_well(world: &World, wish: &Wish, order: &Order) -> Result<(), String> {
    let id = order.order_id;
    let payment = world.payment.tables.payments.get(&id).map(|payment| payment.status);
    let delivery = world.delivery.tables.deliveries.get(&id).map(|delivery| delivery.status);
    let found = (order.status, order.delivery_status, payment, delivery);
    let is_declined =
        found == (Status::InsufficientFunds, None, Some(payment::Status::InsufficientFunds), None);
    let is_delivered = found
        == (
            Status::Paid,
            Some(DeliveryStatus::Delivered),
            Some(payment::Status::Success),
            Some(delivery::Status::Delivered),
        );
    let is_refunded = found
        == (
            Status::Refunded,
            Some(DeliveryStatus::Failed),
            Some(payment::Status::Refunded),
            Some(delivery::Status::Failed),
        );
    let paid = if wish.unreachable { is_refunded } else { is_delivered };
    let is_as_wished = match wish.user {
        User::Rich => paid,
        User::Modest => paid || is_declined,
        User::Poor => is_declined,
    };
    must!(is_as_wished, "order {id} of {:?} ended as {found:?}", wish.user);
    must!(order.total.minor_units == wish.cents, "order {id} has another total");
    Ok(())
}

/// Every event that was written is in the logs, and each of its readers has applied it.
fn every_event_arrived(world: &World) -> Result<(), String> {
    let logs = &world.broker.logs;
    let genuine = |topic: &str| -> HashSet<Uuid> {
        let of_topic = logs.iter().filter(|((name, _), _)| name == topic).flat_map(|(_, log)| log);
        of_topic.filter(|record| !Broker::is_forged(record)).map(Metadata::inbox_id).collect()
    };
    let published: usize = topic::EVENT_TOPICS.iter().map(|topic| genuine(topic).len()).sum();
    let written =
        world.order.database.written + world.payment.database.written + world.delivery.database.written;
    must!(published == written, "{written} events were written, {published} published");
    let applied = [
        (world.order.topics(), &world.order.database.applied),
        (world.payment.topics(), &world.payment.database.applied),
        (world.delivery.topics(), &world.delivery.database.applied),
    ];
    for (topics, applied) in applied {
        let expected: HashSet<Uuid> = topics.iter().flat_map(|topic| genuine(topic)).collect();
        let applied: HashSet<Uuid> = applied.iter().map(|event| event.event_id).collect();
        let lost = expected.difference(&applied).count();
        must!(lost == 0, "{lost} events of {topics:?} were not applied");
        must!(applied.len() == expected.len(), "an event of {topics:?} that nobody wrote was applied");
    }
    Ok(())
}

/// First occurrences in the log have the order in which the events of a delivery were written.
fn deliveries_were_reported_in_order(world: &World) -> Result<(), String> {
    let mut seen: HashSet<Uuid> = HashSet::new();
    let mut last: HashMap<String, i32> = HashMap::new();
    let of_topic = world.broker.logs.iter().filter(|((name, _), _)| name == topic::DELIVERY_STATUS_UPDATED);
    let is_first = |record: &&Record| !Broker::is_forged(record) && seen.insert(Metadata::inbox_id(record));
    for record in of_topic.flat_map(|(_, log)| log).filter(is_first) {
        let Ok(message) = DeliveryStatusUpdated::decode(record.value.clone().unwrap_or_default()) else {
            return Err("an event of delivery can't be decoded".to_owned());
        };
        let before = last.insert(message.order_id.clone(), message.status);
        must!(
            before.is_none_or(|before| before < message.status),
            "delivery of {} was reported as {} after {before:?}",
            message.order_id,
            message.status
        );
    }
    Ok(())
}

const fn rank(status: Status) -> u8 {
    match status {
        Status::Pending => 0,
        Status::Paid => 1,
        Status::InsufficientFunds | Status::Refunded => 2,
    }
}
