//! One batch, one transaction; and how a culprit is found so that poison costs its neighbours nothing.
//!
//! A transaction locks the positions, records the batch in the inbox, **sorts** it ([`super::sort`], pure), applies
//! what the handler accepts, parks the rest and moves the positions on. If it fails for a reason in the data, it runs
//! again on halves of the batch until the culprit is alone; what was found against a record then decides how it is
//! sorted.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use futures_util::FutureExt as _;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

pub use super::inbox::Counts;
use super::{
    group::Group,
    handler::{Answer, Handler},
    inbox::{self, Entry, Place, Positions},
    park,
    sort::{NewLetter, Seen, Verdicts, compare, place_of, sort},
    verdict::{Poison, Verdict, is_in_the_data},
};
use crate::{
    database::{BACKGROUND_TIME_MAX, Conflicting, DatabaseError},
    deadline::Deadline,
    error::chain,
    event::Metadata,
    record::Record,
};

/// Handles the records of one consumer group in its database.
pub struct Processor<H: Handler> {
    group: Group<H>,
}

impl<H: Handler> Clone for Processor<H> {
    fn clone(&self) -> Self {
        Self { group: self.group.clone() }
    }
}

/// Why a transaction was not committed.
enum Stopped {
    Failed(DatabaseError),
    /// The handler refused records; without them the batch can succeed.
    Refused(Vec<(Place, i64, Poison)>),
}

impl From<DatabaseError> for Stopped {
    fn from(error: DatabaseError) -> Self {
        Self::Failed(error)
    }
}

impl Conflicting for Stopped {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Failed(error) if error.is_conflict())
    }
}

impl<H: Handler> Processor<H> {
    /// A processor for `group`.
    #[must_use]
    pub const fn new(group: Group<H>) -> Self {
        Self { group }
    }

    /// The group that it works for.
    #[must_use]
    pub const fn group(&self) -> &Group<H> {
        &self.group
    }

    /// Handles `records`, in order, each exactly once. An error means *try again*: the infrastructure is away and
    /// nothing that is left was done. Everything else ends as applied, duplicate, parked or set aside.
    pub async fn process(&self, records: Arc<[Record]>) -> Result<Counts, DatabaseError> {
        let mut verdicts = Verdicts::new();
        let mut total = Counts::default();
        // Ranges that are still to do, the next one last: a range that fails is replaced by its halves.
        let mut ranges = Vec::new();
        ranges.push(0..records.len());
        while let Some(range) = ranges.pop() {
            if range.is_empty() {
                continue;
            }
            let now = OffsetDateTime::now_utc();
            match self.transact(&records, range.clone(), &verdicts).await {
                Ok((counts, letters)) => {
                    total += counts;
                    // Only after the commit: a transaction that was not committed has parked nothing.
                    for letter in letters {
                        park::report(&letter, &records[range.start + letter.index]);
                    }
                }
                Err(Stopped::Refused(refused)) => {
                    for (place, offset, poison) in refused {
                        verdicts.insert((place, offset), Verdict::new(poison, 1, now));
                    }
                    ranges.push(range);
                }
                Err(Stopped::Failed(error)) if !is_in_the_data(&error) => return Err(error),
                Err(Stopped::Failed(error)) if range.len() > 1 => {
                    tracing::info!(
                        records = range.len(),
                        error = chain(&error),
                        "batch failed for a reason in the data, searching for the culprit"
                    );
                    let middle = range.start + range.len() / 2;
                    ranges.push(middle..range.end);
                    ranges.push(range.start..middle);
                }
                Err(Stopped::Failed(error)) => {
                    let record = &records[range.start];
                    let key = (place_of(record), record.offset);
                    let Some(verdict) = Verdict::after_failure(verdicts.get(&key), &error, now) else {
                        return Err(error);
                    };
                    warn_of_failure(record, &verdict, &error);
                    verdicts.insert(key, verdict);
                    ranges.push(range);
                }
            }
        }
        Ok(total)
    }

