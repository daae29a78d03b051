//! What can happen in a run, and lists of it drawn from a seed.

use fastrand::Rng;

/// A service, which is also a consumer group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Accepts orders.
    Order,
    /// Charges and refunds.
    Payment,
    /// Delivers.
    Delivery,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Order, Self::Payment, Self::Delivery];
}

/// Who orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// Can pay everything.
    Rich,
    /// Can pay some of it: what arrives first.
    Modest,
    /// Can pay nothing.
    Poor,
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is committed, and whoever waits for it learns that.
    Commits,
    /// The database is away: nothing was done.
    Unavailable,
    /// It is committed, but the connection breaks before the answer.
    CommitUnknown,
    /// The process dies before the commit.
    CrashBefore,
    /// The process dies right after it.
    CrashAfter,
}

/// A record that can never succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poison {
    /// Its value is no message.
    Garbage,
    /// Of a version that nobody knows.
    UnknownVersion,
    /// Without its type.
    NoType,
    /// An event of another topic.
    WrongTopic,
    /// The id of another event, with a different payload.
    UsedId,
    /// The order again, with another total.
    OtherTotal,
    /// Neither key nor headers.
    Bare,
}

/// One thing that happens. Numbers that pick something count modulo what there is, so every list can be run, also if
/// operations are taken out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A client orders, with a key of its own.
    Create {
        /// Who.
        user: User,
        /// The total.
        cents: i64,
        /// To an address that can't be reached.
        unreachable: bool,
        /// Of the service's transaction.
        end: End,
    },
    /// The same, in a transaction that has its outbox row and commits later.
    CreateLate {
        /// Who.
        user: User,
        /// The total.
        cents: i64,
    },
    /// The oldest such transaction commits.
    CommitLate,
    /// A client sends an order again, with its key.
    SendAgain {
        /// Which.
        pick: u8,
        /// Of the service's transaction.
        end: End,
    },
    /// Money is paid in.
    Credit {
        /// To whom.
        user: User,
        /// How much.
        cents: i64,
    },
    /// A relay claims rows and sends them.
    Send {
        /// Whose.
        of: Service,
        /// How many at most.
        rows: u8,
    },
    /// Acknowledgements arrive, and their rows are deleted.
    Acknowledge {
        /// Whose.
        of: Service,
        /// How many at most.
        rows: u8,
    },
    /// The broker refuses the next row: its key is held back.
    Refuse {
        /// Whose.
        of: Service,
    },
    /// All keys that are held back are tried again.
    Release {
        /// Whose.
        of: Service,
    },
    /// A member receives a batch.
    Take {
        /// Of which group.
        by: Service,
        /// Which.
        member: u8,
        /// How many records at most.
        records: u8,
    },
    /// A member handles its batch; it receives one first if it has none.
    Handle {
        /// Of which group.
        by: Service,
        /// Which.
        member: u8,
        /// Of its first transaction that gets that far.
        end: End,
    },
    /// Partitions change their owners. Batches that were received stay where they are.
    Rebalance {
        /// Of which group.
        of: Service,
        /// One bit for each partition.
        owners: u8,
    },
    /// The processes of a service die.
    Crash {
        /// Which.
        of: Service,
    },
    /// A record is in its log once more.
    Repeat {
        /// In which topic.
        topic: u8,
        /// Which.
        pick: u8,
    },
    /// A forged record, made from a good one.
    Forge {
        /// In which topic.
        topic: u8,
        /// From which record.
        pick: u8,
        /// What is wrong with it.
        poison: Poison,
    },
    /// An event of this topic can't be stored, for a reason that nobody foresaw.
    Break {
        /// By whom.
        by: Service,
        /// In which topic.
        topic: u8,
        /// Which record.
        pick: u8,
    },
    /// That is fixed.
    Fix {
        /// By whom.
        by: Service,
    },
    /// An operator redrives the letters of an aggregate.
    Redrive {
        /// Of which group.
        by: Service,
        /// Which aggregate.
        pick: u8,
        /// Letters at most.
        letters: u8,
        /// Of the transaction.
        end: End,
    },
    /// An operator gives up the oldest letter of a forged record.
    Discard {
        /// Of which group.
        by: Service,
    },
    /// Time passes.
    Wait {
        /// How much.
        seconds: u8,
    },
    /// Deliveries that are due move on.
    Deliver {
        /// Of the transaction.
        end: End,
    },
}

