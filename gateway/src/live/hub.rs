//! Who watches what: hands each change to its watchers, and bounds their number.
//!
//! Nothing here waits. A watcher that does not keep up loses what does not fit into its queue, learns that it does, and
//! reads the newest states itself when its client takes more.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use holdfast_common::metric;
use holdfast_proto::{OrderId, UserId};
use tokio::sync::{mpsc, watch};

use super::change::Change;
use crate::{
    cache::OrderCache,
    config::StreamsConfig,
    problem::{Problem, ProblemType},
};

/// Changes that wait for a client. When the queue is full they are dropped, and the watcher looks again.
pub(super) const QUEUE_MAX: usize = 64;
/// When a client that found no place may ask again, in seconds.
const RETRY_AFTER_S: u64 = 5;

/// What a client watches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// One order.
    Order(OrderId),
    /// All orders of a user.
    User(UserId),
}

/// Why a client finds no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// This gateway has as many streams as it may have.
    Gateway,
    /// The user has.
    User,
}

impl From<Full> for Problem {
    fn from(full: Full) -> Self {
        let (kind, detail, reason) = match full {
            Full::Gateway => (ProblemType::Unavailable, "too many streams are open", "gateway"),
            Full::User => (ProblemType::TooManyStreams, "the user has too many open streams", "user"),
        };
        metrics::counter!(metric::EVENT_STREAMS_REFUSED_TOTAL, "reason" => reason).increment(1);
        Self::new(kind, detail).retry_after(RETRY_AFTER_S)
    }
}

