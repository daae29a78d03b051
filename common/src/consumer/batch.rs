//! One batch, one transaction; and how a culprit is found so that poison costs its neighbours nothing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

pub use super::inbox::Counts;
use super::{
    Accepted, Answer, Class, Handler, Poison,
    inbox::{self, Entry, Novelty, Place, Position, Positions},
};
use crate::{
    database::{BACKGROUND_TIME_MAX, Conflicting, Database, DatabaseError},
    dead_letter::park::{self, DeadLetter, Keep},
    deadline::Deadline,
    error::chain,
    event::{HeaderError, Metadata, payload, payload_hash},
    record::Record,
};

/// Attempts of a record that fails alone, for a reason in the data that the handler did not classify.
pub const ATTEMPTS_MAX: i32 = 3;

/// Handles records of one consumer group in one database.
pub struct Processor<H: Handler> {
    pub(crate) database: Database,
    pub(crate) group: &'static str,
    pub(crate) handler: Arc<H>,
}

impl<H: Handler> Clone for Processor<H> {
    fn clone(&self) -> Self {
        Self { database: self.database.clone(), group: self.group, handler: self.handler.clone() }
    }
}

/// What was found against a record.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) poison: Poison,
    pub(crate) attempts: i32,
    pub(crate) first_failed_at: OffsetDateTime,
    /// What of the record is kept if it is parked.
    pub(crate) keep: Keep,
}

impl Verdict {
    /// Whether the record is parked now, or gets another attempt.
    fn is_final(&self) -> bool {
        self.poison.class != Class::AttemptsExhausted || self.attempts >= ATTEMPTS_MAX
    }
}

/// A verdict together with what the record waits behind.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) verdict: Verdict,
    pub(crate) blocked_by: Option<Uuid>,
}

/// What is said of a letter once its transaction is committed.
struct Parked {
    id: Uuid,
    class: &'static str,
    reason: String,
    topic: String,
    partition: i32,
    offset: i64,
    keep: Keep,
}

impl Parked {
    fn of(letter: &DeadLetter<'_>) -> Self {
        let poison = &letter.judged.verdict.poison;
        Self {
            id: letter.id,
            class: poison.class.as_str(),
            reason: poison.reason().to_owned(),
            topic: letter.record.topic.clone(),
            partition: letter.record.partition,
            offset: letter.record.offset,
            keep: letter.judged.verdict.keep,
        }
    }

    fn report(&self) {
        if self.keep == Keep::Place {
            metrics::counter!("records_set_aside_total", "topic" => self.topic.clone(), "class" => self.class)
                .increment(1);
            tracing::error!(
                dlq.id = %self.id,
                class = self.class,
                reason = self.reason,
                topic = self.topic,
                partition = self.partition,
                offset = self.offset,
                "record set aside: it could not be kept, only its place was"
            );
            return;
        }
        metrics::counter!("dead_letters_total", "topic" => self.topic.clone(), "class" => self.class)
            .increment(1);
        tracing::warn!(
            dlq.id = %self.id,
            class = self.class,
            reason = self.reason,
            topic = self.topic,
            partition = self.partition,
            offset = self.offset,
            "record parked as a dead letter"
        );
    }
}

/// Verdicts by place: found while the batch runs, used when it runs again.
type Verdicts = HashMap<(Place, i64), Verdict>;

/// How a transaction ended that was not committed.
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

/// Whether a record's event id is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reused {
    No,
    WithOtherPayload,
}

impl<H: Handler> Processor<H> {
    /// A processor for the group `group`, which is the service's name.
    #[must_use]
    pub fn new(database: Database, group: &'static str, handler: H) -> Self {
        Self { database, group, handler: Arc::new(handler) }
    }

