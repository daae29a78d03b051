//! Handles of metrics that stay at hand: finding one by its labels each time costs more than most of what it measures.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{PoisonError, RwLock},
};

use metrics::Histogram;

/// The handles of one metric that were used, by a name and a key. They are kept for good, so neither may be what a peer likes.
#[derive(Debug)]
pub struct Handles<K, H>(RwLock<HashMap<String, HashMap<K, H>>>);

/// Those of a histogram.
pub type Histograms<K> = Handles<K, Histogram>;

impl<K, H> Default for Handles<K, H> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Copy + Eq + Hash, H: Clone> Handles<K, H> {
    /// Returns the handle of `name` and `key`, which `find` looks up the first time.
    pub fn get(&self, name: &str, key: K, find: impl FnOnce() -> H) -> H {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = known.get(name).and_then(|keys| keys.get(&key)) {
            return handle.clone();
        }
        drop(known);
        let handle = find();
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(name.to_owned()).or_default().insert(key, handle.clone());
        handle
    }
}

impl<K: Copy + Eq + Hash> Histograms<K> {
    /// Records `seconds` in the histogram of `name` and `key`, which `find` looks up the first time.
    pub fn record(&self, name: &str, key: K, seconds: f64, find: impl FnOnce() -> Histogram) {
        self.get(name, key, find).record(seconds);
    }
}
