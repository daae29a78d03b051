//! How far a client is, and what comes next. Pure.
//!
//! Changes come from several replicas, so they may arrive late, twice and in another order, and some may not arrive at all.
//! Each one says what it follows: a change of an order follows the version before, a change of a user's orders follows the
//! position before. One that follows what the client has is next; one that is further on waits; one that is not further on
//! is dropped. What was read follows anything. So a client never sees a state twice, nor one that is older than what it
//! has seen.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::change::Change;

/// Changes that wait for one before them. More are dropped, and the watcher looks again.
const AHEAD_MAX: usize = 256;

/// What the changes are counted by, which is also the id of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Track {
    /// One order: by its version.
    Version,
    /// All orders of a user: by the position of the change.
    Position,
}

impl Track {
    pub(crate) fn number(self, change: &Change) -> i64 {
        match self {
            Self::Version => change.version(),
            Self::Position => change.position,
        }
    }

    /// The number that must have come before.
    fn follows(self, change: &Change) -> i64 {
        match self {
            Self::Version => change.previous_version,
            Self::Position => change.position - 1,
        }
    }
}

/// What became of a change that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    /// It is next, waits, or is known already.
    Taken,
    /// Too many wait; those that did are dropped, so the watcher must look again.
    Dropped,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cursor {
    track: Track,
    /// All changes up to here are in `ready`, have been sent, or are outdated by one that is or has.
    covered: i64,
    ready: VecDeque<Arc<Change>>,
    ahead: BTreeMap<i64, Arc<Change>>,
}

impl Cursor {
    /// For a client that has everything up to `covered`; 0 if it has nothing.
    pub(super) const fn new(track: Track, covered: i64) -> Self {
        Self { track, covered, ready: VecDeque::new(), ahead: BTreeMap::new() }
    }

    pub(super) const fn track(&self) -> Track {
        self.track
    }

    pub(super) const fn covered(&self) -> i64 {
        self.covered
    }

    /// Takes a change that was pushed.
    pub(super) fn offer(&mut self, change: Arc<Change>) -> Offered {
        let number = self.track.number(&change);
        if number <= self.covered {
            return Offered::Taken;
        }
        if self.ahead.len() >= AHEAD_MAX {
            self.ahead.clear();
            return Offered::Dropped;
        }
        self.ahead.insert(number, change);
        self.release();
        Offered::Taken
    }

    /// Takes what was read: the states that changed after [`Cursor::covered`], in order, and up to where this is everything,
    /// if it is.
    pub(super) fn read(&mut self, changes: impl IntoIterator<Item = Arc<Change>>, complete_to: Option<i64>) {
        for change in changes {
            let number = self.track.number(&change);
            if number > self.covered {
                self.covered = number;
                self.ready.push_back(change);
            }
        }
        self.covered = self.covered.max(complete_to.unwrap_or_default());
        self.ahead = self.ahead.split_off(&(self.covered + 1));
        self.release();
    }

    fn release(&mut self) {
        while let Some(first) = self.ahead.first_entry() {
            if self.track.follows(first.get()) > self.covered {
                return;
            }
            self.covered = *first.key();
            self.ready.push_back(first.remove());
        }
    }

    /// The next state for the client.
    pub(super) fn next(&mut self) -> Option<Arc<Change>> {
        self.ready.pop_front()
    }

