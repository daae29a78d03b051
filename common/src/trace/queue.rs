//! Spans that wait for the exporter. Whoever ends a span neither waits nor wakes anybody, unless a batch is full: at a thousand spans a
//! second to wake a task for each would cost more than the spans.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::span::Recording;

/// Spans that wait. One takes about half a kibibyte.
pub(super) const QUEUE_SPANS_MAX: usize = 8_192;
/// Spans of one request, well below the 4 MiB that collectors take.
pub(super) const BATCH_SPANS_MAX: usize = 1_024;
/// A batch is filled for this long.
const BATCH_TIME_MAX: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Vec<Recording>>,
    full: Notify,
}

impl Queue {
    /// Returns whether there was room for it.
    pub(super) fn push(&self, recording: Recording) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= QUEUE_SPANS_MAX {
            return false;
        }
        waiting.push(recording);
        let is_full = waiting.len() == BATCH_SPANS_MAX;
        drop(waiting);
        if is_full {
            self.full.notify_one();
        }
        true
    }

    /// Waits until there is a batch or its time is over.
    pub(super) async fn filled(&self) {
        let is_full = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len() >= BATCH_SPANS_MAX;
        if !is_full() {
            // Woken or not, what is there is taken.
            let _ = tokio::time::timeout(BATCH_TIME_MAX, self.full.notified()).await;
        }
    }

    /// The oldest spans, as many as fit into a batch.
    pub(super) fn take(&self) -> Vec<Recording> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let size = waiting.len().min(BATCH_SPANS_MAX);
        let newer = waiting.split_off(size);
        std::mem::replace(&mut *waiting, newer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Kind, TraceContext};

    fn recording(name: String) -> Recording {
        Recording::begun(TraceContext::begin(true), None, Kind::Client, name.into())
    }

    /// Batches are taken in order, a full one at once and a part of one when its time is over; what finds the queue full is refused.
    #[tokio::test(start_paused = true)]
    async fn spans_wait_in_order_and_within_bounds() {
        let queue = Queue::default();
        let pushed = (0..=QUEUE_SPANS_MAX).map(|number| queue.push(recording(number.to_string())));
        assert_eq!(pushed.filter(|room| *room).count(), QUEUE_SPANS_MAX);
        let begun = tokio::time::Instant::now();
        let mut names = Vec::new();
        while names.len() < QUEUE_SPANS_MAX {
            queue.filled().await;
            let batch = queue.take();
            assert_eq!(batch.len(), BATCH_SPANS_MAX);
            names.extend(batch.into_iter().map(|recording| recording.name.into_owned()));
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "none was waited for");
        assert!(names.iter().enumerate().all(|(number, name)| *name == number.to_string()));

        assert!(queue.push(recording("last".to_owned())));
        // That the first batch was full was not waited for; what it left behind wakes once.
        queue.filled().await;
        queue.filled().await;
        assert_eq!(begun.elapsed(), BATCH_TIME_MAX);
        assert_eq!(queue.take().len(), 1);
        assert!(queue.take().is_empty());
    }
}
