//! Everything there is in a run, and what each operation does to it.

use std::time::Duration;

use holdfast_common::{dead_letter::redrive::Exhausted, event::Metadata, outbox::OutboxRecord};
use holdfast_delivery::{domain::Plan, event::status_updated};
use holdfast_order::{
    domain::{Draft, Item, Order},
    event::of_creation,
};
use holdfast_payment::domain::{Account, EntryKind};
use holdfast_proto::{Currency, Money, OrderId, UserId};
use time::OffsetDateTime;

use crate::{
    broker::Broker,
    bug::Bug,
    forge::forge,
    invariant::{Observer, Violation},
    operation::{End, Operation, Service, User},
    participant::Participant,
    service::{Deliveries, Orders, Payments},
};

/// Time from one status of a delivery to the next.
const STEP: Duration = Duration::from_secs(1);
/// Rounds in which everything must have ended once there are no more faults. The longest saga needs about ten.
const ROUNDS_MAX: usize = 60;

/// A client's wish for an order; its index is the idempotency key.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Who.
    pub user: User,
    /// The total.
    pub cents: i64,
    /// To an address that can't be reached.
    pub unreachable: bool,
    /// The order, once the client knows that it was accepted.
    pub accepted: Option<OrderId>,
}

/// A transaction that has its outbox row and is not committed yet.
#[derive(Debug)]
struct Late {
    wish: usize,
    order: Order,
    row: i64,
    /// It vanishes if the service dies.
    crashes: usize,
}

/// See the module.
#[derive(Debug)]
pub struct World {
    /// What is broken in the model.
    pub bug: Option<Bug>,
    /// The time.
    pub now: OffsetDateTime,
    /// The broker.
    pub broker: Broker,
    /// The order service.
    pub order: Participant<Orders>,
    /// The payment service.
    pub payment: Participant<Payments>,
    /// The delivery service.
    pub delivery: Participant<Deliveries>,
    /// What clients asked for.
    pub wishes: Vec<Wish>,
    /// All money that was paid in.
    pub credited: i64,
    late: Vec<Late>,
}

/// Runs an expression for the participant of a service.
macro_rules! with {
    ($world:expr, $service:expr, $participant:ident => $body:expr) => {
        match $service {
            Service::Order => {
                let $participant = &mut $world.order;
                $body
            }
            Service::Payment => {
                let $participant = &mut $world.payment;
                $body
            }
            Service::Delivery => {
                let $participant = &mut $world.delivery;
                $body
            }
        }
    };
}

/// Runs a list, lets everything end, and checks what must hold, after each operation and at the end.
pub fn run(operations: &[Operation], bug: Option<Bug>) -> Result<(), Violation> {
    let mut world = World::new(bug);
    let mut observer = Observer::default();
    for (step, operation) in operations.iter().enumerate() {
        world.carry_out(*operation);
        observer.look(&world).map_err(|what| Violation { step: Some(step), what })?;
    }
    world.drain(&mut observer).map_err(|what| Violation { step: None, what })?;
    observer.look_at_the_end(&world).map_err(|what| Violation { step: None, what })
}

