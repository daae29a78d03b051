//! A member of a consumer group: the side of the consumer that faces librdkafka.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance, StreamConsumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};
use tokio::sync::Notify;

use super::{inbox::Place, watch::Reason};
use crate::{
    error::chain,
    kafka::{
        Brokers, QuietContext,
        refusal::Refusals,
        tls::{ClientKind, Renewal},
    },
    record::Record,
};

/// Why a membership has ended: it can never read again, and a new one must take its place.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// Ended for good by the broker.
    ///
    /// Seen when the broker is killed soon after it has taken a static member in: it comes back with its previous state,
    /// and refuses the member's own id as that of somebody who was replaced (`FENCED_INSTANCE_ID`).
    #[error("the broker has ended the membership in the consumer group: {0}")]
    Ended(String),
    /// The position in a partition could not be set. Reading on would skip records.
    #[error("cannot set the reading position: {0}")]
    Position(String),
    /// Ended by the member itself, which looked well and made no progress ([`super::watch`]).
    #[error("the membership in the consumer group makes no progress: {1}")]
    Stalled(Reason, String),
    /// Ended by the member itself: it shows an old certificate, with which it could not connect again.
    #[error("the certificate was renewed")]
    Renewed,
}

impl Lost {
    /// The label of `holdfast_consumer_memberships_lost_total`.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Ended(_) => "ended",
            Self::Position(_) => "position",
            Self::Stalled(reason, _) => reason.as_str(),
            Self::Renewed => "renewed",
        }
    }
}

/// Something that librdkafka was seen to do on its own, done on purpose, so that tests of the watch can trigger it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedFault {
    /// The member leaves its group, owns nothing and is never assigned again.
    Leave,
    /// The partitions are paused and never resumed.
    Hold,
}

/// Reads the partitions that the group gives it. What it reads is *taken*; what was processed is *stored*, and
/// librdkafka commits that in the background and when it lets partitions go.
pub(super) struct Member {
    consumer: StreamConsumer<Context>,
    renewal: Renewal,
}

/// What rebalances change. librdkafka calls it from within a poll.
#[derive(Default)]
struct Context {
    /// Grows with each revocation.
    revocations: AtomicU64,
    /// Whether partitions were assigned whose starting position was not set yet. They are paused.
    unplaced: AtomicBool,
    /// Woken when `unplaced` becomes true.
    assigned: Notify,
    /// Whether the broker is known to be away, so that its absence is logged once.
    broker_away: AtomicBool,
    /// The last error of reading.
    last_error: Mutex<Option<String>>,
    /// How far each partition was fetched.
    fetched: Mutex<HashMap<Place, i64>>,
    quiet: QuietContext,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.quiet.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.quiet.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        for (topic, statistics) in statistics.topics {
            for (partition, statistics) in statistics.partitions {
                fetched.insert((topic.clone(), partition), statistics.next_offset);
            }
        }
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => {
                tracing::info!(partitions = partitions.count(), "partitions assigned");
            }
            Rebalance::Revoke(partitions) => {
                // Called from a poll, and the loop never polls while a batch is in a transaction: what was taken is
                // either stored or rolled back. librdkafka commits the stored offsets when it lets go.
                self.revocations.fetch_add(1, Ordering::SeqCst);
                tracing::info!(partitions = partitions.count(), "partitions revoked");
            }
            Rebalance::Error(error) => tracing::warn!(error = chain(error), "rebalance failed"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        // Nothing is read before the starting position is known; the runtime asks the database for it. librdkafka keeps
        // a pause with the partition, whoever owned it in between, so it is set and ended on every assignment.
        if let Rebalance::Assign(partitions) = rebalance {
            warn_of(consumer.pause(partitions));
            self.fetched.lock().unwrap_or_else(PoisonError::into_inner).clear();
            self.unplaced.store(true, Ordering::SeqCst);
            self.assigned.notify_one();
        }
    }
}

