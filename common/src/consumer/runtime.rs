//! The loop around the batches: begin where the database says, take what is there, process it, store the offsets; when
//! the infrastructure is away, pause and keep polling; when the membership is lost, or makes no progress, join again.
//!
//! Two things that must not be confused: *back-pressure* (the database is away: hold the batch, pause the partitions,
//! try again) lives here; *poison* (the record is bad) lives in [`super::batch`].

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use rdkafka::Offset;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use super::member::PlantedFault;
use super::{
    Handler,
    batch::{Counts, Processor},
    inbox::Place,
    limit::{Limit, LimitConfig, Next},
    member::{Lost, Member},
    observer::{Observer, ViewReceiver},
    positions,
    stops::StopRecord,
    watch::{Finding, Reading, Watch},
};
use crate::{
    backoff::Backoff,
    error::{BoxError, chain},
    event::Metadata,
    health::{Component, Health, Heartbeat},
    kafka::{Brokers, refusal::Refusals},
    planted::{Bug, planted},
    record::Record,
    stop::sleep_unless_stopped,
};

/// The consumer must make progress, or have nothing to do, at least this often (pitfalls P22, P38); no single step takes
/// longer.
pub const HEARTBEAT_EVERY_MAX: Duration = Duration::from_secs(60);
/// The longest time between two rounds of the loop when nothing arrives.
const IDLE_ROUND: Duration = Duration::from_secs(5);
/// How often the member compares what it believes with what the broker says.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How often a stopped consumer looks for an operator's request to resume.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A membership that lasted this long was not lost as soon as it began: the pauses start small again.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// While a batch takes longer than this, no record can arrive.
const LONG_BATCH: Duration = Duration::from_secs(1);
/// What readiness says of a member that reads nothing yet.
const JOINING: &str = "joining the group";
/// Leaving the group waits for the broker, and a client that can't reach it would wait forever.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(5);

/// Reads topics for a consumer group and hands batches to a processor.
pub struct Runtime<H: Handler> {
    brokers: Brokers,
    refusals: Refusals,
    topics: Vec<String>,
    processor: Processor<H>,
    observer: Observer,
    component: Component,
    health: Health,
    faults: Option<mpsc::Receiver<PlantedFault>>,
}

impl<H: Handler> Runtime<H> {
    /// A consumer of `topics` in the processor's group, which is joined by [`Runtime::run`].
    #[must_use]
    pub fn new(brokers: &Brokers, topics: &[&str], processor: Processor<H>, health: &Health) -> Self {
        let topics: Vec<String> = topics.iter().copied().map(str::to_owned).collect();
        let (group, refusals) = (processor.group(), brokers.refusals());
        Self {
            brokers: brokers.clone(),
            observer: Observer::new(brokers, group.name, &topics, &group.database, &refusals),
            refusals,
            topics,
            processor,
            component: health.component("consumer"),
            health: health.clone(),
            faults: None,
        }
    }

    /// Injects faults that librdkafka was seen to have without reporting them; for tests.
    #[must_use]
    pub fn with_faults(mut self, faults: mpsc::Receiver<PlantedFault>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// What the broker says about the group, as it changes.
    #[must_use]
    pub fn view(&self) -> ViewReceiver {
        self.observer.subscribe()
    }

    /// Reads until `stop`; the current batch is finished, and its offsets are committed.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        let Self { brokers, refusals, topics, processor, observer, component, health, faults } = self;
        let view = observer.subscribe();
        let reader = Reader { brokers, refusals, topics, processor, view, component, health, faults };
        tokio::select! {
            outcome = reader.run(stop) => outcome,
            () = observer.run() => Err("the observer of the group ended".into()),
        }
    }
}

/// The consumer without its observer.
struct Reader<H: Handler> {
    brokers: Brokers,
    /// What the brokers have refused to the member, or to its observer.
    refusals: Refusals,
    topics: Vec<String>,
    processor: Processor<H>,
    view: ViewReceiver,
    component: Component,
    health: Health,
    faults: Option<mpsc::Receiver<PlantedFault>>,
}