/// Fewest and most operations of a drawn list.
const OPERATIONS: std::ops::RangeInclusive<usize> = 60..=200;

/// The list of a seed.
#[must_use]
pub fn draw(seed: u64) -> Vec<Operation> {
    let mut rng = Rng::with_seed(seed);
    let operations = rng.usize(OPERATIONS);
    // Some runs are nearly quiet, some are nothing but faults.
    let faults = rng.u32(0..=40);
    (0..operations).map(|_| operation(&mut rng, faults)).collect()
}

fn operation(rng: &mut Rng, faults: u32) -> Operation {
    if rng.u32(0..100) < faults { fault(rng) } else { work(rng, faults) }
}

fn work(rng: &mut Rng, faults: u32) -> Operation {
    match rng.u32(0..100) {
        0..10 => Operation::Create {
            user: user(rng),
            cents: rng.i64(1..=1000),
            unreachable: rng.u8(0..3) == 0,
            end: end(rng, faults),
        },
        10..13 => Operation::CreateLate { user: user(rng), cents: rng.i64(1..=1000) },
        13..16 => Operation::CommitLate,
        16..18 => Operation::SendAgain { pick: rng.u8(..), end: end(rng, faults) },
        18..20 => Operation::Credit { user: User::Modest, cents: rng.i64(1..=1000) },
        20..38 => Operation::Send { of: service(rng), rows: rng.u8(1..=6) },
        38..53 => Operation::Acknowledge { of: service(rng), rows: rng.u8(1..=6) },
        53..57 => Operation::Take { by: service(rng), member: rng.u8(0..2), records: rng.u8(1..=8) },
        57..85 => Operation::Handle { by: service(rng), member: rng.u8(0..2), end: end(rng, faults) },
        85..92 => Operation::Wait { seconds: rng.u8(1..=3) },
        _ => Operation::Deliver { end: end(rng, faults) },
    }
}

fn fault(rng: &mut Rng) -> Operation {
    match rng.u32(0..100) {
        0..8 => Operation::Refuse { of: service(rng) },
        8..16 => Operation::Release { of: service(rng) },
        16..26 => Operation::Rebalance { of: service(rng), owners: rng.u8(..) },
        26..36 => Operation::Crash { of: service(rng) },
        36..48 => Operation::Repeat { topic: rng.u8(..), pick: rng.u8(..) },
        48..64 => Operation::Forge { topic: rng.u8(..), pick: rng.u8(..), poison: poison(rng) },
        64..72 => Operation::Break { by: service(rng), topic: rng.u8(..), pick: rng.u8(..) },
        72..78 => Operation::Fix { by: service(rng) },
        78..92 => Operation::Redrive {
            by: service(rng),
            pick: rng.u8(..),
            letters: rng.u8(1..=4),
            end: end(rng, 40),
        },
        _ => Operation::Discard { by: service(rng) },
    }
}

fn end(rng: &mut Rng, faults: u32) -> End {
    if rng.u32(0..100) >= faults {
        return End::Commits;
    }
    [End::Unavailable, End::CommitUnknown, End::CrashBefore, End::CrashAfter][rng.usize(0..4)]
}

fn service(rng: &mut Rng) -> Service {
    Service::ALL[rng.usize(0..3)]
}

fn user(rng: &mut Rng) -> User {
    [User::Rich, User::Rich, User::Rich, User::Modest, User::Modest, User::Poor][rng.usize(0..6)]
}

fn poison(rng: &mut Rng) -> Poison {
    use Poison::{Bare, Garbage, NoType, OtherTotal, UnknownVersion, UsedId, WrongTopic};
    [Garbage, UnknownVersion, NoType, WrongTopic, UsedId, OtherTotal, Bare][rng.usize(0..7)]
}
