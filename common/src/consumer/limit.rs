//! The limit on dead letters. One bad record is a record to park; nothing but bad records is an outage of their writer,
//! or of this service, and parking them all would bury the operator. Beyond the limit the consumer stops: the records
//! stay in their topic, where nothing is lost.
//!
//! It resumes on its own: after a pause it takes one record. If that one can be handled, it goes back to normal; if
//! not, the record is parked, and the next pause is longer. Or an operator resumes it, with an allowance of dead
//! letters that may still be parked ([`super::stops`]).

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::batch::Counts;

/// Number of records that the share is calculated from.
const WINDOW_RECORDS: usize = 1_000;
/// The share counts once there are this many records.
const WINDOW_RECORDS_MIN: usize = 200;
/// The first pause is the configured one, each next one twice as long, up to this many times.
const PAUSE_FACTOR_MAX: u32 = 8;

/// Settings of the limit.
#[derive(Debug, Clone, Copy)]
pub struct LimitConfig {
    /// Dead letters in a row that stop the consumer. Checked after each batch, so up to a batch more are parked.
    pub in_a_row_max: u32,
    /// Also stops it when more than this share of the last 1,000 records was parked.
    pub share_max: f64,
    /// The first pause.
    pub pause: Duration,
}

/// What the consumer may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Take a batch.
    Batch,
    /// Take one record, as a test.
    One,
    /// Wait until then.
    Wait(Instant),
}

#[derive(Debug)]
enum State {
    Running,
    Stopped { reason: String, until: Instant, factor: u32 },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Limit {
    config: LimitConfig,
    state: State,
    /// Dead letters that an operator has allowed before the limit applies again.
    allowance: u64,
    in_a_row: u64,
    /// True for a record that was parked.
    window: VecDeque<bool>,
    parked_in_window: usize,
}

impl Limit {
    pub(super) fn new(config: LimitConfig) -> Self {
        // There from the start: a board must not confuse "never stopped" with "does not say".
        metrics::gauge!(crate::metric::CONSUMER_STOPPED_BY_DEAD_LETTERS).set(0.0);
        Self {
            config,
            state: State::Running,
            allowance: 0,
            in_a_row: 0,
            window: VecDeque::new(),
            parked_in_window: 0,
        }
    }

    pub(super) fn next(&self) -> Next {
        match self.state {
            State::Running => Next::Batch,
            State::Stopped { until, .. } if Instant::now() >= until => Next::One,
            State::Stopped { until, .. } => Next::Wait(until),
        }
    }

    /// Why it stops; empty while it runs.
    pub(super) fn stopped_for(&self) -> &str {
        match &self.state {
            State::Running => "",
            State::Stopped { reason, .. } => reason,
        }
    }

    /// An operator resumes it, and it may park this many dead letters before the limit applies again.
    pub(super) fn resume(&mut self, allowance: u64) {
        tracing::info!(allowance, "consumer resumes at an operator's request");
        metrics::gauge!(crate::metric::CONSUMER_STOPPED_BY_DEAD_LETTERS).set(0.0);
        *self = Self { allowance, ..Self::new(self.config) };
    }

    /// What is left of an operator's allowance.
    pub(super) const fn allowance(&self) -> u64 {
        self.allowance
    }

    /// An operator takes back what is left of the allowance: the limit applies again.
    pub(super) fn end_allowance(&mut self) {
        tracing::info!(left = self.allowance, "an operator has taken the allowance back");
        self.allowance = 0;
    }

    /// What became of the records of a batch. Records that wait behind another one, and duplicates, don't count either
    /// way.
    pub(super) fn record(&mut self, counts: Counts) {
        let (poisoned, applied) = (
            (counts.parked + counts.set_aside - counts.blocked).unsigned_abs(),
            counts.applied.unsigned_abs(),
        );
        if let State::Stopped { until, factor, .. } = &mut self.state {
            if applied > 0 {
                tracing::info!("consumer resumes: a record could be handled");
                metrics::gauge!(crate::metric::CONSUMER_STOPPED_BY_DEAD_LETTERS).set(0.0);
                *self = Self::new(self.config);
            } else if poisoned > 0 {
                *factor = (*factor * 2).min(PAUSE_FACTOR_MAX);
                *until = Instant::now() + self.config.pause * *factor;
            }
            return;
        }
        let forgiven = poisoned.min(self.allowance);
        self.allowance -= forgiven;
        let poisoned = poisoned - forgiven;
        self.in_a_row = if applied > 0 { 0 } else { self.in_a_row + poisoned };
        for parked in std::iter::repeat_n(true, saturated(poisoned))
            .chain(std::iter::repeat_n(false, saturated(applied)))
        {
            self.window.push_back(parked);
            self.parked_in_window += usize::from(parked);
            if self.window.len() > WINDOW_RECORDS {
                self.parked_in_window -= usize::from(self.window.pop_front() == Some(true));
            }
        }
        if let Some(reason) = self.reason() {
            metrics::gauge!(crate::metric::CONSUMER_STOPPED_BY_DEAD_LETTERS).set(1.0);
            metrics::counter!(crate::metric::CONSUMER_STOPS_TOTAL).increment(1);
            tracing::error!(reason, "consumer stops: too many dead letters");
            self.state = State::Stopped { reason, until: Instant::now() + self.config.pause, factor: 1 };
        }
    }

