//! What is kept of orders, and for how long. Pure: whoever asks says what time it is.

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc, time::Duration};

use holdfast_proto::{OrderId, UserId};
use lru::LruCache;
use prost::Message as _;
use tokio::time::Instant;

use super::snapshot::OrderSnapshot;
use crate::config::CacheConfig;

/// Memory of an order beside its texts, about.
const OVERHEAD_BYTES: usize = 1024;
/// Memory for a byte of the message as it is sent: it is kept as a message and as JSON.
const BYTES_PER_BYTE: usize = 5;

/// Orders whose shown version is noted: far more than can be shown in the second for which Redis' states are fresh.
const SHOWN_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("not 0");

/// What is known of one order.
#[derive(Debug)]
struct Entry {
    order: Arc<OrderSnapshot>,
    /// When this was the newest state for certain. What is pushed is newer, but may be late, so it confirms nothing.
    confirmed: Instant,
}

/// An order that is being read.
#[derive(Debug, Default)]
struct Slot {
    readers: usize,
    /// The newest state that was seen meanwhile.
    newest: Option<Arc<OrderSnapshot>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Entries {
    config: CacheConfig,
    known: LruCache<OrderId, Entry>,
    bytes: usize,
    /// As many as there are requests that read.
    reading: HashMap<OrderId, Slot>,
    /// With Redis, where states are that are older than what was shown here: which versions those were.
    shown: Option<LruCache<OrderId, i64>>,
}

impl Entries {
    /// If others know orders too (`shared`), only what can't change any more is known without asking them.
    pub(super) fn new(config: &CacheConfig, shared: bool) -> Self {
        let config = *config;
        let shown = shared.then(|| LruCache::new(SHOWN_MAX));
        Self { config, known: LruCache::unbounded(), bytes: 0, reading: HashMap::new(), shown }
    }

    /// How long an order is known that can still change.
    pub(super) const fn unfinished_time(&self) -> Duration {
        self.config.unfinished_time
    }

    /// Returns whether it was another before.
    pub(super) fn set_unfinished_time(&mut self, time: Duration) -> bool {
        std::mem::replace(&mut self.config.unfinished_time, time) != time
    }

    /// The newest version that was shown of an order, as far as Redis can have an older one that is not too old itself.
    pub(super) fn shown(&self, order_id: OrderId) -> i64 {
        let known = self.known.peek(&order_id).map(|entry| entry.order.version());
        let seen =
            self.reading.get(&order_id).and_then(|slot| slot.newest.as_ref()).map(|order| order.version());
        let shown = self.shown.as_ref().and_then(|shown| shown.peek(&order_id)).copied();
        known.max(seen).max(shown).unwrap_or_default()
    }

    fn note_shown(&mut self, order: &OrderSnapshot) {
        if let Some(shown) = &mut self.shown {
            let before = shown.get(&order.order_id).copied().unwrap_or_default();
            shown.put(order.order_id, before.max(order.version()));
        }
    }

    /// About how much memory is taken.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// An order of this user that needs not be read.
    pub(super) fn fresh(
        &mut self,
        order_id: OrderId,
        user_id: &UserId,
        now: Instant,
    ) -> Option<Arc<OrderSnapshot>> {
        let entry = self.known.get(&order_id).filter(|entry| entry.order.user_id == *user_id)?;
        let time_max = match (entry.order.is_terminal(), &self.shown) {
            (true, _) => self.config.terminal_time,
            (false, None) => self.config.unfinished_time,
            // Others may have shown something newer.
            (false, Some(_)) => Duration::ZERO,
        };
        (now.duration_since(entry.confirmed) < time_max).then(|| entry.order.clone())
    }

