//! What this gateway knows of orders, so that not every `GET` is a call: an order that can't change any more is known for long, any
//! other for a second, and while the order service is away, the last known state for some minutes.
//!
//! **A client never sees an order go back.** What is kept is at least as new as everything that this gateway has shown: each
//! state that is read, listed or pushed to a stream passes through here ([`OrderCache::saw`]) before a client gets it, and
//! replaces what is older. That includes states that arrive while another read of the same order is under way, whose answer
//! may be older ([`Reading`]).
//!
//! Several gateways keep that promise together through Redis ([`shared`]), if there is one: then only what can't change any more
//! is answered without asking it. [`snapshot`] is an order at one version, [`entries`] what is kept here, without a clock of its
//! own.

mod entries;
mod shared;
pub(crate) mod snapshot;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use holdfast_common::metric;
use holdfast_proto::{OrderId, UserId};
use tokio::time::Instant;

pub(crate) use self::snapshot::OrderSnapshot;
use self::{entries::Entries, shared::SharedStates};
use crate::{config::CacheConfig, redis::Redis};

/// See the module; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct OrderCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: CacheConfig,
    entries: Mutex<Entries>,
    shared: Option<SharedStates>,
}

/// What there is for a `GET`.
#[derive(Debug)]
pub(crate) enum Look {
    /// The answer.
    Known(Arc<OrderSnapshot>),
    /// The order must be read.
    Read(Reading),
}

impl OrderCache {
    pub(crate) fn new(config: &CacheConfig, redis: Option<&Redis>) -> Self {
        let shared = redis.map(|redis| SharedStates::new(redis.clone(), config));
        let entries = Mutex::new(Entries::new(config, shared.is_some()));
        Self(Arc::new(Inner { config: *config, entries, shared }))
    }

    /// Looks for an order of this user; one of somebody else must be read like one that does not exist. `seen` is a version
    /// that the client has; an older one is no answer.
    pub(crate) async fn look(&self, order_id: OrderId, user_id: &UserId, seen: i64) -> Look {
        let now = Instant::now();
        let reading = {
            let mut entries = self.lock();
            let fresh = entries.fresh(order_id, user_id, now);
            if let Some(order) = fresh.filter(|order| order.version() >= seen) {
                count("known");
                return Look::Known(order);
            }
            entries.begin_reading(order_id);
            Reading { cache: self.clone(), order_id, user_id: user_id.clone(), seen, began: now }
        };
        if self.0.shared.is_none() {
            return Look::Read(reading);
        }
        match Box::pin(reading.known_to_others()).await {
            Some(order) => Look::Known(order),
            None => Look::Read(reading),
        }
    }

    /// Takes a state that was pushed, before a client gets it.
    pub(crate) fn saw(&self, order: &Arc<OrderSnapshot>) {
        self.lock().saw(order);
    }

    /// Takes states that were read for a list or a stream, before a client gets them.
    pub(crate) async fn saw_all(&self, orders: impl IntoIterator<Item = &Arc<OrderSnapshot>> + Clone) {
        for order in orders.clone() {
            self.saw(order);
        }
        if let Some(shared) = &self.0.shared {
            shared.forget_older(orders).await;
        }
    }

    /// How long an order is known from now on that can still change: 0 as soon as there are other gateways without Redis. Returns whether it
    /// was another before.
    pub(crate) fn set_unfinished_time(&self, time: Duration) -> bool {
        self.lock().set_unfinished_time(time)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A panic elsewhere can leave a size wrong, nothing that a client sees.
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// What another gateway has read so short a time ago that it needs not be read again.
    async fn known_to_others(&self) -> Option<Arc<OrderSnapshot>> {
        let (order, age) = self.shared().await?;
        let time_max = if order.is_terminal() {
            self.cache.0.config.terminal_time
        } else {
            self.cache.lock().unfinished_time()
        };
        if age >= time_max {
            return None;
        }
        count("shared");
        Some(self.keep(&Arc::new(order), age))
    }

    /// What all gateways know of it, if that is an answer: not older than what this gateway has shown, nor than what the client
    /// has, and its user's.
    async fn shared(&self) -> Option<(OrderSnapshot, Duration)> {
        let (order, age) = self.cache.0.shared.as_ref()?.get(self.order_id).await?;
        let version_min = self.seen.max(self.cache.lock().shown(self.order_id));
        (order.user_id == self.user_id && order.version() >= version_min).then_some((order, age))
    }

    fn keep(&self, order: &Arc<OrderSnapshot>, age: Duration) -> Arc<OrderSnapshot> {
        let confirmed = Instant::now().checked_sub(age).unwrap_or(self.began);
        let mut entries = self.cache.lock();
        let newest = entries.read(order, confirmed);
        let bytes = u32::try_from(entries.bytes()).unwrap_or(u32::MAX);
        metrics::gauge!(metric::ORDER_CACHE_BYTES).set(f64::from(bytes));
        newest
    }

    /// Takes what was read. The answer is that, or what has become known meanwhile.
    pub(crate) async fn done(self, order: OrderSnapshot) -> Arc<OrderSnapshot> {
        count("read");
        let age = self.began.elapsed();
        let newest = self.keep(&Arc::new(order), age);
        let Some(shared) = &self.cache.0.shared else { return newest };
        match shared.put(&newest, age).await {
            Some(newer) => self.keep(&Arc::new(newer), age),
            None => newest,
        }
    }

    /// What is known although the order can't be read, and since when it is not confirmed.
    pub(crate) async fn last_known(&self) -> Option<(Arc<OrderSnapshot>, Duration)> {
        let own = self.cache.lock().last_known(self.order_id, &self.user_id, Instant::now());
        let shared = self.shared().await.filter(|(_, age)| *age < self.cache.0.config.stale_time);
        let shared = shared.map(|(order, age)| (Arc::new(order), age));
        let last = own.into_iter().chain(shared).max_by_key(|(order, _)| order.version());
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