    async fn transact(
        &self,
        records: &Arc<[Record]>,
        range: Range<usize>,
        verdicts: &Verdicts,
    ) -> Result<(Counts, Vec<NewLetter>), Stopped> {
        let input = (self.clone(), records.clone(), range, Arc::new(verdicts.clone()));
        let deadline = Deadline::after(BACKGROUND_TIME_MAX);
        self.group
            .database
            .transaction("consumer.batch", deadline, input, |connection, (this, records, range, verdicts)| {
                async move { this.apply_batch(connection, &records[range], &verdicts).await }.boxed()
            })
            .await
    }

    /// What one transaction does.
    async fn apply_batch(
        &self,
        connection: &mut PgConnection,
        records: &[Record],
        verdicts: &Verdicts,
    ) -> Result<(Counts, Vec<NewLetter>), Stopped> {
        let group = self.group.name;
        let (positions, seen) = self.lock_and_compare(connection, records).await?;
        let blockers = if positions.any_parked {
            let subjects: Vec<&str> = records.iter().filter_map(Metadata::subject_of).collect();
            park::blockers(connection, group, &subjects).await?
        } else {
            HashMap::new()
        };
        let check = |record: &Record| self.group.check(record);
        let sorted = sort(records, &seen, positions.by_place, blockers, verdicts, check);
        if !sorted.events.is_empty() {
            let answers = self.group.handler.handle(connection, &sorted.events).await?;
            let accepted: Vec<&Record> = sorted.accepted.iter().map(|index| &records[*index]).collect();
            let refused = refused(&accepted, answers)?;
            if !refused.is_empty() {
                return Err(Stopped::Refused(refused));
            }
        }
        park::park(connection, group, records, &sorted.letters).await?;
        inbox::advance(connection, group, &sorted.counts, &sorted.positions).await?;
        Ok((sorted.counts.into_values().sum(), sorted.letters))
    }

    /// Locks the positions, records the batch in the inbox, and says for each record whether it is there for the first
    /// time.
    async fn lock_and_compare(
        &self,
        connection: &mut PgConnection,
        records: &[Record],
    ) -> Result<(Positions, Vec<Seen>), DatabaseError> {
        let group = self.group.name;
        let places = records.iter().map(place_of).collect();
        let entries: Vec<Entry> = records.iter().map(Entry::of).collect();
        // Of records that share an id, the first one's entry; it matters which when their payloads differ.
        let unique: BTreeMap<Uuid, Entry> =
            entries.iter().rev().map(|entry| (entry.event_id, entry.clone())).collect();
        let unique: Vec<Entry> = unique.into_values().collect();
        let (positions, inserted) = inbox::lock_and_insert(connection, group, &places, &unique).await?;
        let old = unique.iter().map(|entry| entry.event_id).filter(|id| !inserted.contains(id));
        let known = inbox::payload_hashes(connection, group, &old.collect::<Vec<_>>()).await?;

        let (mut seen, derived) = compare(records, &entries, known);
        let inserted: HashSet<Uuid> = inbox::insert(connection, group, &derived).await?;
        for seen in &mut seen {
            if let Seen::OtherPayload { event_id } = *seen
                && !inserted.contains(&event_id)
            {
                *seen = Seen::Before;
            }
        }
        Ok((positions, seen))
    }
}

/// The records that the handler refused: the first of each aggregate, because the later ones were handled on top of
/// effects that are rolled back now.
fn refused(records: &[&Record], answers: Vec<Answer>) -> Result<Vec<(Place, i64, Poison)>, DatabaseError> {
    if answers.len() != records.len() {
        return Err(DatabaseError::Corrupt("the handler did not answer for each event".into()));
    }
    let mut subjects = HashSet::new();
    let mut refused = Vec::new();
    for (record, answer) in records.iter().zip(answers) {
        if let Answer::DeadLetter(poison) = answer
            && subjects.insert(Metadata::subject_of(record))
        {
            refused.push((place_of(record), record.offset, poison));
        }
    }
    Ok(refused)
}

fn warn_of_failure(record: &Record, verdict: &Verdict, error: &DatabaseError) {
    tracing::warn!(
        topic = record.topic,
        partition = record.partition,
        offset = record.offset,
        attempt = verdict.attempts,
        error = chain(error),
        "handling failed for a reason in the data"
    );
}
