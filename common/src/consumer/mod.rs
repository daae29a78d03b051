//! Idempotent consumer: takes batches of records, applies each exactly once, and parks what can never succeed.
//!
//! A batch is **one** transaction: inbox rows, the handler's effects, outbox rows of the next events, dead letters and
//! the tally of the partition ([`batch`]). Offsets are stored after the commit. A crash anywhere repeats records whose
//! effects the inbox already holds. There are four outcomes for a record: *applied*, *duplicate*, *dead letter*, and
//! *try again* for the whole batch while the infrastructure is away, which never becomes a dead letter, however long it
//! lasts ([`runtime`]).

pub(crate) mod any;
pub mod batch;
pub mod check;
pub mod group;
mod handler;
pub(crate) mod inbox;
pub mod limit;
mod member;
pub mod observer;
pub mod park;
pub mod positions;
pub mod pure;
pub mod runtime;
mod search;
mod sort;
pub mod stops;
pub(crate) mod trace;
mod verdict;
mod watch;

pub(crate) use self::verdict::is_in_the_data;
pub use self::{
    handler::{Accepted, Answer, Handler},
    sort::PARKED_BYTES_MAX,
    verdict::{ATTEMPTS_MAX, Class, Poison, REASON_BYTES_MAX},
};