    /// The last state of an order of this user, and its age, if that is not too high.
    pub(super) fn last_known(
        &self,
        order_id: OrderId,
        user_id: &UserId,
        now: Instant,
    ) -> Option<(Arc<OrderSnapshot>, Duration)> {
        let entry = self.known.peek(&order_id).filter(|entry| entry.order.user_id == *user_id)?;
        let age = now.duration_since(entry.confirmed);
        (age < self.config.stale_time).then(|| (entry.order.clone(), age))
    }

    pub(super) fn begin_reading(&mut self, order_id: OrderId) {
        self.reading.entry(order_id).or_default().readers += 1;
    }

    pub(super) fn end_reading(&mut self, order_id: OrderId) {
        if let Some(slot) = self.reading.get_mut(&order_id) {
            slot.readers -= 1;
            if slot.readers == 0 {
                self.reading.remove(&order_id);
            }
        }
    }

    /// A client is about to get this.
    pub(super) fn saw(&mut self, order: &Arc<OrderSnapshot>) {
        self.note_shown(order);
        if let Some(slot) = self.reading.get_mut(&order.order_id) {
            slot.newest = Some(newer(slot.newest.take(), order));
        }
        if let Some(confirmed) = self.known.peek(&order.order_id).map(|entry| entry.confirmed) {
            self.put(order, confirmed);
        }
    }

    /// Takes what was read by a call that began then, while [`Entries::begin_reading`] was in force. Returns the newest state.
    pub(super) fn read(&mut self, order: &Arc<OrderSnapshot>, began: Instant) -> Arc<OrderSnapshot> {
        let seen = self.reading.get(&order.order_id).and_then(|slot| slot.newest.clone());
        let newest = newer(seen, order);
        let newest = self.put(&newest, began);
        // For the others who are reading it: they began earlier or later.
        self.saw(&newest);
        newest
    }

    /// Keeps a state, or the one that is known if that is not older, and the later confirmation of both. Returns what is kept.
    fn put(&mut self, order: &Arc<OrderSnapshot>, confirmed: Instant) -> Arc<OrderSnapshot> {
        let before = self.known.pop(&order.order_id);
        self.bytes -= before.as_ref().map_or(0, |entry| weight(&entry.order));
        let confirmed = before.as_ref().map_or(confirmed, |entry| entry.confirmed.max(confirmed));
        let order = newer(before.map(|entry| entry.order), order);
        self.bytes += weight(&order);
        self.known.put(order.order_id, Entry { order: order.clone(), confirmed });
        while self.bytes > self.config.bytes_max {
            let Some((_, oldest)) = self.known.pop_lru() else { break };
            self.bytes -= weight(&oldest.order);
        }
        order
    }
}

fn newer(known: Option<Arc<OrderSnapshot>>, order: &Arc<OrderSnapshot>) -> Arc<OrderSnapshot> {
    known.filter(|known| known.version() >= order.version()).unwrap_or_else(|| order.clone())
}

fn weight(order: &OrderSnapshot) -> usize {
    OVERHEAD_BYTES + BYTES_PER_BYTE * order.message.encoded_len()
}

#[cfg(test)]
mod tests {
    use holdfast_proto::order::v1 as pb;

    use super::*;
    use crate::cache::snapshot::tests::pending;

    const SECOND: Duration = Duration::from_secs(1);

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("a user")
    }

    fn snapshot(order_id: OrderId, version: i64) -> Arc<OrderSnapshot> {
        Arc::new(OrderSnapshot::new(pending(order_id, version)).expect("valid"))
    }

    fn terminal(order_id: OrderId, version: i64) -> Arc<OrderSnapshot> {
        let mut message = pending(order_id, version);
        message.set_status(pb::OrderStatus::Refunded);
        Arc::new(OrderSnapshot::new(message).expect("valid"))
    }

    /// A read that nothing else overlaps.
    fn read(entries: &mut Entries, order: &Arc<OrderSnapshot>, now: Instant) -> i64 {
        let order_id = order.order_id;
        entries.begin_reading(order_id);
        let newest = entries.read(order, now);
        entries.end_reading(order_id);
        newest.version()
    }