impl<H: Handler> Reader<H> {
    async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        // Only from here on: before, nothing is read, and the owner may wait for its database as long as it takes.
        let heartbeat = self.health.heartbeat("consumer", HEARTBEAT_EVERY_MAX);
        let config = self.brokers.config();
        let mut limit = Limit::new(LimitConfig {
            in_a_row_max: config.dead_letters_in_a_row_max.max(1),
            share_max: config.dead_letter_share_max,
            pause: config.dead_letter_pause,
        });
        let mut stop_record =
            StopRecord::new(self.processor.group().database.clone(), self.processor.group().name);
        let mut watch = Watch::default();
        let mut backoff = Backoff::for_infrastructure();
        let mut faults = self.faults;
        self.component.waiting(JOINING);
        let mut is_assigned = false;
        loop {
            let joined = Instant::now();
            let mut session = Session {
                member: Member::join(&self.brokers, self.processor.group().name, &topics, &self.refusals)?,
                refusals: &self.refusals,
                processor: &self.processor,
                batch_events_max: config.batch_events_max.max(1),
                component: &self.component,
                heartbeat: &heartbeat,
                stop: &stop,
                view: &self.view,
                watch: &mut watch,
                watched_at: joined,
                progress: HashMap::new(),
                expected: HashMap::new(),
                busy: Duration::ZERO,
                placed_at: 0,
                is_assigned: &mut is_assigned,
                faults: faults.as_mut(),
            };
            let outcome = session.run(&mut limit, &mut stop_record).await;
            let member = session.member;
            let leaving = tokio::task::spawn_blocking(move || drop(member));
            if tokio::time::timeout(LEAVE_TIME_MAX, leaving).await.is_err() {
                // Its static id, if it has one, is taken over by the next membership.
                tracing::warn!("leaving the group takes too long, abandoning it");
            }
            metrics::gauge!(crate::metric::CONSUMER_PARTITIONS_OWNED).set(0.0);
            let Err(lost) = outcome else { return Ok(()) };
            if matches!(lost, Lost::Renewed) {
                tracing::info!("joining the group again with a new certificate");
                continue;
            }
            is_assigned = false;
            while planted(Bug::ConsumerNeverRejoins) {
                heartbeat.beat();
                if sleep_unless_stopped(&stop, LOOK_EVERY).await.is_break() {
                    return Ok(());
                }
            }
            metrics::counter!(crate::metric::CONSUMER_MEMBERSHIPS_LOST_TOTAL, "reason" => lost.reason())
                .increment(1);
            tracing::error!(reason = lost.reason(), error = chain(&lost), "joining the group again");
            self.component.waiting(chain(&lost));
            if joined.elapsed() > STABLE_AFTER {
                backoff.reset();
            }
            if sleep_unless_stopped(&stop, backoff.next_pause()).await.is_break() {
                return Ok(());
            }
        }
    }
}

/// How far a partition was read.
#[derive(Debug, Clone, Copy)]
struct Progress {
    next_offset: i64,
    at: Instant,
    /// [`Session::busy`] at that time.
    busy: Duration,
}

/// The life of one membership.
struct Session<'a, H: Handler> {
    member: Member,
    refusals: &'a Refusals,
    processor: &'a Processor<H>,
    batch_events_max: usize,
    component: &'a Component,
    heartbeat: &'a Heartbeat,
    stop: &'a CancellationToken,
    view: &'a ViewReceiver,
    watch: &'a mut Watch,
    watched_at: Instant,
    /// The partitions that it owns, since [`Session::begin`].
    progress: HashMap<Place, Progress>,
    /// The record before the position, which must come first: if another one does, the log is not the one that was read
    /// before.
    expected: HashMap<Place, (i64, Uuid)>,
    /// Time in which no record could have been read: the partitions were paused, or a batch took long.
    busy: Duration,
    /// [`Member::revocations`] when the partitions in `progress` were positioned.
    placed_at: u64,
    /// Whether the group has said since the membership was last lost what this member reads: nothing, if it has more members than
    /// partitions. Before that it reads nothing, although the broker may still name its former life as the owner.
    is_assigned: &'a mut bool,
    faults: Option<&'a mut mpsc::Receiver<PlantedFault>>,
}

