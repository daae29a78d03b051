//! What this gateway knows of orders, so that not every `GET` is a call: an order that can't change any more is known for long, any
//! other for a second, and while the order service is away, the last known state for some minutes.
//!
//! **A client never sees an order go back.** What is kept is at least as new as everything that this gateway has shown: each
//! state that is read, listed or pushed to a stream passes through here ([`OrderCache::saw`]) before a client gets it, and
//! replaces what is older. That includes states that arrive while another read of the same order is under way, whose answer
//! may be older ([`Reading`]).
//!
//! [`snapshot`] is an order at one version, [`entries`] what is kept, without a clock of its own.

mod entries;
pub(crate) mod snapshot;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use holdfast_common::metric;
use holdfast_proto::{OrderId, UserId};
use tokio::time::Instant;

use self::entries::Entries;
pub(crate) use self::snapshot::OrderSnapshot;
use crate::config::CacheConfig;

/// See the module; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct OrderCache(Arc<Mutex<Entries>>);

/// What there is for a `GET`.
#[derive(Debug)]
pub(crate) enum Look {
    /// The answer.
    Known(Arc<OrderSnapshot>),
    /// The order must be read.
    Read(Reading),
}

impl OrderCache {
    pub(crate) fn new(config: &CacheConfig) -> Self {
        Self(Arc::new(Mutex::new(Entries::new(config))))
    }

    /// Looks for an order of this user; one of somebody else must be read like one that does not exist. `seen` is a version
    /// that the client has; an older one is no answer.
    pub(crate) fn look(&self, order_id: OrderId, user_id: &UserId, seen: i64) -> Look {
        let now = Instant::now();
        let mut entries = self.lock();
        if let Some(order) = entries.fresh(order_id, user_id, now).filter(|order| order.version() >= seen) {
            count("known");
            return Look::Known(order);
        }
        entries.begin_reading(order_id);
        drop(entries);
        Look::Read(Reading { cache: self.clone(), order_id, user_id: user_id.clone(), seen, began: now })
    }

    /// Takes a state that a client is about to get.
    pub(crate) fn saw(&self, order: &Arc<OrderSnapshot>) {
        self.lock().saw(order);
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A panic elsewhere can leave a size wrong, nothing that a client sees.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An order that is being read.
#[derive(Debug)]
pub(crate) struct Reading {
    cache: OrderCache,
    order_id: OrderId,
    user_id: UserId,
    seen: i64,
    began: Instant,
}

impl Reading {
    /// Takes what was read. The answer is that, or what has become known meanwhile.
    pub(crate) fn done(self, order: OrderSnapshot) -> Arc<OrderSnapshot> {
        count("read");
        let mut entries = self.cache.lock();
        let newest = entries.read(&Arc::new(order), self.began);
        let bytes = u32::try_from(entries.bytes()).unwrap_or(u32::MAX);
        metrics::gauge!(metric::ORDER_CACHE_BYTES).set(f64::from(bytes));
        newest
    }

    /// What is known although the order can't be read, and since when it is not confirmed.
    pub(crate) fn last_known(&self) -> Option<(Arc<OrderSnapshot>, Duration)> {
        let last = self.cache.lock().last_known(self.order_id, &self.user_id, Instant::now());
        let last = last.filter(|(order, _)| order.version() >= self.seen);
        if last.is_some() {
            count("stale");
        }
        last
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.cache.lock().end_reading(self.order_id);
    }
}

fn count(outcome: &'static str) {
    metrics::counter!(metric::ORDER_CACHE_READS_TOTAL, "outcome" => outcome).increment(1);
}