    fn version(order: Option<Arc<OrderSnapshot>>) -> Option<i64> {
        order.map(|order| order.version())
    }

    /// A state is known for a second, a terminal one for long; as a last known state both are kept for minutes, for their
    /// owner alone.
    #[test]
    fn a_state_is_known_for_its_time_and_to_its_owner() {
        let (mut entries, begin) = (Entries::new(&CacheConfig::default(), false), Instant::now());
        let (open, ended, alice) = (OrderId::generate(), OrderId::generate(), user("alice"));
        read(&mut entries, &snapshot(open, 2), begin);
        read(&mut entries, &terminal(ended, 5), begin);
        for (order_id, expected) in [(open, 2), (ended, 5)] {
            let soon = begin + SECOND / 2;
            assert_eq!(version(entries.fresh(order_id, &alice, soon)), Some(expected));
            assert!(entries.fresh(order_id, &user("bob"), soon).is_none());
            assert!(entries.last_known(order_id, &user("bob"), soon).is_none());
        }
        assert!(entries.fresh(open, &alice, begin + SECOND).is_none());
        assert_eq!(version(entries.fresh(ended, &alice, begin + 60 * SECOND)), Some(5));
        let (order, age) = entries.last_known(open, &alice, begin + 299 * SECOND).expect("it is known");
        assert_eq!((order.version(), age), (2, 299 * SECOND));
        assert!(entries.last_known(open, &alice, begin + 300 * SECOND).is_none());
    }

    /// What is pushed replaces what is older, but says nothing about how late it is.
    #[test]
    fn what_is_pushed_is_newer_but_confirms_nothing() {
        let (mut entries, begin) = (Entries::new(&CacheConfig::default(), false), Instant::now());
        let (order_id, alice) = (OrderId::generate(), user("alice"));
        entries.saw(&snapshot(order_id, 1));
        assert!(entries.last_known(order_id, &alice, begin).is_none(), "nobody has asked for it");
        read(&mut entries, &snapshot(order_id, 2), begin);
        entries.saw(&snapshot(order_id, 4));
        entries.saw(&snapshot(order_id, 3));
        assert_eq!(version(entries.fresh(order_id, &alice, begin + SECOND / 2)), Some(4));
        assert!(entries.fresh(order_id, &alice, begin + SECOND).is_none());
        entries.saw(&terminal(order_id, 5));
        assert_eq!(version(entries.fresh(order_id, &alice, begin + SECOND)), Some(5));
    }

    /// The answer of a call that began before a newer state was shown is older than it: whoever asks gets the newer one, and
    /// the older one is not kept. That holds for orders that were not known, and if memory was too short to keep them.
    #[test]
    fn an_answer_that_is_older_than_what_was_shown_is_not_kept() {
        let tiny = CacheConfig { bytes_max: 1, ..CacheConfig::default() };
        for config in [CacheConfig::default(), tiny] {
            let (mut entries, begin) = (Entries::new(&config, false), Instant::now());
            let order_id = OrderId::generate();
            entries.begin_reading(order_id);
            entries.begin_reading(order_id);
            entries.saw(&snapshot(order_id, 3));
            assert_eq!(entries.read(&snapshot(order_id, 2), begin).version(), 3);
            entries.end_reading(order_id);
            assert_eq!(entries.read(&snapshot(order_id, 1), begin).version(), 3);
            entries.end_reading(order_id);
            assert!(entries.reading.is_empty());
            assert_eq!(read(&mut entries, &snapshot(order_id, 4), begin), 4);
        }
    }

