//! The loop around the batches: take what is there, process it, store the offsets; when the infrastructure is away,
//! pause and keep polling.
//!
//! Two answers that must not be confused: *back-pressure* (the database is away: hold the batch, pause the partitions,
//! try again) lives here; *poison* (the record is bad) lives in [`super::batch`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio_util::sync::CancellationToken;

use super::{
    Handler,
    batch::{Counts, Processor},
    limit::{Limit, LimitConfig, Next},
};
use crate::{
    backoff::Backoff,
    config::KafkaConfig,
    health::{Component, Health, Heartbeat},
    kafka::{QuietContext, consumer_config},
    record::Record,
    service::{BoxError, chain},
};

/// The loop must go round at least this often (pitfalls P22); no single step takes longer.
pub const HEARTBEAT_EVERY_MAX: Duration = Duration::from_secs(60);
/// How often the loop goes round when nothing arrives.
const IDLE_ROUND: Duration = Duration::from_secs(5);

/// Reads topics for a consumer group and hands batches to a processor.
pub struct Runtime<H: Handler> {
    consumer: StreamConsumer<GroupContext>,
    processor: Processor<H>,
    batch_events_max: usize,
    limit: LimitConfig,
    component: Component,
    health: Health,
}

/// Notes rebalances.
struct GroupContext {
    /// Grows with each revocation. A batch that was taken before must not be tried again: its partitions may have a
    /// new owner, who reads it from the last committed offset.
    revocations: Arc<AtomicU64>,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        QuietContext.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        QuietContext.error(error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => {
                tracing::info!(partitions = partitions.count(), "partitions assigned");
            }
            Rebalance::Revoke(partitions) => {
                // Called from a poll, and this loop never polls while a batch is in a transaction: what was taken is
                // either stored or rolled back. librdkafka commits the stored offsets when it lets go.
                self.revocations.fetch_add(1, Ordering::SeqCst);
                tracing::info!(partitions = partitions.count(), "partitions revoked");
            }
            Rebalance::Error(error) => tracing::warn!(error = chain(error), "rebalance failed"),
        }
    }
}

impl<H: Handler> Runtime<H> {
    /// Joins the group `group` for `topics`. Nothing is read before [`Runtime::run`].
    pub fn new(
        config: &KafkaConfig,
        group: &'static str,
        topics: &[&str],
        processor: Processor<H>,
        health: &Health,
    ) -> Result<Self, KafkaError> {
        let context = GroupContext { revocations: Arc::default() };
        let consumer: StreamConsumer<GroupContext> =
            consumer_config(config, group).create_with_context(context)?;
        consumer.subscribe(topics)?;
        Ok(Self {
            consumer,
            processor,
            batch_events_max: config.batch_events_max.max(1),
            limit: LimitConfig {
                in_a_row_max: config.dead_letters_in_a_row_max.max(1),
                share_max: config.dead_letter_share_max,
                pause: config.dead_letter_pause,
            },
            component: health.component("consumer"),
            health: health.clone(),
        })
    }

