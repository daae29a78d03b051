//! Where the state of each key is kept: a map that stays small whoever comes (pitfalls P33).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};

/// Maps, each behind a lock of its own.
const SHARDS: usize = 16;

/// The state of each key, by the hash of the key: the time at which its bucket is full again. It never holds more keys than
/// it may. When there is no room for a new one, those that are full again are dropped, as they are worth nothing; if that
/// is not enough, a quarter of the rest is, those nearest to full, so that who sends most is the last to be forgotten.
#[derive(Debug)]
pub(super) struct BoundedStore {
    shards: [Mutex<HashMap<u64, Nanos>>; SHARDS],
    shard_keys_max: usize,
    /// What one request costs: a new bucket is full again this long after now.
    cost: Nanos,
}

impl BoundedStore {
    /// `cost` is the time in which one request's worth comes back.
    pub(super) fn new(keys_max: usize, cost: Duration) -> Self {
        let shard_keys_max = (keys_max / SHARDS).max(1);
        Self { shards: std::array::from_fn(|_| Mutex::default()), shard_keys_max, cost: cost.into() }
    }

    fn make_room(&self, keys: &mut HashMap<u64, Nanos>, now: Nanos) {
        keys.retain(|_, full_at| *full_at > now);
        if keys.len() < self.shard_keys_max {
            return;
        }
        let mut full_at: Vec<_> = keys.values().copied().collect();
        let quarter = full_at.len() / 4;
        let (_, &mut limit, _) = full_at.select_nth_unstable(quarter);
        keys.retain(|_, full_at| *full_at > limit);
    }
}

fn lock(shard: &Mutex<HashMap<u64, Nanos>>) -> MutexGuard<'_, HashMap<u64, Nanos>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateStore for BoundedStore {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // The lowest bits choose the shard: keys are hashes, so all bits are alike.
        let shard = usize::try_from(key % SHARDS as u64).unwrap_or_default();
        let mut keys = lock(&self.shards[shard]);
        if let Some(full_at) = keys.get_mut(key) {
            let (outcome, next) = decide(Some(*full_at))?;
            *full_at = next;
            return Ok(outcome);
        }
        let (outcome, full_at) = decide(None)?;
        if keys.len() >= self.shard_keys_max {
            self.make_room(&mut keys, full_at.saturating_sub(self.cost));
        }
        keys.insert(*key, full_at);
        Ok(outcome)
    }
}

impl ShrinkableKeyedStateStore<u64> for BoundedStore {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in &self.shards {
            lock(shard).retain(|_, full_at| *full_at > drop_below);
        }
    }

    fn shrink_to_fit(&self) {
        for shard in &self.shards {
            lock(shard).shrink_to_fit();
        }
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
