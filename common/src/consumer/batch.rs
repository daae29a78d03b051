//! One batch, one transaction; and how a culprit is found so that poison costs its neighbours nothing.
//!
//! A transaction locks the positions, records the batch in the inbox, **sorts** it ([`super::sort`], pure) and asks the handler; if that
//! refuses events it sorts again without them. What is accepted is written, the rest parked, and the positions move on. If it fails for a
//! reason in the data, it runs again on halves of the batch until the culprit is alone ([`super::search`], pure); what was found against a
//! record then decides how it is sorted.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

pub use super::inbox::Counts;
use super::{
    group::Group,
    handler::Handler,
    inbox::{self, Entry, Novelty, Positions},
    park,
    search::{Attempt, Search, refuse},
    sort::{NewLetter, Seen, Verdicts, compare, place_of, sort},
    trace,
};
use crate::{
    database::{BACKGROUND_TIME_MAX, DatabaseError, after_commit},
    deadline::Deadline,
    event::Metadata,
    planted::{Bug, planted},
    record::Record,
    trace::{Span, SpanUntilDropped, within},
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
        if planted(Bug::PositionBeforeCommit) {
            self.move_on_first(&records).await?;
        }
        let mut search = Search::new(records.len());
        let mut total = Counts::default();
        while let Some(range) = search.next_range() {
            let now = OffsetDateTime::now_utc();
            let attempt = match self.transact(&records, range.clone(), search.verdicts()).await {
                Ok((counts, letters)) => {
                    total += counts;
                    // Only after the commit: a transaction that was not committed has parked nothing.
                    for letter in letters {
                        let record = &records[range.start + letter.index];
                        let context = trace::of_parking(record, letter.id);
                        crate::trace::during(context, || park::report(&letter, record));
                    }
                    Attempt::Done
                }
                Err(error) => Attempt::Failed(error),
            };
            search.learn(&records, range, attempt, now)?;
        }
        Ok(total)
    }

    /// The bug: what crashes behind it is never read again.
    async fn move_on_first(&self, records: &Arc<[Record]>) -> Result<(), DatabaseError> {
        let input = (self.group.name, records.clone());
        let deadline = Deadline::after(BACKGROUND_TIME_MAX);
        let moved = self.group.database.transaction(
            "consumer.position",
            deadline,
            input,
            |connection, (group, records)| {
                async move {
                    let forecasts = inbox::forecast(records.iter());
                    let (mut positions, _) =
                        inbox::lock_and_insert(connection, group, &forecasts, &[]).await?;
                    for record in records.iter() {
                        let position = positions.by_place.entry(place_of(record)).or_default();
                        position.pass(record.offset, Metadata::inbox_id(record), Novelty::SeenBefore);
                    }
                    let nothing = forecasts.into_keys().map(|place| (place, Counts::default())).collect();
                    inbox::advance(connection, group, &nothing, &positions.by_place, &positions.written).await
                }
                .boxed()
            },
        );
        moved.await?;
        // As long as a slow disk may take.
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(())
    }

    async fn transact(
        &self,
        records: &Arc<[Record]>,
        range: Range<usize>,
        verdicts: &Verdicts,
    ) -> Result<(Counts, Vec<NewLetter>), DatabaseError> {
        let span = trace::batch(&records[range.clone()], self.group.name);
        let context = span.context();
        let span = SpanUntilDropped::new(span);
        let input = (self.clone(), records.clone(), range, verdicts.clone());
        let deadline = Deadline::after(BACKGROUND_TIME_MAX);
        let work = self.group.database.transaction(
            "consumer.batch",
            deadline,
            input,
            |connection, (this, records, range, verdicts)| {
                async move { this.apply_batch(connection, &records[range], verdicts).await }.boxed()
            },
        );
        let outcome = within(context, work).await;
        span.finish(|span| {
            if let Err(error) = &outcome {
                span.fail(error.kind());
            }
        });
        outcome
    }

    /// What one transaction does.
    async fn apply_batch(
        &self,
        connection: &mut PgConnection,
        records: &[Record],
        mut verdicts: Verdicts,
    ) -> Result<(Counts, Vec<NewLetter>), DatabaseError> {
        let group = self.group.name;
        let (positions, seen) = self.lock_and_compare(connection, records).await?;
        let blockers = if positions.any_parked {
            let subjects: Vec<&str> = records.iter().filter_map(Metadata::subject_of).collect();
            park::blockers(connection, group, &subjects).await?
        } else {
            HashMap::new()
        };
        // Each further round has one accepted record less, at least.
        let (sorted, spans) = loop {
            let check = |record: &Record| self.group.check(record);
            let mut sorted =
                sort(records, &seen, positions.by_place.clone(), blockers.clone(), &verdicts, check);
            let spans = trace::of_batch(records, &mut sorted, group);
            if sorted.events.is_empty() {
                break (sorted, spans);
            }
            let (answers, changes) = self.group.handler.decide(connection, &sorted.events).await?;
            let accepted = sorted.accepted.iter().map(|index| &records[*index]);
            if !refuse(accepted, answers, &mut verdicts, OffsetDateTime::now_utc())? {
                self.group.handler.write(connection, changes).await?;
                break (sorted, spans);
            }
        };
        park::park(connection, group, records, &sorted.letters).await?;
        inbox::advance(connection, group, &sorted.counts, &sorted.positions, &positions.written).await?;
        if !spans.is_empty() {
            after_commit(move |_| spans.into_iter().for_each(Span::end));
        }
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
        let forecasts = inbox::forecast(records.iter());
        let entries: Vec<Entry> = records.iter().map(Entry::of).collect();
        // Of records that share an id, the first one's entry; it matters which when their payloads differ.
        let unique: BTreeMap<Uuid, Entry> =
            entries.iter().rev().map(|entry| (entry.event_id, entry.clone())).collect();
        let unique: Vec<Entry> = unique.into_values().collect();
        let (positions, inserted) = inbox::lock_and_insert(connection, group, &forecasts, &unique).await?;
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