    /// Whether a change waits for one that has not arrived.
    pub(super) fn has_gap(&self) -> bool {
        !self.ahead.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::OrderId;

    use super::*;
    use crate::live::change::tests::change;

    fn drain(cursor: &mut Cursor) -> Vec<i64> {
        let track = cursor.track();
        std::iter::from_fn(|| cursor.next()).map(|change| track.number(&change)).collect()
    }

    fn offer(cursor: &mut Cursor, change: Change) -> Vec<i64> {
        assert_eq!(cursor.offer(Arc::new(change)), Offered::Taken);
        drain(cursor)
    }

    /// Changes of one order come out once and in order, however they arrive.
    #[test]
    fn versions_come_out_once_and_in_order() {
        let id = OrderId::generate();
        let mut cursor = Cursor::new(Track::Version, 0);
        cursor.read([Arc::new(Change { previous_version: 0, ..change(id, 0, 2) })], Some(2));
        assert_eq!(drain(&mut cursor), [2], "the current state, whatever was before");
        for (version, expected) in [(1, vec![]), (2, vec![]), (4, vec![]), (5, vec![]), (3, vec![3, 4, 5])] {
            assert_eq!(offer(&mut cursor, change(id, 0, version)), expected, "{version}");
            assert_eq!(cursor.has_gap(), [4, 5].contains(&version), "{version}");
        }
        // Two events in one transaction: version 6 was never committed.
        assert_eq!(offer(&mut cursor, Change { previous_version: 5, ..change(id, 0, 7) }), [7]);
        assert_eq!(offer(&mut cursor, change(id, 0, 6)), [0; 0]);
    }

    /// What is read after something was missed leads past it; what was missed is not sent when it comes after all.
    #[test]
    fn what_is_read_outdates_what_was_missed() {
        let (first, second) = (OrderId::generate(), OrderId::generate());
        let mut cursor = Cursor::new(Track::Position, 3);
        assert_eq!(offer(&mut cursor, change(first, 6, 3)), [0; 0]);
        assert_eq!(offer(&mut cursor, change(second, 9, 2)), [0; 0]);
        // Positions 4 to 7 are one state of each order; 5 and 6 were outdated by the last one.
        let states = [change(second, 4, 1), change(first, 7, 4)].map(Arc::new);
        cursor.read(states, Some(7));
        assert_eq!(drain(&mut cursor), [4, 7]);
        assert!(cursor.has_gap(), "8 is missing");
        for position in 4..=7 {
            assert_eq!(offer(&mut cursor, change(first, position, 2)), [0; 0], "{position}");
        }
        assert_eq!(offer(&mut cursor, change(first, 8, 5)), [8, 9]);
        assert!(!cursor.has_gap());
    }

    /// A page that is not the last one promises nothing behind its end: a change that comes meanwhile waits for the rest.
    #[test]
    fn a_change_waits_for_the_rest_of_what_is_read() {
        let (first, second) = (OrderId::generate(), OrderId::generate());
        let mut cursor = Cursor::new(Track::Position, 0);
        cursor.read([Arc::new(change(first, 2, 2))], None);
        assert_eq!(
            offer(&mut cursor, change(second, 6, 2)),
            [2],
            "the state of `second` before is on another page"
        );
        cursor.read([Arc::new(change(second, 4, 1))], Some(5));
        assert_eq!(drain(&mut cursor), [4, 6]);
    }

    /// However many changes wait, memory is bounded.
    #[test]
    fn the_number_of_waiting_changes_is_bounded() {
        let id = OrderId::generate();
        let mut cursor = Cursor::new(Track::Position, 0);
        for position in 0..i64::try_from(AHEAD_MAX).expect("a small number") {
            assert_eq!(cursor.offer(Arc::new(change(id, position + 2, 1))), Offered::Taken);
        }
        assert_eq!(cursor.offer(Arc::new(change(id, 1000, 1))), Offered::Dropped);
        assert!(!cursor.has_gap());
        assert_eq!(offer(&mut cursor, change(id, 1, 1)), [1]);
    }

    /// Whatever is lost, repeated, shuffled and read in between: each state is sent at most once, no order goes back, and
    /// after a last look the client has the last state of each order.
    #[test]
    fn whatever_arrives_no_order_goes_back() {
        for seed in 0..2_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let orders: Vec<OrderId> = (0..3).map(|_| OrderId::generate()).collect();
            let mut versions = [0; 3];
            let history: Vec<Change> = (1..=random.i64(1..40))
                .map(|position| {
                    let order = random.usize(..orders.len());
                    versions[order] += 1;
                    change(orders[order], position, versions[order])
                })
                .collect();
            let mut cursor = Cursor::new(Track::Position, 0);
            let mut seen: BTreeMap<OrderId, i64> = BTreeMap::new();
            let mut deliver = |cursor: &mut Cursor| {
                while let Some(change) = cursor.next() {
                    let before = seen.insert(change.order.order_id, change.version()).unwrap_or_default();
                    assert!(before < change.version(), "seed {seed}: {before} and then {}", change.version());
                }
            };
            let mut arriving: Vec<Change> =
                history.iter().flat_map(|one| std::iter::repeat_n(one.clone(), random.usize(..3))).collect();
            random.shuffle(&mut arriving);
            for change in arriving {
                if random.u8(..10) == 0 {
                    look(&mut cursor, &history[..random.usize(..history.len())]);
                }
                cursor.offer(Arc::new(change));
                deliver(&mut cursor);
            }
            look(&mut cursor, &history);
            deliver(&mut cursor);
            let last = orders.iter().zip(versions).filter(|(_, version)| *version > 0);
            assert_eq!(seen, last.map(|(id, version)| (*id, version)).collect(), "seed {seed}");
        }
    }

    /// Reads the states of a moment at which only `history` was committed, as order does.
    fn look(cursor: &mut Cursor, history: &[Change]) {
        let mut states: BTreeMap<OrderId, &Change> = BTreeMap::new();
        for change in history {
            states.insert(change.order.order_id, change);
        }
        let mut states: Vec<_> = states
            .into_values()
            .filter(|state| state.position > cursor.covered())
            .cloned()
            .map(Arc::new)
            .collect();
        states.sort_by_key(|state| state.position);
        cursor.read(states, history.last().map(|last| last.position));
    }
}
