//! One batch, one transaction; and how a culprit is found so that poison costs its neighbours nothing.
//!
//! A transaction locks the positions, records the batch in the inbox, **sorts** it ([`super::sort`], pure), applies
//! what the handler accepts, parks the rest and moves the positions on. If it fails for a reason in the data, it runs
//! again on halves of the batch until the culprit is alone ([`super::search`], pure); what was found against a record
//! then decides how it is sorted.

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
    inbox::{self, Entry, Novelty, Place, Positions},
    park,
    search::{Attempt, Search, refused},
    sort::{NewLetter, Seen, Verdicts, compare, place_of, sort},
    trace,
    verdict::Poison,
};
use crate::{
    database::{BACKGROUND_TIME_MAX, Conflicting, DatabaseError, after_commit},
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
                Err(Stopped::Refused(refused)) => Attempt::Refused(refused),
                Err(Stopped::Failed(error)) => Attempt::Failed(error),
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
                    let places = records.iter().map(place_of).collect();
                    let (mut positions, _) = inbox::lock_and_insert(connection, group, &places, &[]).await?;
                    for record in records.iter() {
                        let position = positions.by_place.entry(place_of(record)).or_default();
                        position.pass(record.offset, Metadata::inbox_id(record), Novelty::SeenBefore);
                    }
                    let nothing = places.into_iter().map(|place| (place, Counts::default())).collect();
                    inbox::advance(connection, group, &nothing, &positions.by_place).await
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
    ) -> Result<(Counts, Vec<NewLetter>), Stopped> {
        let span = trace::batch(&records[range.clone()], self.group.name);
        let context = span.context();
        let span = SpanUntilDropped::new(span);
        let input = (self.clone(), records.clone(), range, Arc::new(verdicts.clone()));
        let deadline = Deadline::after(BACKGROUND_TIME_MAX);
        let work = self.group.database.transaction(
            "consumer.batch",
            deadline,
            input,
            |connection, (this, records, range, verdicts)| {
                async move { this.apply_batch(connection, &records[range], &verdicts).await }.boxed()
            },
        );
        let outcome = within(context, work).await;
        span.finish(|span| match &outcome {
            Ok(_) => {}
            Err(Stopped::Refused(_)) => span.fail("refused"),
            Err(Stopped::Failed(error)) => span.fail(error.kind()),
        });
        outcome
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
        let mut sorted = sort(records, &seen, positions.by_place, blockers, verdicts, check);
        let spans = trace::of_batch(records, &mut sorted, group);
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