    /// Handles `records`, in order, each exactly once. An error means *try again*: the infrastructure is away and
    /// nothing of what is left was done. Everything else ends as applied, duplicate or parked.
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
            match self.transact(&records, range.clone(), &verdicts).await {
                Ok((counts, parked)) => {
                    total += counts;
                    // Only now: a transaction that was not committed has parked nothing.
                    parked.iter().for_each(Parked::report);
                }
                Err(Stopped::Refused(refused)) => {
                    let now = OffsetDateTime::now_utc();
                    for (place, offset, poison) in refused {
                        let verdict =
                            Verdict { poison, attempts: 1, first_failed_at: now, keep: Keep::Record };
                        verdicts.insert((place, offset), verdict);
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
                    let before = verdicts.get(&key);
                    if let Some(verdict) = before.filter(|verdict| verdict.is_final()) {
                        if verdict.keep == Keep::Place {
                            // Nothing of the record was to be written: it can't be blamed.
                            return Err(error);
                        }
                        // It was to be parked, and the database refused that too: keep its place at least.
                        let verdict = Verdict { keep: Keep::Place, ..verdict.clone() };
                        verdicts.insert(key, verdict);
                        ranges.push(range);
                        continue;
                    }
                    let attempts = before.map_or(1, |verdict| verdict.attempts + 1);
                    let first_failed_at =
                        before.map_or_else(OffsetDateTime::now_utc, |verdict| verdict.first_failed_at);
                    // Only the error's own words, never the server's: they may quote the data.
                    let poison = Poison::new(Class::AttemptsExhausted, error.to_string());
                    tracing::warn!(
                        topic = record.topic,
                        partition = record.partition,
                        offset = record.offset,
                        attempt = attempts,
                        error = chain(&error),
                        "handling failed for a reason in the data"
                    );
                    let verdict = Verdict { poison, attempts, first_failed_at, keep: Keep::Record };
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
        range: std::ops::Range<usize>,
        verdicts: &Verdicts,
    ) -> Result<(Counts, Vec<Parked>), Stopped> {
        let (this, records, verdicts) = (self.clone(), records.clone(), Arc::new(verdicts.clone()));
        self.database
            .transaction(
                "consumer.batch",
                Deadline::after(BACKGROUND_TIME_MAX),
                move |connection: &mut PgConnection| {
                    let (this, records, verdicts) = (this.clone(), records.clone(), verdicts.clone());
                    let range = range.clone();
                    let work: BoxFuture<'_, _> =
                        Box::pin(async move { this.work(connection, &records[range], &verdicts).await });
                    work
                },
            )
            .await
    }

    /// The work of one transaction.
    async fn work(
        &self,
        connection: &mut PgConnection,
        records: &[Record],
        verdicts: &Verdicts,
    ) -> Result<(Counts, Vec<Parked>), Stopped> {
        let mut counts: BTreeMap<Place, Counts> =
            records.iter().map(|record| (place_of(record), Counts::default())).collect();
        let (positions, news) = self.first_seen(connection, records, &counts).await?;

        let subjects: Vec<&str> = records.iter().filter_map(Metadata::subject_of).collect();
        let mut blocked = if positions.any_parked {
            park::blockers(connection, self.group, &subjects).await?
        } else {
            HashMap::new()
        };

        let mut letters = Vec::new();
        let mut events = Vec::new();
        let mut accepted_records = Vec::new();
        let mut by_place = positions.by_place;
        for (record, seen) in records.iter().zip(news) {
            let place = place_of(record);
            let position: &mut Position = by_place.entry(place.clone()).or_default();
            let id = Metadata::inbox_id(record);
            let (event_id, reused) = match seen {
                Seen::Before => {
                    // Below the position: delivered again after a crash between commit and offset. It was counted then.
                    if record.offset >= position.next_offset {
                        counts.entry(place).or_default().duplicates += 1;
                    }
                    position.pass(record.offset, id, Novelty::SeenBefore);
                    continue;
                }
                Seen::FirstTime { event_id } => (event_id, Reused::No),
                Seen::OtherPayload { event_id } => (event_id, Reused::WithOtherPayload),
            };
            position.pass(record.offset, id, Novelty::FirstTime);
            let count = counts.entry(place.clone()).or_default();
            let subject = Metadata::subject_of(record);
            let blocker = subject.and_then(|subject| blocked.get(subject)).copied();
            let verdict = verdicts.get(&(place, record.offset));
            let mut judged = match self.judge(record, reused, blocker, verdict) {
                Ok(accepted) => {
                    count.applied += 1;
                    events.push(accepted);
                    accepted_records.push(record);
                    continue;
                }
                Err(judged) => judged,
            };
            let id = Uuid::now_v7();
            if record.size_bytes() > park::PARKED_BYTES_MAX
                || verdict.is_some_and(|verdict| verdict.keep == Keep::Place)
            {
                // Nothing waits behind it: there is nothing that could be redriven.
                judged.verdict.keep = Keep::Place;
                judged.blocked_by = None;
                count.set_aside += 1;
            } else {
                count.parked += 1;
                count.blocked += i64::from(judged.blocked_by.is_some());
                if let Some(subject) = subject {
                    blocked.entry(subject.to_owned()).or_insert(id);
                }
            }
            letters.push(DeadLetter { id, record, event_id, judged });
        }

        if !events.is_empty() {
            let answers = self.handler.handle(connection, &events).await?;
            let refused = refused(&accepted_records, answers)?;
            if !refused.is_empty() {
                return Err(Stopped::Refused(refused));
            }
        }
        park::park(connection, self.group, &letters).await?;
        inbox::advance(connection, self.group, &counts, &by_place).await?;
        let parked = letters.iter().map(Parked::of).collect();
        let mut total = Counts::default();
        for count in counts.values() {
            total += *count;
        }
        Ok((total, parked))
    }

    /// Locks the positions, records the batch in the inbox, and says for each record whether it is there for the first
    /// time.
    async fn first_seen(
        &self,
        connection: &mut PgConnection,
        records: &[Record],
        places: &BTreeMap<Place, Counts>,
    ) -> Result<(Positions, Vec<Seen>), DatabaseError> {
        let mut in_batch: HashMap<Uuid, Vec<u8>> = HashMap::new();
        let entries: Vec<Entry> = records.iter().map(entry_of).collect();
        let mut unique = Vec::new();
        for entry in &entries {
            if in_batch.insert(entry.event_id, entry.payload_hash.clone()).is_none() {
                unique.push(entry.clone());
            }
        }
        let (positions, inserted) = inbox::open(connection, self.group, places, &unique).await?;
        let old: Vec<Uuid> =
            in_batch.keys().filter(|event_id| !inserted.contains(event_id)).copied().collect();
        let mut known = inbox::payload_hashes(connection, self.group, &old).await?;

        let mut derived = Vec::new();
        let mut seen = Vec::with_capacity(entries.len());
        for (entry, record) in entries.iter().zip(records) {
            match known.get(&entry.event_id) {
                None => {
                    known.insert(entry.event_id, entry.payload_hash.clone());
                    seen.push(Seen::FirstTime { event_id: entry.event_id });
                }
                Some(hash) if *hash == entry.payload_hash => seen.push(Seen::Before),
                Some(_) => {
                    // The id is taken by another payload: this record is recorded under its place instead.
                    let event_id = Metadata::id_of_place(record);
                    derived.push(Entry { event_id, ..entry.clone() });
                    seen.push(Seen::OtherPayload { event_id });
                }
            }
        }
        let parked_now: HashSet<Uuid> = inbox::insert(connection, self.group, &derived).await?;
        for seen in &mut seen {
            if let Seen::OtherPayload { event_id } = *seen
                && !parked_now.contains(&event_id)
            {
                *seen = Seen::Before;
            }
        }
        Ok((positions, seen))
    }

    /// Records an event in the inbox. False: its id is there already.
    pub(crate) async fn enter(
        &self,
        connection: &mut PgConnection,
        record: &Record,
    ) -> Result<bool, DatabaseError> {
        Ok(!inbox::insert(connection, self.group, &[entry_of(record)]).await?.is_empty())
    }

    /// Whether a record goes to the handler or to the dead letters: its form first, then what it waits behind, then what
    /// was found against it.
    fn judge(
        &self,
        record: &Record,
        reused: Reused,
        blocker: Option<Uuid>,
        verdict: Option<&Verdict>,
    ) -> Result<Accepted<H::Event>, Judged> {
        let now = OffsetDateTime::now_utc();
        let judged = |poison, attempts, blocked_by| Judged {
            verdict: Verdict { poison, attempts, first_failed_at: now, keep: Keep::Record },
            blocked_by,
        };
        if reused == Reused::WithOtherPayload {
            let poison = Poison::new(Class::SchemaViolation, "event id was used for another payload");
            return Err(judged(poison, 1, None));
        }
        let accepted = self.check(record).map_err(|poison| judged(poison, 1, None))?;
        if let Some(blocker) = blocker {
            let poison = Poison::new(Class::BlockedByKey, "an earlier event of the aggregate is parked");
            return Err(judged(poison, 0, Some(blocker)));
        }
        match verdict {
            Some(verdict) if verdict.is_final() => Err(Judged { verdict: verdict.clone(), blocked_by: None }),
            _ => Ok(accepted),
        }
    }

    /// Checks of form: headers, type, version, topic, content.
    pub(crate) fn check(&self, record: &Record) -> Result<Accepted<H::Event>, Poison> {
        let metadata = Metadata::read(record).map_err(|error| {
            let class = match error {
                HeaderError::UnknownType => Class::UnknownType,
                _ => Class::SchemaViolation,
            };
            Poison::new(class, error.to_string())
        })?;
        if metadata.kind != record.topic {
            return Err(if self.handler.is_event_topic(&metadata.kind) {
                Poison::new(Class::WrongTopic, "event belongs to another topic")
            } else {
                Poison::new(Class::UnknownType, "event type is not known")
            });
        }
        let versions = self.handler.versions(&record.topic);
        if versions.is_empty() {
            return Err(Poison::new(Class::UnknownType, "topic is not read by this service"));
        }
        if !versions.contains(&metadata.version) {
            let reason = format!("version {} is not one of {versions:?}", metadata.version);
            return Err(Poison::new(Class::UnknownVersion, reason));
        }
        if payload(record).is_empty() {
            return Err(Poison::new(Class::Decode, "value is empty"));
        }
        let event = self.handler.decode(record, &metadata)?;
        Ok(Accepted { metadata, event })
    }
}

/// Whether a record was handled before.
#[derive(Debug, Clone, Copy)]
enum Seen {
    FirstTime { event_id: Uuid },
    Before,
    OtherPayload { event_id: Uuid },
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

fn place_of(record: &Record) -> Place {
    (record.topic.clone(), record.partition)
}

fn entry_of(record: &Record) -> Entry {
    Entry {
        event_id: Metadata::inbox_id(record),
        topic: record.topic.clone(),
        payload_hash: payload_hash(record),
    }
}

/// Whether the error is the data's fault; else it is the infrastructure's, and waiting helps.
pub(crate) fn is_in_the_data(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Data(_) | DatabaseError::Defect(_) | DatabaseError::Corrupt(_) => true,
        DatabaseError::Unavailable(_)
        | DatabaseError::Conflict(_)
        | DatabaseError::CommitUnknown(_)
        | DatabaseError::Schema(_) => false,
    }
}