impl<H: Handler> Session<'_, H> {
    /// Reads until asked to stop, or until the membership is lost: then the current batch was either not done or is in
    /// the inbox, and the next membership begins at the position in the database.
    async fn run(&mut self, limit: &mut Limit, stop_record: &mut StopRecord) -> Result<(), Lost> {
        while !self.stop.is_cancelled() {
            self.member.check()?;
            self.member.check_certificate()?;
            if let Some(fault) = self.faults.as_mut().and_then(|faults| faults.try_recv().ok()) {
                self.member.suffer(fault);
            }
            let stays_away = planted(Bug::ConsumerNeverRejoins) && self.member.revocations() > 0;
            if self.member.is_unplaced() && !stays_away && !self.begin().await? {
                break;
            }
            self.look(limit)?;
            if stop_record.is_allowance_over(limit.allowance()).await {
                limit.end_allowance();
            }
            let events_max = match limit.next() {
                Next::Batch => self.batch_events_max,
                Next::One => 1,
                Next::Wait(until) => {
                    let begin = Instant::now();
                    self.wait_while_stopped(until, limit, stop_record).await?;
                    self.busy += begin.elapsed();
                    continue;
                }
            };
            let first = tokio::select! {
                () = self.stop.cancelled() => break,
                record = self.member.next() => record?,
                () = self.member.assigned() => continue,
                () = tokio::time::sleep(WATCH_EVERY) => continue,
            };
            let batch = self.member.fill(first, events_max);
            let batch = self.admit(batch)?;
            if batch.is_empty() {
                continue;
            }
            let begin = Instant::now();
            let finished = self.finish(batch).await?;
            if begin.elapsed() > LONG_BATCH {
                self.busy += begin.elapsed();
            }
            if let Some(counts) = finished {
                limit.record(counts);
                if limit.next() == Next::Batch {
                    stop_record.end().await;
                }
            }
        }
        self.member.commit();
        Ok(())
    }

    /// Starts reading the assigned partitions at the positions that the database has ([`positions`]); waits for it as
    /// long as it is away. False: asked to stop.
    async fn begin(&mut self) -> Result<bool, Lost> {
        let started = Instant::now();
        let mut backoff = Backoff::for_infrastructure();
        loop {
            let (places, revocations) = (self.member.places()?, self.member.revocations());
            match positions::load(
                &self.processor.group().database,
                self.processor.group().name,
                places.clone(),
            )
            .await
            {
                Ok(positions) => {
                    self.place(places, &positions)?;
                    self.busy += started.elapsed();
                    return Ok(true);
                }
                Err(error) => {
                    if backoff.attempt() == 0 {
                        tracing::warn!(error = chain(&error), "cannot read the positions yet");
                    }
                    self.component.waiting(chain(&error));
                }
            }
            if !self.keep_polling(Instant::now() + backoff.next_pause()).await? {
                return Ok(false);
            }
            if self.member.revocations() != revocations && !self.member.is_unplaced() {
                return Ok(true);
            }
        }
    }

    fn place(
        &mut self,
        places: Vec<Place>,
        positions: &HashMap<Place, super::inbox::Position>,
    ) -> Result<(), Lost> {
        let now = Instant::now();
        self.progress.clear();
        self.expected.clear();
        self.placed_at = self.member.revocations();
        *self.is_assigned = true;
        let mut offsets = HashMap::new();
        for place in places {
            let position = positions.get(&place).copied().unwrap_or_default();
            let next_offset = position.next_offset;
            let offset = match position.last_event_id {
                _ if next_offset == 0 => Offset::Beginning,
                None => Offset::Offset(next_offset),
                // One record more, to see that the log is the one that was read before.
                Some(last_event_id) => {
                    self.expected.insert(place.clone(), (next_offset - 1, last_event_id));
                    Offset::Offset(next_offset - 1)
                }
            };
            self.progress.insert(place.clone(), Progress { next_offset, at: now, busy: self.busy });
            offsets.insert(place, offset);
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of partitions")]
        metrics::gauge!(crate::metric::CONSUMER_PARTITIONS_OWNED).set(offsets.len() as f64);
        self.member.begin(&offsets)
    }

    /// Notes what was read, and drops the record that only shows that the log is the same. Records of a different log
    /// are dropped too: that log is read from its oldest record on.
    fn admit(&mut self, batch: Vec<Record>) -> Result<Vec<Record>, Lost> {
        let now = Instant::now();
        let mut elsewhere: HashSet<Place> = HashSet::new();
        let mut admitted = Vec::with_capacity(batch.len());
        for record in batch {
            let place = (record.topic.clone(), record.partition);
            if elsewhere.contains(&place) {
                continue;
            }
            let before = self.progress.get(&place).map(|progress| progress.next_offset);
            let progress = Progress { next_offset: record.offset + 1, at: now, busy: self.busy };
            match self.expected.remove(&place) {
                Some((offset, event_id)) if record.offset == offset => {
                    if Metadata::inbox_id(&record) == event_id {
                        self.progress.insert(place, progress);
                        // What the group has committed follows the database.
                        self.member.store(std::slice::from_ref(&record));
                        continue;
                    }
                    report_another_log(&record, offset + 1);
                    self.member.seek(&record.topic, record.partition, Offset::Beginning)?;
                    self.progress.insert(place.clone(), Progress { next_offset: 0, ..progress });
                    elsewhere.insert(place);
                    continue;
                }
                _ => {}
            }
            if let Some(next_offset) = before {
                self.compare(&record, next_offset);
            }
            self.progress.insert(place, progress);
            admitted.push(record);
        }
        Ok(admitted)
    }

    /// Reports a record that is not the next one: its log was truncated, or records were deleted before they were read.
    fn compare(&self, record: &Record, next_offset: i64) {
        if record.offset < next_offset {
            report_another_log(record, next_offset);
            return;
        }
        let place = (record.topic.clone(), record.partition);
        let view = self.view.latest();
        let first = view.and_then(|view| view.partitions.get(&place).map(|partition| partition.first));
        // Offsets without a record are common: markers of transactions, compaction. Those below the log's start are not.
        let missing = first.unwrap_or_default().min(record.offset) - next_offset;
        if missing > 0 {
            metrics::counter!(crate::metric::CONSUMER_RECORDS_MISSING_TOTAL, "topic" => record.topic.clone())
                .increment(missing.unsigned_abs());
            tracing::error!(
                topic = record.topic,
                partition = record.partition,
                position = next_offset,
                missing,
                "records were deleted from the log before they were read"
            );
        }
    }

    /// Compares what the member believes with what the broker says, once in a while.
    #[expect(clippy::cast_precision_loss, reason = "a time is far below 2^52 seconds")]
    fn look(&mut self, limit: &Limit) -> Result<(), Lost> {
        let now = Instant::now();
        if now.duration_since(self.watched_at) < WATCH_EVERY {
            return Ok(());
        }
        self.watched_at = now;
        if self.member.revocations() != self.placed_at {
            self.progress.clear();
            metrics::gauge!(crate::metric::CONSUMER_PARTITIONS_OWNED).set(0.0);
        }
        let reading = self
            .progress
            .iter()
            .map(|(place, progress)| {
                let listened =
                    now.duration_since(progress.at).saturating_sub(self.busy.saturating_sub(progress.busy));
                let fetched_offset = self.member.fetched(place);
                (place.clone(), Reading { next_offset: progress.next_offset, fetched_offset, listened })
            })
            .collect();
        let view = self.view.latest();
        let finding = self.watch.look(now, view.as_deref(), &reading);
        let is_progressing = matches!(finding, Finding::Well | Finding::Blind | Finding::Unreadable(_));
        if is_progressing {
            self.heartbeat.beat();
            metrics::gauge!(crate::metric::CONSUMER_LAST_PROGRESS_TIMESTAMP_SECONDS)
                .set(time::OffsetDateTime::now_utc().unix_timestamp() as f64);
        }
        match finding {
            Finding::Stalled(reason, text) => return Err(Lost::Stalled(reason, text)),
            Finding::Waiting(text) => self.component.waiting(self.refusals.explain(text)),
            Finding::Unreadable(places) => {
                self.follow_skips(&places)?;
                let error = self.member.last_error().unwrap_or_else(|| "no error was given".to_owned());
                let places: Vec<String> = places
                    .iter()
                    .map(|((topic, partition), offset)| format!("{topic}-{partition} at offset {offset}"))
                    .collect();
                let places = places.join(", ");
                self.component
                    .waiting(format!("cannot read {places}: {error}; see `holdfast dlq skip --help`"));
            }
            Finding::Blind => self.component.waiting(self.refusals.explain("the broker does not answer")),
            Finding::Well if !*self.is_assigned => self.component.waiting(JOINING),
            Finding::Well if limit.next() == Next::Batch => self.component.ready(),
            Finding::Well => {}
        }
        Ok(())
    }

    /// Continues after records that an operator has skipped: the database's position is past the unreadable ones.
    fn follow_skips(&mut self, unreadable: &[(Place, i64)]) -> Result<(), Lost> {
        let Some(view) = self.view.latest() else { return Ok(()) };
        for (place, offset) in unreadable {
            let position = view.partitions.get(place).and_then(|partition| partition.position);
            let Some(position) = position.filter(|position| position > offset) else { continue };
            tracing::info!(
                topic = place.0,
                partition = place.1,
                from = offset,
                to = position,
                "records are skipped"
            );
            self.member.seek(&place.0, place.1, Offset::Offset(position))?;
            let progress = Progress { next_offset: position, at: Instant::now(), busy: self.busy };
            self.progress.insert(place.clone(), progress);
        }
        Ok(())
    }

    /// Takes nothing until then, or until an operator resumes the consumer.
    async fn wait_while_stopped(
        &mut self,
        until: Instant,
        limit: &mut Limit,
        stop_record: &mut StopRecord,
    ) -> Result<(), Lost> {
        self.component.waiting(format!(
            "too many dead letters ({}): stopped, one record is tried from time to time",
            limit.stopped_for()
        ));
        self.member.pause();
        while Instant::now() < until {
            if let Some(allowance) = stop_record.look(limit.stopped_for()).await {
                limit.resume(allowance);
                break;
            }
            if !self.keep_polling(until.min(Instant::now() + LOOK_EVERY)).await? {
                break;
            }
        }
        self.member.resume();
        Ok(())
    }

    /// Processes the batch, again and again while the infrastructure is away, and stores its offsets. `None`: it was not
    /// processed.
    async fn finish(&mut self, batch: Vec<Record>) -> Result<Option<Counts>, Lost> {
        let revocations_before = self.member.revocations();
        let records: Arc<[Record]> = batch.into();
        let mut backoff = Backoff::for_infrastructure();
        let done = loop {
            let started = Instant::now();
            match self.processor.process(records.clone()).await {
                Ok(counts) => {
                    count(self.processor.group().name, counts, started.elapsed());
                    self.member.store(&records);
                    break Some(counts);
                }
                Err(error) => {
                    let text = chain(&error);
                    if backoff.attempt() == 0 {
                        tracing::warn!(error = text, records = records.len(), "batch is tried again");
                    }
                    metrics::counter!(crate::metric::CONSUMER_RETRIES_TOTAL).increment(1);
                    self.component.waiting(text);
                }
            }
            self.member.pause();
            let until = Instant::now() + backoff.next_pause();
            if !self.keep_polling(until).await? || self.member.revocations() != revocations_before {
                // Asked to stop, or the partitions have a new owner: nothing was done and nothing is stored, so the
                // batch is delivered again.
                self.member.rewind(&records)?;
                for record in records.iter() {
                    let place = (record.topic.clone(), record.partition);
                    if let Some(progress) = self.progress.get_mut(&place) {
                        progress.next_offset = progress.next_offset.min(record.offset);
                    }
                }
                break None;
            }
        };
        if backoff.attempt() > 0 {
            self.member.resume();
            self.component.ready();
        }
        Ok(done)
    }

    /// Serves librdkafka until then while the batch waits, so that the member stays in its group however long the
    /// database is away. False: asked to stop.
    async fn keep_polling(&self, until: Instant) -> Result<bool, Lost> {
        loop {
            self.heartbeat.beat();
            self.member.check()?;
            tokio::select! {
                () = self.stop.cancelled() => return Ok(false),
                () = tokio::time::sleep_until(until) => return Ok(true),
                // The heart beats however long the wait is.
                () = tokio::time::sleep(IDLE_ROUND) => {}
                // It was on its way when the pause began: read it again later.
                record = self.member.next() => self.member.rewind(std::slice::from_ref(&record?))?,
            }
        }
    }
}