impl Member {
    /// Joins the group for `topics`. The first partitions arrive while it reads.
    pub(super) fn join(
        brokers: &Brokers,
        group: &str,
        topics: &[&str],
        refusals: &Refusals,
    ) -> KafkaResult<Self> {
        let renewal = brokers.renewal(ClientKind::Consumer);
        let quiet = QuietContext { refusals: refusals.clone() };
        let context = Context { quiet, ..Context::default() };
        let consumer: StreamConsumer<Context> =
            brokers.consumer_config(group).create_with_context(context)?;
        consumer.subscribe(topics)?;
        Ok(Self { consumer, renewal })
    }

    /// Fails if it shows an old certificate.
    pub(super) fn check_certificate(&self) -> Result<(), Lost> {
        if !self.renewal.is_due() {
            return Ok(());
        }
        self.renewal.count();
        Err(Lost::Renewed)
    }

    /// Whether partitions were assigned that wait for [`Member::begin`].
    pub(super) fn is_unplaced(&self) -> bool {
        self.consumer.context().unplaced.load(Ordering::SeqCst)
    }

    /// Returns when partitions were assigned.
    pub(super) async fn assigned(&self) {
        self.consumer.context().assigned.notified().await;
    }

    /// The partitions that it owns, as far as it knows.
    pub(super) fn places(&self) -> Result<Vec<Place>, Lost> {
        let list = self.consumer.assignment().map_err(|error| Lost::Position(chain(&error)))?;
        Ok(list.elements().iter().map(|place| (place.topic().to_owned(), place.partition())).collect())
    }

    /// Starts reading the assigned partitions at these offsets.
    pub(super) fn begin(&self, offsets: &HashMap<Place, Offset>) -> Result<(), Lost> {
        let mut list = TopicPartitionList::new();
        let placed = offsets
            .iter()
            .try_for_each(|((topic, partition), offset)| {
                list.add_partition_offset(topic, *partition, *offset)
            })
            .and_then(|()| self.consumer.assign(&list));
        placed.map_err(|error| Lost::Position(chain(&error)))?;
        self.consumer.context().unplaced.store(false, Ordering::SeqCst);
        self.resume();
        Ok(())
    }

    /// See [`PlantedFault`].
    pub(super) fn suffer(&self, fault: PlantedFault) {
        match fault {
            PlantedFault::Leave => self.consumer.unsubscribe(),
            PlantedFault::Hold => self.pause(),
        }
    }

    /// How far librdkafka has fetched a partition; -1001 or less: unknown.
    pub(super) fn fetched(&self, place: &Place) -> i64 {
        let fetched = self.consumer.context().fetched.lock().unwrap_or_else(PoisonError::into_inner);
        fetched.get(place).copied().unwrap_or(i64::MIN)
    }

