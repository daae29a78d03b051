//! How a batch ends although some of it can't succeed, without a database: the pure core of [`super::batch`].

use std::{collections::HashSet, ops::Range};

use time::OffsetDateTime;

use super::{
    handler::Answer,
    sort::{Verdicts, place_of},
    verdict::{Verdict, is_in_the_data},
};
use crate::{database::DatabaseError, error::chain, event::Metadata, record::Record};

/// How a transaction over a range of a batch ended.
#[derive(Debug)]
pub enum Attempt {
    /// It was committed.
    Done,
    /// It failed.
    Failed(DatabaseError),
}

/// The parts of a batch that are still to do, and what was found against its records.
#[derive(Debug)]
pub struct Search {
    verdicts: Verdicts,
    /// The next one last: a range that fails is replaced by its halves.
    ranges: Vec<Range<usize>>,
}

impl Search {
    /// For a batch of so many records.
    #[must_use]
    pub fn new(records: usize) -> Self {
        // One range, not its numbers.
        #[expect(clippy::single_range_in_vec_init, reason = "the whole batch is the first range")]
        let ranges = vec![0..records];
        Self { verdicts: Verdicts::new(), ranges }
    }

    /// What was found so far.
    #[must_use]
    pub const fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }

    /// The range that a transaction is tried on next.
    pub fn next_range(&mut self) -> Option<Range<usize>> {
        let range = self.ranges.pop()?;
        if range.is_empty() { self.next_range() } else { Some(range) }
    }

    /// Learns how the transaction over `range` of `records` ended. An error means that the batch can't go on.
    pub fn learn(
        &mut self,
        records: &[Record],
        range: Range<usize>,
        attempt: Attempt,
        now: OffsetDateTime,
    ) -> Result<(), DatabaseError> {
        match attempt {
            Attempt::Done => {}
            Attempt::Failed(error) if !is_in_the_data(&error) => return Err(error),
            Attempt::Failed(error) if range.len() > 1 => {
                tracing::info!(
                    records = range.len(),
                    error = chain(&error),
                    "batch failed for a reason in the data, searching for the culprit"
                );
                let middle = range.start + range.len() / 2;
                self.ranges.push(middle..range.end);
                self.ranges.push(range.start..middle);
            }
            Attempt::Failed(error) => {
                let record = &records[range.start];
                let key = (place_of(record), record.offset);
                let Some(verdict) = Verdict::after_failure(self.verdicts.get(&key), &error, now) else {
                    return Err(error);
                };
                warn_of_failure(record, &verdict, &error);
                self.verdicts.insert(key, verdict);
                self.ranges.push(range);
            }
        }
        Ok(())
    }
}

/// Takes what the handler has refused into `verdicts`: the first record of each aggregate, because it decided about the later ones as if
/// that had been applied. Returns whether it refused any.
pub fn refuse<'r>(
    accepted: impl ExactSizeIterator<Item = &'r Record>,
    answers: Vec<Answer>,
    verdicts: &mut Verdicts,
    now: OffsetDateTime,
) -> Result<bool, DatabaseError> {
    if answers.len() != accepted.len() {
        return Err(DatabaseError::Corrupt("the handler did not answer for each event".into()));
    }
    let mut subjects = HashSet::new();
    for (record, answer) in accepted.zip(answers) {
        if let Answer::DeadLetter(poison) = answer
            && subjects.insert(Metadata::subject_of(record))
        {
            verdicts.insert((place_of(record), record.offset), Verdict::new(poison, 1, now));
        }
    }
    Ok(!subjects.is_empty())
}

fn warn_of_failure(record: &Record, verdict: &Verdict, error: &DatabaseError) {
    tracing::warn!(
        topic = record.topic,
        partition = record.partition,
        offset = record.offset,
        attempt = verdict.attempts,
        error = chain(error),
        order_id = Metadata::subject_of(record),
        "handling failed for a reason in the data"
    );
}
