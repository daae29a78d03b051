//! Histograms that stay at hand: finding one by its labels each time costs more than most of what it measures.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{PoisonError, RwLock},
};

use metrics::Histogram;

/// The histograms of one metric that were used, by a name and a key. They are kept for good, so neither may be what a peer likes.
#[derive(Debug)]
pub struct Histograms<K>(RwLock<HashMap<String, HashMap<K, Histogram>>>);

impl<K> Default for Histograms<K> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Copy + Eq + Hash> Histograms<K> {
    /// Records `seconds` in the histogram of `name` and `key`, which `find` looks up the first time.
    pub fn record(&self, name: &str, key: K, seconds: f64, find: impl FnOnce() -> Histogram) {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(histogram) = known.get(name).and_then(|keys| keys.get(&key)) {
            return histogram.record(seconds);
        }
        drop(known);
        let histogram = find();
        histogram.record(seconds);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(name.to_owned()).or_default().insert(key, histogram);
    }
}
