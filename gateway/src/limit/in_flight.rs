//! How many requests of one key may be in progress at a time.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Requests in progress by the hash of their key. It holds a key only while a request of it is in progress, so it is bounded
/// by the number of those.
#[derive(Debug, Clone)]
pub(super) struct InFlight {
    most: usize,
    hasher: RandomState,
    counts: Arc<Mutex<HashMap<u64, usize>>>,
}

impl InFlight {
    pub(super) fn new(most: usize) -> Self {
        Self { most, hasher: RandomState::new(), counts: Arc::default() }
    }

    /// A place for one more request of this key, until the place is dropped; none if there are as many as may be.
    pub(super) fn enter(&self, key: impl Hash) -> Option<Place> {
        let key = self.hasher.hash_one(key);
        let mut counts = lock(&self.counts);
        let count = counts.entry(key).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { key, number: *count, counts: self.counts.clone() })
    }
}

/// A request in progress.
#[derive(Debug)]
pub(crate) struct Place {
    key: u64,
    number: usize,
    counts: Arc<Mutex<HashMap<u64, usize>>>,
}

impl Place {
    /// How many there were of its key with it, when it was taken.
    pub(super) const fn number(&self) -> usize {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

fn lock(counts: &Mutex<HashMap<u64, usize>>) -> MutexGuard<'_, HashMap<u64, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each key has its own places; a place that is left is free again, and a key without requests takes no room.
    #[test]
    fn a_place_that_is_left_is_free_again() {
        let in_flight = InFlight::new(2);
        let first = in_flight.enter("alice").expect("free");
        let second = in_flight.enter("alice").expect("free");
        assert!(in_flight.enter("alice").is_none());
        assert!(in_flight.enter("bob").is_some());
        drop(first);
        drop(in_flight.enter("alice").expect("free again"));
        drop(second);
        assert!(lock(&in_flight.counts).is_empty());
    }
}