    /// Why the limit is reached, if it is.
    fn reason(&self) -> Option<String> {
        if self.in_a_row >= u64::from(self.config.in_a_row_max) {
            return Some(format!("{} dead letters in a row", self.in_a_row));
        }
        #[expect(clippy::cast_precision_loss, reason = "at most 1,000")]
        let share = self.parked_in_window as f64 / self.window.len().max(1) as f64;
        (self.window.len() >= WINDOW_RECORDS_MIN && share > self.config.share_max).then(|| {
            format!("{} of the last {} records are dead letters", self.parked_in_window, self.window.len())
        })
    }
}

/// More than the window can hold makes no difference.
fn saturated(count: u64) -> usize {
    usize::try_from(count).unwrap_or(WINDOW_RECORDS).min(WINDOW_RECORDS)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    fn limit() -> Limit {
        Limit::new(LimitConfig { in_a_row_max: 100, share_max: 0.5, pause: PAUSE })
    }

    fn counts(applied: i64, poisoned: i64, blocked: i64) -> Counts {
        Counts { applied, parked: poisoned + blocked, blocked, ..Counts::default() }
    }

    /// A hundred dead letters in a row stop it; one good record in between does not let them add up.
    #[tokio::test(start_paused = true)]
    async fn dead_letters_in_a_row_stop_it() {
        let mut limit = limit();
        limit.record(counts(0, 99, 0));
        limit.record(counts(1, 0, 0));
        limit.record(counts(0, 99, 0));
        assert_eq!(limit.next(), Next::Batch);
        limit.record(counts(0, 1, 0));
        assert_eq!(limit.next(), Next::Wait(Instant::now() + PAUSE));
    }

    /// A high share of dead letters stops it, once there are enough records for a share to mean something.
    #[tokio::test(start_paused = true)]
    async fn a_high_share_stops_it() {
        let mut limit = limit();
        for _ in 0..9 {
            limit.record(counts(7, 13, 0));
            assert_eq!(limit.next(), Next::Batch);
        }
        limit.record(counts(7, 13, 0));
        assert!(matches!(limit.next(), Next::Wait(_)));
    }

    /// One percent of poison, and whatever waits behind it, never stops it.
    #[tokio::test(start_paused = true)]
    async fn a_little_poison_never_stops_it() {
        let mut limit = limit();
        for _ in 0..1_000 {
            limit.record(counts(99, 1, 50));
            limit.record(counts(0, 0, 500));
            assert_eq!(limit.next(), Next::Batch);
        }
    }

    /// An operator's request ends the stop at once, and the allowed dead letters pass before the limit applies again.
    #[tokio::test(start_paused = true)]
    async fn an_operator_can_resume_it() {
        let mut limit = limit();
        limit.record(counts(0, 100, 0));
        assert_eq!(limit.stopped_for(), "100 dead letters in a row");
        limit.resume(250);
        for _ in 0..3 {
            assert_eq!((limit.next(), limit.stopped_for()), (Next::Batch, ""));
            limit.record(counts(0, 100, 0));
        }
        assert_eq!(limit.next(), Next::Batch, "50 beyond the allowance");
        limit.record(counts(0, 50, 0));
        assert!(matches!(limit.next(), Next::Wait(_)));
        limit.resume(0);
        assert_eq!(limit.next(), Next::Batch, "counted from zero");
    }

    /// What is left of an allowance is known, and once it is taken back the limit applies to the next dead letter.
    #[tokio::test(start_paused = true)]
    async fn an_allowance_can_be_taken_back() {
        let mut limit = limit();
        limit.record(counts(0, 100, 0));
        limit.resume(5_000);
        limit.record(counts(3, 300, 20));
        assert_eq!((limit.allowance(), limit.next()), (4_700, Next::Batch));
        limit.end_allowance();
        limit.record(counts(0, 99, 0));
        assert_eq!((limit.allowance(), limit.next()), (0, Next::Batch));
        limit.record(counts(0, 1, 0));
        assert!(matches!(limit.next(), Next::Wait(_)));
    }

    /// After the pause one record is taken: poison makes the next pause longer, one that doesn't count is followed by
    /// another, and a good one resumes the consumer.
    #[tokio::test(start_paused = true)]
    async fn it_resumes_on_its_own() {
        let mut limit = limit();
        limit.record(counts(0, 100, 0));
        for factor in [1, 2, 4, 8, 8] {
            assert_eq!(limit.next(), Next::Wait(Instant::now() + PAUSE * factor));
            advance(PAUSE * factor).await;
            assert_eq!(limit.next(), Next::One);
            limit.record(counts(0, 0, 1));
            assert_eq!(limit.next(), Next::One);
            limit.record(counts(0, 1, 0));
        }
        advance(PAUSE * 8).await;
        limit.record(counts(1, 0, 0));
        assert_eq!(limit.next(), Next::Batch);
        limit.record(counts(0, 99, 0));
        assert_eq!(limit.next(), Next::Batch, "counted from zero");
    }
}