impl World {
    /// With money in two of the three accounts.
    #[must_use]
    pub fn new(bug: Option<Bug>) -> Self {
        let plan = Plan { step: STEP, fail_prefix: "UNDELIVERABLE".to_owned(), fail_per_million: 0 };
        let mut world = Self {
            bug,
            now: OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000),
            broker: Broker::default(),
            order: Participant::new("order", Orders::default(), bug),
            payment: Participant::new("payment", Payments::default(), bug),
            delivery: Participant::new("delivery", Deliveries::new(plan), bug),
            wishes: Vec::new(),
            credited: 0,
            late: Vec::new(),
        };
        world.credit(User::Rich, 1_000_000, EntryKind::Opening);
        world.credit(User::Modest, 1_500, EntryKind::Opening);
        world
    }

    fn carry_out(&mut self, operation: Operation) {
        match operation {
            Operation::Create { user, cents, unreachable, end } => {
                self.wishes.push(Wish { user, cents, unreachable, accepted: None });
                self.ask(self.wishes.len() - 1, end);
            }
            Operation::CreateLate { user, cents } => self.begin_late(user, cents),
            Operation::CommitLate => self.commit_late(),
            Operation::SendAgain { pick, end } if !self.wishes.is_empty() => {
                self.ask(usize::from(pick) % self.wishes.len(), end);
            }
            Operation::SendAgain { .. } => {}
            Operation::Credit { user, cents } => self.credit(user, cents, EntryKind::Credit),
            Operation::Wait { seconds } => self.now += Duration::from_secs(seconds.into()),
            Operation::Deliver { end } => self.deliver(end),
            Operation::Repeat { topic, pick } => self.repeat(topic, pick),
            Operation::Forge { topic, pick, poison } => {
                if let Some(record) = self.broker.pick(topic_of(topic), pick)
                    && let Some(forged) = forge(record, poison)
                {
                    self.broker.append(forged);
                }
            }
            operation => self.carry_out_within(operation),
        }
    }

    /// Operations of one service.
    fn carry_out_within(&mut self, operation: Operation) {
        let (bug, now) = (self.bug, self.now);
        match operation {
            Operation::Send { of, rows } => with!(self, of, participant => {
                participant.relay.send(rows.into(), &mut participant.database, &mut self.broker, bug, now);
            }),
            Operation::Acknowledge { of, rows } => with!(self, of, participant => {
                let (database, broker) = (&mut participant.database, &mut self.broker);
                participant.relay.acknowledge(rows.into(), database, broker, bug, now);
            }),
            Operation::Refuse { of } => with!(self, of, participant => {
                participant.relay.refuse(&mut participant.database);
            }),
            Operation::Release { of } => with!(self, of, participant => participant.database.held.clear()),
            Operation::Take { by, member, records } => with!(self, by, participant => {
                participant.take(member.into(), records.into(), &self.broker);
            }),
            Operation::Handle { by, member, end } => with!(self, by, participant => {
                participant.handle(member.into(), end, &self.broker, now);
            }),
            Operation::Rebalance { of, owners } => with!(self, of, participant => {
                participant.rebalance(owners, &self.broker);
            }),
            Operation::Crash { of } => with!(self, of, participant => participant.crash()),
            Operation::Break { by, topic, pick } => with!(self, by, participant => {
                let topics = participant.topics();
                let topic = topics[usize::from(topic) % topics.len()];
                let record = self.broker.pick(topic, pick).filter(|record| !Broker::is_forged(record));
                participant.broken.extend(record.map(Metadata::inbox_id));
            }),
            Operation::Fix { by } => with!(self, by, participant => participant.broken.clear()),
            Operation::Redrive { by, pick, letters, end } => with!(self, by, participant => {
                let groups = participant.redrivable();
                if let Some(group) = groups.get(usize::from(pick) % groups.len().max(1)) {
                    let letters = &group[..group.len().min(letters.into())];
                    participant.redrive(letters, Exhausted::Refuse, end, now);
                }
            }),
            Operation::Discard { by } => with!(self, by, participant => {
                participant.discard();
            }),
            _ => {}
        }
    }

    /// A client sends the request for its wish.
    fn ask(&mut self, wish: usize, end: End) {
        let crashes = self.order.crashes;
        // A transaction with this key is running: the call is refused.
        if self.late.iter().any(|late| late.wish == wish && late.crashes == crashes) {
            return;
        }
        let order = self.order_of(wish);
        let mut accepted = None;
        let known = self.order.transact(end, |order_service| {
            let used = order_service.tables.keys.get(&wish).copied();
            if let Some(id) = used.filter(|_| order_service.bug != Some(Bug::KeyForgotten)) {
                accepted = Some(id);
                return Vec::new();
            }
            accepted = Some(order.order_id);
            order_service.tables.keys.insert(wish, order.order_id);
            let records = of_creation(&order, None);
            order_service.tables.orders.insert(order.order_id, order);
            records
        });
        if known {
            self.wishes[wish].accepted = accepted;
        }
    }

    fn begin_late(&mut self, user: User, cents: i64) {
        self.wishes.push(Wish { user, cents, unreachable: false, accepted: None });
        let wish = self.wishes.len() - 1;
        let (order, row) = (self.order_of(wish), self.order.database.reserve_row());
        self.late.push(Late { wish, order, row, crashes: self.order.crashes });
    }

    fn commit_late(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let Late { wish, order, row, crashes } = self.late.remove(0);
        if crashes != self.order.crashes {
            return;
        }
        let tables = &mut self.order.tables;
        tables.keys.insert(wish, order.order_id);
        for record in of_creation(&order, None) {
            self.order.database.write_row(row, record);
        }
        self.wishes[wish].accepted = Some(order.order_id);
        tables.orders.insert(order.order_id, order);
    }

    fn order_of(&self, wish: usize) -> Order {
        let Wish { user, cents, unreachable, .. } = self.wishes[wish];
        let address = if unreachable { "UNDELIVERABLE, 1 Quay Street" } else { "1 Quay Street" };
        let item = Item { product_id: "tea".to_owned(), quantity: 1, price: euros(cents) };
        let draft = Draft::new(user_id(user), address.to_owned(), vec![item]);
        let draft = draft.unwrap_or_else(|error| unreachable!("{error}"));
        Order::create(OrderId::generate(), draft, self.now)
    }

    fn credit(&mut self, user: User, cents: i64, kind: EntryKind) {
        let user = user_id(user);
        let tables = &mut self.payment.tables;
        let empty = Account::empty(user.clone(), Currency::EUR);
        let account = tables.accounts.entry(user).or_insert(empty);
        if let Ok(entry) = account.credit(kind, euros(cents), self.now) {
            self.credited += cents;
            tables.entries.push(entry);
        }
    }

    fn deliver(&mut self, end: End) {
        let now = self.now;
        self.delivery.transact(end, |delivery| {
            let step = delivery.tables.plan.step;
            let moved = delivery.tables.deliveries.values_mut().filter_map(|delivery| {
                let moves = delivery.advance(step, now);
                moves.then(|| OutboxRecord::from_event(status_updated(delivery, None), "delivery"))
            });
            moved.collect::<Vec<OutboxRecord>>()
        });
    }

    fn repeat(&mut self, topic: u8, pick: u8) {
        if let Some(record) = self.broker.pick(topic_of(topic), pick).cloned() {
            self.broker.append(record);
        }
    }

    /// No more faults: everything must end within a bounded number of rounds.
    fn drain(&mut self, observer: &mut Observer) -> Result<(), String> {
        for service in Service::ALL {
            with!(self, service, participant => {
                participant.broken.clear();
                participant.database.held.clear();
            });
        }
        while !self.late.is_empty() {
            self.commit_late();
        }
        for wish in 0..self.wishes.len() {
            if self.wishes[wish].accepted.is_none() {
                self.ask(wish, End::Commits);
            }
        }
        for _ in 0..ROUNDS_MAX {
            self.round();
            observer.look(self)?;
            if self.is_quiet() {
                return Ok(());
            }
        }
        Err(format!("not at rest after {ROUNDS_MAX} rounds without faults: {}", self.unfinished()))
    }

    /// Everything that is possible, once.
    fn round(&mut self) {
        let (bug, now) = (self.bug, self.now);
        for service in Service::ALL {
            with!(self, service, participant => {
                let (database, relay) = (&mut participant.database, &mut participant.relay);
                relay.acknowledge(usize::MAX, database, &mut self.broker, bug, now);
                relay.send(usize::MAX, database, &mut self.broker, bug, now);
                relay.acknowledge(usize::MAX, database, &mut self.broker, bug, now);
                for member in 0..2 {
                    while participant.handle(member, End::Commits, &self.broker, now) > 0 {}
                }
                for letters in participant.redrivable() {
                    participant.redrive(&letters, Exhausted::RedriveToo, End::Commits, now);
                }
                while participant.discard() {}
            });
        }
        self.now += STEP;
        self.deliver(End::Commits);
    }

    fn is_quiet(&mut self) -> bool {
        let at_rest = Service::ALL.into_iter().all(|service| {
            with!(self, service, participant => {
                participant.database.outbox.is_empty()
                    && participant.has_read_all(&self.broker)
                    && participant.letters_parked() == 0
            })
        });
        at_rest && self.delivery.tables.deliveries.values().all(|delivery| delivery.due_at.is_none())
    }

    fn unfinished(&mut self) -> String {
        let parts = Service::ALL.map(|service| {
            with!(self, service, participant => format!(
                "{service:?} has {} outbox rows, {} parked letters, {}",
                participant.database.outbox.len(),
                participant.letters_parked(),
                if participant.has_read_all(&self.broker) { "read everything" } else { "unread records" },
            ))
        });
        parts.join("; ")
    }
}

fn topic_of(pick: u8) -> &'static str {
    let topics = holdfast_proto::topic::EVENT_TOPICS;
    topics[usize::from(pick) % topics.len()]
}

fn euros(cents: i64) -> Money {
    Money::new(cents, Currency::EUR)
}

fn user_id(user: User) -> UserId {
    let name = match user {
        User::Rich => "rich",
        User::Modest => "modest",
        User::Poor => "poor",
    };
    UserId::parse(name).unwrap_or_else(|error| unreachable!("{error}"))
}