/// A record from below the position, or a different one just before it: the topic was recreated, or its log was
/// truncated.
fn report_another_log(record: &Record, position: i64) {
    metrics::counter!(crate::metric::CONSUMER_LOGS_REPLACED_TOTAL, "topic" => record.topic.clone())
        .increment(1);
    tracing::error!(
        topic = record.topic,
        partition = record.partition,
        offset = record.offset,
        position,
        "the log is not the one that was read before: reading it from its oldest record on"
    );
}

fn count(group: &'static str, counts: Counts, time: Duration) {
    let labels = [
        ("messaging_system", "kafka"),
        ("messaging_operation_name", "process"),
        ("messaging_consumer_group_name", group),
    ];
    metrics::histogram!(crate::metric::MESSAGING_PROCESS_DURATION_SECONDS, &labels)
        .record(time.as_secs_f64());
    for (outcome, count) in [
        ("applied", counts.applied),
        ("duplicate", counts.duplicates),
        ("parked", counts.parked),
        ("set-aside", counts.set_aside),
    ] {
        let [system, operation, group] = labels;
        let labels = [system, operation, group, ("outcome", outcome)];
        metrics::counter!(crate::metric::MESSAGING_CLIENT_CONSUMED_MESSAGES_TOTAL, &labels)
            .increment(count.unsigned_abs());
    }
}
