//! A member of a consumer group: the side of the consumer that faces librdkafka.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance, StreamConsumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use crate::{
    config::KafkaConfig,
    kafka::{QuietContext, consumer_config},
    record::Record,
    service::chain,
};

/// Ended for good by the broker: it can never read again, another one must take its place.
///
/// Seen when the broker is killed soon after it has taken a static member in: it comes back with the state of before,
/// and refuses the member's own id as that of somebody who was replaced (`FENCED_INSTANCE_ID`).
#[derive(Debug, thiserror::Error)]
#[error("membership in the consumer group is lost: {0}")]
pub(super) struct Lost(String);

/// Reads the partitions that the group gives it. What it reads is *taken*; what was processed is *stored*, and
/// librdkafka commits that in the background and when it lets partitions go.
pub(super) struct Member {
    consumer: StreamConsumer<Context>,
}

/// What rebalances change. librdkafka calls it from within a poll.
#[derive(Default)]
struct Context {
    /// Grows with each revocation.
    revocations: AtomicU64,
    /// Whether partitions are held back now, including those that are assigned later.
    paused: AtomicBool,
    /// Whether the broker is known to be away, so that it is said once.
    broker_away: AtomicBool,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        QuietContext.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        QuietContext.error(error, reason);
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
        // librdkafka keeps a pause with the partition, whoever owned it in between. Without a word here a partition that
        // went while it was held back would come back held back for ever, and a new one would flow into a pause.
        if let Rebalance::Assign(partitions) = rebalance {
            let done = if self.paused.load(Ordering::SeqCst) {
                consumer.pause(partitions)
            } else {
                consumer.resume(partitions)
            };
            warn_of(done);
        }
    }
}

impl Member {
    /// Joins the group for `topics`. The first partitions arrive while it reads.
    pub(super) fn join(config: &KafkaConfig, group: &str, topics: &[&str]) -> KafkaResult<Self> {
        let consumer: StreamConsumer<Context> =
            consumer_config(config, group).create_with_context(Context::default())?;
        consumer.subscribe(topics)?;
        Ok(Self { consumer })
    }

    /// The next record. Errors are mostly the broker's state, which librdkafka mends by itself: they are said, not acted
    /// on, and not waited on either, because what comes after them stands in the same queue.
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
                Err(error @ KafkaError::MessageConsumptionFatal(_)) => return Err(Lost(chain(&error))),
                Err(error) => {
                    self.check()?;
                    if away.swap(true, Ordering::SeqCst) {
                        tracing::debug!(error = chain(&error), "cannot read from the broker");
                    } else {
                        tracing::warn!(error = chain(&error), "cannot read from the broker, waiting for it");
                    }
                }
            }
        }
    }

    /// Takes what is there without waiting, up to `records_max` together with `first`: a batch forms under load, and a
    /// single event waits for nobody.
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

    /// Whether it still is a member. librdkafka says the end of a membership once, among other errors, and may have said
    /// it when nobody listened.
    pub(super) fn check(&self) -> Result<(), Lost> {
        match self.consumer.client().fatal_error() {
            Some((code, reason)) => Err(Lost(format!("{code}: {reason}"))),
            None => Ok(()),
        }
    }

    /// Changes whenever partitions are taken away. A batch that was taken before must not be tried again: its
    /// partitions may have a new owner, who reads it from the last committed offset.
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

    /// Makes the partitions of these records begin with them again.
    pub(super) fn rewind(&self, records: &[Record]) -> Result<(), Lost> {
        for ((topic, partition), offset) in ends(records, i64::min) {
            let sought = self.consumer.seek(topic, partition, Offset::Offset(offset), Duration::from_secs(1));
            let code = sought.as_ref().err().and_then(KafkaError::rdkafka_error_code);
            // Not ours any more, and then there is nothing to rewind.
            let is_gone =
                matches!(code, Some(RDKafkaErrorCode::State | RDKafkaErrorCode::PreviousInProgress));
            if let Err(error) = sought
                && !is_gone
            {
                // To go on here would skip records.
                return Err(Lost(format!("cannot go back in {topic}: {}", chain(&error))));
            }
        }
        Ok(())
    }

    /// Holds all partitions back, those that come later too. Their member goes on to be served by [`Member::next`].
    pub(super) fn pause(&self) {
        self.consumer.context().paused.store(true, Ordering::SeqCst);
        warn_of(self.consumer.assignment().and_then(|list| self.consumer.pause(&list)));
    }

    /// Lets them flow again.
    pub(super) fn resume(&self) {
        self.consumer.context().paused.store(false, Ordering::SeqCst);
        warn_of(self.consumer.assignment().and_then(|list| self.consumer.resume(&list)));
    }

    /// Commits what is stored. The end of a member does it too; said here so that a failure is seen.
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