    /// The last error of reading, for people.
    pub(super) fn last_error(&self) -> Option<String> {
        self.consumer.context().last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next record. Most errors are about the state of the broker, which librdkafka recovers from on its own: they
    /// are logged and skipped without a pause, because later records and rebalances are in the same queue.
    pub(super) async fn next(&self) -> Result<Record, Lost> {
        let away = &self.consumer.context().broker_away;
        loop {
            match self.consumer.recv().await {
                Ok(message) => {
                    if away.swap(false, Ordering::SeqCst) {
                        tracing::info!("records arrive from the broker again");
                    }
                    return Ok(Record::from_message(&message));
                }
                Err(error @ KafkaError::MessageConsumptionFatal(_)) => {
                    return Err(Lost::Ended(chain(&error)));
                }
                Err(error) => {
                    self.check()?;
                    self.consumer.context().quiet.refusals.note(&error, "");
                    let last = &self.consumer.context().last_error;
                    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(chain(&error));
                    if away.swap(true, Ordering::SeqCst) {
                        tracing::debug!(error = chain(&error), "cannot read from the broker");
                    } else {
                        tracing::warn!(error = chain(&error), "cannot read from the broker, waiting for it");
                    }
                }
            }
        }
    }

    /// Takes what is there without waiting, up to `records_max` together with `first`: under load a batch forms, and a
    /// single event doesn't wait for others.
    pub(super) fn fill(&self, first: Record, records_max: usize) -> Vec<Record> {
        let mut batch = vec![first];
        while batch.len() < records_max {
            match self.consumer.recv().now_or_never() {
                Some(Ok(message)) => batch.push(Record::from_message(&message)),
                // An error that matters is found by [`Member::check`].
                Some(Err(_)) | None => break,
            }
        }
        batch
    }

    /// Whether it still is a member. librdkafka reports the end of a membership once, among other errors, possibly when
    /// nobody was listening.
    pub(super) fn check(&self) -> Result<(), Lost> {
        match self.consumer.client().fatal_error() {
            Some((code, reason)) => Err(Lost::Ended(format!("{code}: {reason}"))),
            None => Ok(()),
        }
    }

    /// Changes whenever partitions are taken away. A batch that was taken before must not be tried again: its
    /// partitions may have a new owner, which reads it from the last committed offset.
    pub(super) fn revocations(&self) -> u64 {
        self.consumer.context().revocations.load(Ordering::SeqCst)
    }

    /// Stores the offset after the last record of each partition.
    pub(super) fn store(&self, records: &[Record]) {
        let mut list = TopicPartitionList::new();
        let mut stored = Ok(());
        for ((topic, partition), offset) in ends(records, i64::max) {
            stored =
                stored.and_then(|()| list.add_partition_offset(topic, partition, Offset::Offset(offset + 1)));
        }
        // Revoked while the batch ran: the new owner gets the records again, and its inbox knows them.
        if let Err(error) = stored.and_then(|()| self.consumer.store_offsets(&list)) {
            tracing::info!(error = chain(&error), "offsets not stored, the partitions were revoked");
        }
    }

    /// Goes back to the first of these records in each partition.
    pub(super) fn rewind(&self, records: &[Record]) -> Result<(), Lost> {
        for ((topic, partition), offset) in ends(records, i64::min) {
            self.seek(topic, partition, Offset::Offset(offset))?;
        }
        Ok(())
    }

    /// Continues a partition at another offset.
    pub(super) fn seek(&self, topic: &str, partition: i32, offset: Offset) -> Result<(), Lost> {
        let sought = self.consumer.seek(topic, partition, offset, Duration::from_secs(1));
        let code = sought.as_ref().err().and_then(KafkaError::rdkafka_error_code);
        // No longer ours: its next owner begins where the database says.
        let is_gone = matches!(code, Some(RDKafkaErrorCode::State | RDKafkaErrorCode::PreviousInProgress));
        match sought {
            Err(error) if !is_gone => Err(Lost::Position(format!("{topic}-{partition}: {}", chain(&error)))),
            _ => Ok(()),
        }
    }

    /// Pauses all partitions; those that are assigned later are paused anyway. [`Member::next`] must still be polled.
    pub(super) fn pause(&self) {
        warn_of(self.consumer.assignment().and_then(|list| self.consumer.pause(&list)));
    }

    /// Resumes them, except for those that wait for [`Member::begin`].
    pub(super) fn resume(&self) {
        if self.consumer.context().unplaced.load(Ordering::SeqCst) {
            return;
        }
        warn_of(self.consumer.assignment().and_then(|list| self.consumer.resume(&list)));
    }

    /// Commits what is stored. Dropping a member does so too; doing it here makes a failure visible.
    pub(super) fn commit(&self) {
        if let Err(error) = self.consumer.commit_consumer_state(CommitMode::Sync)
            && error.rdkafka_error_code() != Some(RDKafkaErrorCode::NoOffset)
        {
            tracing::warn!(
                error = chain(&error),
                "cannot commit offsets; their records will be delivered again"
            );
        }
    }
}

fn warn_of(done: KafkaResult<()>) {
    if let Err(error) = done {
        tracing::warn!(error = chain(&error), "cannot pause or resume partitions");
    }
}

/// The outermost offset of each partition.
fn ends(records: &[Record], outer: fn(i64, i64) -> i64) -> BTreeMap<(&str, i32), i64> {
    let mut ends = BTreeMap::new();
    for record in records {
        let end = ends.entry((record.topic.as_str(), record.partition)).or_insert(record.offset);
        *end = outer(*end, record.offset);
    }
    ends
}