    /// Reads until `stop`; the batch in hand is finished, and its offsets are committed.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        self.component.ready();
        // From here on; before, the loop may wait for its database as long as it takes.
        let heartbeat = self.health.heartbeat("consumer", HEARTBEAT_EVERY_MAX);
        let mut limit = Limit::new(self.limit);
        while !stop.is_cancelled() {
            heartbeat.beat();
            let events_max = match limit.next() {
                Next::Batch => self.batch_events_max,
                Next::One => 1,
                Next::Wait(until) => {
                    self.component
                        .waiting("too many dead letters: stopped, one record is tried from time to time");
                    self.pause();
                    self.keep_polling(until, &heartbeat, &stop).await?;
                    self.resume();
                    continue;
                }
            };
            let first = tokio::select! {
                () = stop.cancelled() => break,
                record = self.next() => record?,
                () = tokio::time::sleep(IDLE_ROUND) => continue,
            };
            let Some(first) = first else { continue };
            let batch = self.fill(first, events_max);
            if let Some(counts) = self.finish(batch, &heartbeat, &stop).await? {
                limit.record(counts);
                if limit.next() == Next::Batch {
                    self.component.ready();
                }
            }
        }
        // Closing the consumer commits what is stored; said here so that a failure is seen.
        if let Err(error) = self.consumer.commit_consumer_state(rdkafka::consumer::CommitMode::Sync)
            && error.rdkafka_error_code() != Some(RDKafkaErrorCode::NoOffset)
        {
            tracing::warn!(
                error = chain(&error),
                "cannot commit offsets; their records will be delivered again"
            );
        }
        Ok(())
    }

    /// The next record. Errors are mostly the broker's state, which librdkafka mends by itself: they are said, not acted
    /// on. But some end a member for good (another one took its instance id, for one): it would wait for ever, so the
    /// process ends, and the next one joins anew.
    async fn next(&self) -> Result<Option<Record>, BoxError> {
        match self.consumer.recv().await {
            Ok(message) => Ok(Some(Record::from_message(&message))),
            Err(error @ KafkaError::MessageConsumptionFatal(_)) => Err(error.into()),
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot read from the broker, waiting for it");
                if let Some((code, reason)) = self.consumer.client().fatal_error() {
                    return Err(format!("the consumer is lost: {code}: {reason}").into());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(None)
            }
        }
    }

    /// Takes what is there without waiting: a batch forms under load, and a single event waits for nobody.
    fn fill(&self, first: Record, events_max: usize) -> Vec<Record> {
        let mut batch = vec![first];
        while batch.len() < events_max {
            match self.consumer.recv().now_or_never() {
                Some(Ok(message)) => batch.push(Record::from_message(&message)),
                Some(Err(_)) | None => break,
            }
        }
        batch
    }

    /// Processes the batch, again and again while the infrastructure is away, and stores its offsets. `None`: it was not
    /// processed.
    async fn finish(
        &self,
        batch: Vec<Record>,
        heartbeat: &Heartbeat,
        stop: &CancellationToken,
    ) -> Result<Option<Counts>, BoxError> {
        let revocations = self.consumer.context().revocations.clone();
        let taken_at = revocations.load(Ordering::SeqCst);
        let records: Arc<[Record]> = batch.into();
        let mut backoff = Backoff::for_infrastructure();
        let mut paused = Paused::No;
        let done = loop {
            let started = std::time::Instant::now();
            match self.processor.process(records.clone()).await {
                Ok(counts) => {
                    metrics::histogram!("consumer_batch_seconds").record(started.elapsed().as_secs_f64());
                    for (outcome, count) in [
                        ("applied", counts.applied),
                        ("duplicate", counts.duplicates),
                        ("parked", counts.parked),
                    ] {
                        metrics::counter!("consumer_records_total", "outcome" => outcome)
                            .increment(count.unsigned_abs());
                    }
                    self.store_offsets(&records)?;
                    break Some(counts);
                }
                Err(error) => {
                    let text = chain(&error);
                    if backoff.attempt() == 0 {
                        tracing::warn!(error = text, records = records.len(), "batch is tried again");
                    }
                    metrics::counter!("consumer_retries_total").increment(1);
                    self.component.waiting(text);
                }
            }
            paused = Paused::Yes;
            self.pause();
            let until = tokio::time::Instant::now() + backoff.next_pause();
            if !self.keep_polling(until, heartbeat, stop).await?
                || revocations.load(Ordering::SeqCst) != taken_at
            {
                // Asked to stop, or the partitions have a new owner: nothing was done, nothing is stored, so the batch
                // is delivered again from the last committed offset.
                self.rewind(&records);
                break None;
            }
        };
        if matches!(paused, Paused::Yes) {
            self.resume();
            self.component.ready();
        }
        Ok(done)
    }

    /// Serves librdkafka until then while the batch waits, so that the member stays in its group however long the
    /// database is away. Answers false when asked to stop.
    async fn keep_polling(
        &self,
        until: tokio::time::Instant,
        heartbeat: &Heartbeat,
        stop: &CancellationToken,
    ) -> Result<bool, BoxError> {
        loop {
            heartbeat.beat();
            tokio::select! {
                () = stop.cancelled() => return Ok(false),
                () = tokio::time::sleep_until(until) => return Ok(true),
                // The heart beats however long the wait is.
                () = tokio::time::sleep(IDLE_ROUND) => {}
                record = self.next() => {
                    // From a partition that was assigned meanwhile: not now.
                    if let Some(record) = record? {
                        self.pause();
                        self.rewind(std::slice::from_ref(&record));
                    }
                }
            }
        }
    }

    /// Stores the offset after the last record of each partition. Librdkafka commits it in the background.
    fn store_offsets(&self, records: &[Record]) -> Result<(), BoxError> {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), offset) in last_offsets(records) {
            list.add_partition_offset(topic, partition, Offset::Offset(offset + 1))?;
        }
        match self.consumer.store_offsets(&list) {
            Ok(()) => Ok(()),
            // Revoked while the batch ran: the new owner gets the records again, and its inbox knows them.
            Err(error) => {
                tracing::info!(error = chain(&error), "offsets not stored, the partitions were revoked");
                Ok(())
            }
        }
    }

    /// Makes the partitions of these records begin with them again.
    fn rewind(&self, records: &[Record]) {
        let mut firsts: BTreeMap<(&str, i32), i64> = BTreeMap::new();
        for record in records {
            let first = firsts.entry((&record.topic, record.partition)).or_insert(record.offset);
            *first = (*first).min(record.offset);
        }
        for ((topic, partition), offset) in firsts {
            // Fails where the partition is not ours any more, and then there is nothing to rewind.
            let _ = self.consumer.seek(topic, partition, Offset::Offset(offset), Duration::from_secs(1));
        }
    }

    fn pause(&self) {
        self.with_assignment(|list| self.consumer.pause(list));
    }

    fn resume(&self) {
        self.with_assignment(|list| self.consumer.resume(list));
    }

    fn with_assignment(&self, act: impl Fn(&TopicPartitionList) -> Result<(), KafkaError>) {
        if let Err(error) = self.consumer.assignment().and_then(|list| act(&list)) {
            tracing::warn!(error = chain(&error), "cannot pause or resume partitions");
        }
    }
}

enum Paused {
    Yes,
    No,
}

fn last_offsets(records: &[Record]) -> BTreeMap<(&str, i32), i64> {
    let mut lasts = BTreeMap::new();
    for record in records {
        let last = lasts.entry((record.topic.as_str(), record.partition)).or_insert(record.offset);
        *last = (*last).max(record.offset);
    }
    lasts
}