/// One watcher, seen from the hub.
#[derive(Debug)]
struct Outlet {
    id: u64,
    user_id: UserId,
    queue: mpsc::Sender<Arc<Change>>,
    missed: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Registry {
    next_id: u64,
    open: usize,
    open_by_user: HashMap<UserId, usize>,
    outlets: HashMap<Topic, Vec<Outlet>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Hub {
    open_max: usize,
    open_per_user_max: usize,
    registry: Mutex<Registry>,
    cache: OrderCache,
    /// Changes its value whenever something may have been missed.
    looks: watch::Sender<u64>,
}

impl Hub {
    pub(super) fn new(config: &StreamsConfig, cache: OrderCache) -> Self {
        // There from the start, not from the first stream on.
        metrics::gauge!(metric::EVENT_STREAMS_OPEN).set(0.0);
        Self {
            open_max: config.open_max,
            open_per_user_max: config.open_per_user_max,
            registry: Mutex::default(),
            cache,
            looks: watch::Sender::new(0),
        }
    }

    /// A place for a stream of `user_id`, who may see what `topic` names.
    pub(super) fn admit(self: &Arc<Self>, user_id: &UserId, topic: Topic) -> Result<Subscription, Full> {
        let mut registry = self.lock();
        if registry.open >= self.open_max {
            return Err(Full::Gateway);
        }
        let of_user = registry.open_by_user.entry(user_id.clone()).or_default();
        if *of_user >= self.open_per_user_max {
            return Err(Full::User);
        }
        *of_user += 1;
        registry.open += 1;
        registry.next_id += 1;
        let (id, missed) = (registry.next_id, Arc::new(AtomicBool::new(false)));
        let (queue, changes) = mpsc::channel(QUEUE_MAX);
        let outlet = Outlet { id, user_id: user_id.clone(), queue, missed: missed.clone() };
        registry.outlets.entry(topic.clone()).or_default().push(outlet);
        drop(registry);
        metrics::gauge!(metric::EVENT_STREAMS_OPEN).increment(1.0);
        let place = Place { hub: self.clone(), id, user_id: user_id.clone(), topic };
        Ok(Subscription { changes, missed, looks: self.looks.subscribe(), _place: place })
    }

    /// Hands a change to everyone who watches its order or its user.
    pub(super) fn publish(&self, change: &Arc<Change>) {
        // First: whoever gets this change from here must not read an older state afterwards.
        self.cache.saw(&change.order);
        let registry = self.lock();
        for topic in [Topic::Order(change.order.order_id), Topic::User(change.order.user_id.clone())] {
            for outlet in registry.outlets.get(&topic).into_iter().flatten() {
                // A stream has its place before it is known whether its user may see the order.
                if outlet.user_id == change.order.user_id && outlet.queue.try_send(change.clone()).is_err() {
                    outlet.missed.store(true, Ordering::Release);
                }
            }
        }
    }

    /// Has every watcher read for itself: a change may have been missed.
    pub(super) fn look_again(&self) {
        self.looks.send_modify(|looks| *looks += 1);
    }

    fn leave(&self, place: &Place) {
        let mut registry = self.lock();
        registry.open -= 1;
        if let Some(of_user) = registry.open_by_user.get_mut(&place.user_id) {
            *of_user -= 1;
            if *of_user == 0 {
                registry.open_by_user.remove(&place.user_id);
            }
        }
        if let Some(outlets) = registry.outlets.get_mut(&place.topic) {
            outlets.retain(|outlet| outlet.id != place.id);
            if outlets.is_empty() {
                registry.outlets.remove(&place.topic);
            }
        }
        drop(registry);
        metrics::gauge!(metric::EVENT_STREAMS_OPEN).decrement(1.0);
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // Plain data: a panic elsewhere can't leave it half changed.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a watcher has of the hub.
#[derive(Debug)]
pub(super) struct Subscription {
    /// What is pushed.
    pub(super) changes: mpsc::Receiver<Arc<Change>>,
    missed: Arc<AtomicBool>,
    /// Changes when something may have been missed by everyone.
    pub(super) looks: watch::Receiver<u64>,
    _place: Place,
}

impl Subscription {
    /// Whether changes did not fit into the queue since this was asked last. If so, what is in the queue is dropped too: the
    /// newest states, which are read then, outdate it.
    pub(super) fn take_missed(&mut self) -> bool {
        let missed = self.missed.swap(false, Ordering::AcqRel);
        while missed && self.changes.try_recv().is_ok() {}
        missed
    }
}

/// A place in the hub, given back when the stream ends, however it ends.
#[derive(Debug)]
struct Place {
    hub: Arc<Hub>,
    id: u64,
    user_id: UserId,
    topic: Topic,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hub.leave(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::CacheConfig, live::change::tests::change};

    fn hub(open_max: usize, open_per_user_max: usize) -> Arc<Hub> {
        let cache = OrderCache::new(&CacheConfig::default(), None);
        Arc::new(Hub::new(&StreamsConfig { open_max, open_per_user_max }, cache))
    }

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("a user")
    }

    fn received(subscription: &mut Subscription) -> Vec<i64> {
        std::iter::from_fn(|| subscription.changes.try_recv().ok()).map(|change| change.position).collect()
    }

    /// A change reaches those who watch its order or its user, and nobody else.
    #[test]
    fn a_change_reaches_its_watchers_only() {
        let hub = hub(10, 10);
        let (order, other) = (OrderId::generate(), OrderId::generate());
        let (alice, bob) = (user("alice"), user("bob"));
        let mut one = hub.admit(&alice, Topic::Order(order)).expect("a place");
        let mut all = hub.admit(&alice, Topic::User(alice.clone())).expect("a place");
        let mut foreign = hub.admit(&bob, Topic::Order(order)).expect("a place");
        hub.publish(&Arc::new(change(order, 1, 1)));
        hub.publish(&Arc::new(change(other, 2, 1)));
        assert_eq!(received(&mut one), [1]);
        assert_eq!(received(&mut all), [1, 2]);
        assert_eq!(received(&mut foreign), [0; 0]);
    }

    /// A client that does not read costs the others nothing: its queue is bounded, and it learns that it missed something.
    #[test]
    fn a_slow_reader_blocks_nobody() {
        let hub = hub(10, 10);
        let (order, alice) = (OrderId::generate(), user("alice"));
        let mut slow = hub.admit(&alice, Topic::Order(order)).expect("a place");
        let mut quick = hub.admit(&alice, Topic::Order(order)).expect("a place");
        let count = i64::try_from(QUEUE_MAX).expect("a small number") + 10;
        for version in 1..=count {
            hub.publish(&Arc::new(change(order, version, version)));
            assert_eq!(received(&mut quick), [version]);
        }
        assert!(!quick.take_missed());
        assert!(slow.take_missed());
        assert_eq!(received(&mut slow), [0; 0], "outdated by what is read now");
        assert!(!slow.take_missed());
        hub.publish(&Arc::new(change(order, count + 1, count + 1)));
        assert_eq!(received(&mut slow), [count + 1]);
    }

    /// The streams of a gateway and of a user are bounded; one that ends makes room.
    #[test]
    fn the_number_of_streams_is_bounded() {
        let hub = hub(3, 2);
        let admit = |name: &str| hub.admit(&user(name), Topic::User(user(name)));
        let first = admit("alice").expect("a place");
        let second = admit("alice").expect("a place");
        assert_eq!(admit("alice").err(), Some(Full::User));
        let third = admit("bob").expect("a place");
        assert_eq!(admit("carol").err(), Some(Full::Gateway));
        drop(first);
        let fourth = admit("alice").expect("a place again");
        assert_eq!(admit("bob").err(), Some(Full::Gateway));
        drop((second, third, fourth));
        let registry = hub.lock();
        assert!(registry.open == 0 && registry.open_by_user.is_empty() && registry.outlets.is_empty());
    }
}