    /// Memory is bounded, and what was not asked for the longest makes room.
    #[test]
    fn memory_is_bounded() {
        let ids: Vec<OrderId> = (0..100).map(|_| OrderId::generate()).collect();
        let config = CacheConfig { bytes_max: 50 * weight(&snapshot(ids[0], 1)), ..CacheConfig::default() };
        let (mut entries, now, alice) = (Entries::new(&config, false), Instant::now(), user("alice"));
        for id in &ids {
            read(&mut entries, &snapshot(*id, 1), now);
            assert!(entries.fresh(ids[0], &alice, now).is_some());
            assert!(entries.bytes() <= config.bytes_max);
        }
        let kept = ids.iter().filter(|id| entries.known.contains(id)).count();
        assert_eq!((kept, entries.known.len()), (50, 50));
        assert!(
            entries.fresh(ids[1], &alice, now).is_none() && entries.fresh(ids[99], &alice, now).is_some()
        );
        for id in ids {
            entries.known.pop(&id).inspect(|entry| entries.bytes -= weight(&entry.order));
        }
        assert_eq!(entries.bytes(), 0);
    }

    /// With Redis, what can change is not known without asking it, and what was shown is noted although it is not kept.
    #[test]
    fn what_was_shown_is_noted_for_redis() {
        let (mut entries, now) = (Entries::new(&CacheConfig::default(), true), Instant::now());
        let (order_id, alice) = (OrderId::generate(), user("alice"));
        assert_eq!(entries.shown(order_id), 0);
        entries.saw(&snapshot(order_id, 3));
        entries.saw(&snapshot(order_id, 2));
        assert_eq!(entries.shown(order_id), 3);
        assert_eq!(read(&mut entries, &snapshot(order_id, 4), now), 4);
        assert_eq!(entries.shown(order_id), 4);
        assert!(entries.fresh(order_id, &alice, now).is_none());
        assert!(entries.last_known(order_id, &alice, now).is_some());
        assert_eq!(read(&mut entries, &terminal(order_id, 5), now), 5);
        assert_eq!(version(entries.fresh(order_id, &alice, now)), Some(5));
        for _ in 0..SHOWN_MAX.get() {
            entries.saw(&snapshot(OrderId::generate(), 1));
        }
        assert_eq!(entries.shown.as_ref().map(LruCache::len), Some(SHOWN_MAX.get()), "bounded");
    }

    /// Whatever is read, pushed and listed at the same time: nobody sees an order go back.
    #[test]
    fn nobody_sees_an_order_go_back() {
        for seed in 0..2_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let bytes_max = if random.bool() { 1 } else { 1 << 20 };
            let mut entries = Entries::new(&CacheConfig { bytes_max, ..CacheConfig::default() }, false);
            let (order_id, alice) = (OrderId::generate(), user("alice"));
            let (mut now, mut committed, mut shown) = (Instant::now(), 1, 0);
            // Reads that are under way: when they began, what was shown by then, and what they will get.
            let mut reads: Vec<(Instant, i64, i64)> = Vec::new();
            for _ in 0..60 {
                now += SECOND / 4;
                match random.u8(..6) {
                    0 => committed += 1,
                    1 => {
                        // It sees at least what was committed when it began.
                        entries.begin_reading(order_id);
                        reads.push((now, shown, committed));
                    }
                    2 if !reads.is_empty() => {
                        let (began, shown_before, answer) = reads.swap_remove(random.usize(..reads.len()));
                        let seen = entries.read(&snapshot(order_id, answer), began).version();
                        entries.end_reading(order_id);
                        assert!(seen >= shown_before, "seed {seed}: {seen} after {shown_before}");
                        shown = shown.max(seen);
                    }
                    3 => {
                        // A push, maybe a late one, to a client that has seen nothing newer.
                        let pushed = random.i64(1..=committed);
                        entries.saw(&snapshot(order_id, pushed));
                        shown = shown.max(pushed);
                    }
                    _ => {
                        let known = version(entries.fresh(order_id, &alice, now)).or_else(|| {
                            entries.last_known(order_id, &alice, now).map(|(order, _)| order.version())
                        });
                        if let Some(known) = known {
                            assert!(known >= shown, "seed {seed}: {known} after {shown}");
                        }
                    }
                }
            }
        }
    }
}
