//! The loop around the batches: take what is there, process it, store the offsets; when the infrastructure is away,
//! pause and keep polling; when the membership is lost, join anew.
//!
//! Two answers that must not be confused: *back-pressure* (the database is away: hold the batch, pause the partitions,
//! try again) lives here; *poison* (the record is bad) lives in [`super::batch`].

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Handler,
    batch::{Counts, Processor},
    limit::{Limit, LimitConfig, Next},
    member::{Lost, Member},
    stops::Standing,
};
use crate::{
    backoff::Backoff,
    config::KafkaConfig,
    health::{Component, Health, Heartbeat},
    record::Record,
    service::{BoxError, chain},
};

/// The loop must go round at least this often (pitfalls P22); no single step takes longer.
pub const HEARTBEAT_EVERY_MAX: Duration = Duration::from_secs(60);
/// How often the loop goes round when nothing arrives.
const IDLE_ROUND: Duration = Duration::from_secs(5);
/// How often a consumer that stands looks for an operator's word.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A membership that lasted this long was none that is lost again and again.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// Reads topics for a consumer group and hands batches to a processor.
pub struct Runtime<H: Handler> {
    config: KafkaConfig,
    group: &'static str,
    topics: Vec<String>,
    processor: Processor<H>,
    component: Component,
    health: Health,
}

impl<H: Handler> Runtime<H> {
    /// A consumer of `topics` in the group `group`, which is joined by [`Runtime::run`].
    #[must_use]
    pub fn new(
        config: &KafkaConfig,
        group: &'static str,
        topics: &[&str],
        processor: Processor<H>,
        health: &Health,
    ) -> Self {
        Self {
            config: config.clone(),
            group,
            topics: topics.iter().copied().map(str::to_owned).collect(),
            processor,
            component: health.component("consumer"),
            health: health.clone(),
        }
    }

    /// Reads until `stop`; the batch in hand is finished, and its offsets are committed.
    pub async fn run(self, stop: CancellationToken) -> Result<(), BoxError> {
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        // From here on; before, nobody reads, and the owner may wait for its database as long as it takes.
        let heartbeat = self.health.heartbeat("consumer", HEARTBEAT_EVERY_MAX);
        let mut limit = Limit::new(LimitConfig {
            in_a_row_max: self.config.dead_letters_in_a_row_max.max(1),
            share_max: self.config.dead_letter_share_max,
            pause: self.config.dead_letter_pause,
        });
        let mut standing = Standing::new(self.processor.database.clone(), self.group);
        let mut backoff = Backoff::for_infrastructure();
        loop {
            let joined = Instant::now();
            let session = Session {
                member: Member::join(&self.config, self.group, &topics)?,
                processor: &self.processor,
                batch_events_max: self.config.batch_events_max.max(1),
                component: &self.component,
                heartbeat: &heartbeat,
                stop: &stop,
            };
            self.component.ready();
            let outcome = session.run(&mut limit, &mut standing).await;
            // Leaving the group waits for the broker's answer.
            let member = session.member;
            tokio::task::spawn_blocking(move || drop(member)).await?;
            let Err(lost) = outcome else { return Ok(()) };
            metrics::counter!("consumer_memberships_lost_total").increment(1);
            tracing::error!(error = chain(&lost), "joining the group anew");
            self.component.waiting(chain(&lost));
            if joined.elapsed() > STABLE_AFTER {
                backoff.reset();
            }
            heartbeat.beat();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(backoff.next_pause()) => {}
            }
        }
    }
}

/// The life of one membership.
struct Session<'a, H: Handler> {
    member: Member,
    processor: &'a Processor<H>,
    batch_events_max: usize,
    component: &'a Component,
    heartbeat: &'a Heartbeat,
    stop: &'a CancellationToken,
}

impl<H: Handler> Session<'_, H> {
    /// Reads until asked to stop, or until the membership is lost: then what is in hand was not done, or its inbox rows
    /// are there, and the next membership begins after the last committed offset.
    async fn run(&self, limit: &mut Limit, standing: &mut Standing) -> Result<(), Lost> {
        while !self.stop.is_cancelled() {
            self.heartbeat.beat();
            self.member.check()?;
            let events_max = match limit.next() {
                Next::Batch => self.batch_events_max,
                Next::One => 1,
                Next::Wait(until) => {
                    self.stand(until, limit, standing).await?;
                    continue;
                }
            };
            let first = tokio::select! {
                () = self.stop.cancelled() => break,
                record = self.member.next() => record?,
                () = tokio::time::sleep(IDLE_ROUND) => continue,
            };
            let batch = self.member.fill(first, events_max);
            if let Some(counts) = self.finish(batch).await? {
                limit.record(counts);
                if limit.next() == Next::Batch {
                    self.component.ready();
                    standing.end().await;
                }
            }
        }
        self.member.commit();
        Ok(())
    }

    /// Takes nothing until then, or until an operator says to go on.
    async fn stand(&self, until: Instant, limit: &mut Limit, standing: &mut Standing) -> Result<(), Lost> {
        self.component.waiting(format!(
            "too many dead letters ({}): stopped, one record is tried from time to time",
            limit.stopped_for()
        ));
        self.member.pause();
        while Instant::now() < until {
            if let Some(leave) = standing.look(limit.stopped_for()).await {
                limit.resume(leave);
                self.component.ready();
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
    async fn finish(&self, batch: Vec<Record>) -> Result<Option<Counts>, Lost> {
        let taken_at = self.member.revocations();
        let records: Arc<[Record]> = batch.into();
        let mut backoff = Backoff::for_infrastructure();
        let done = loop {
            let started = Instant::now();
            match self.processor.process(records.clone()).await {
                Ok(counts) => {
                    count(counts, started.elapsed());
                    self.member.store(&records);
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
            self.member.pause();
            let until = Instant::now() + backoff.next_pause();
            if !self.keep_polling(until).await? || self.member.revocations() != taken_at {
                // Asked to stop, or the partitions have a new owner: nothing was done, nothing is stored, so the batch
                // is delivered again from the last committed offset.
                self.member.rewind(&records)?;
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
    /// database is away. Answers false when asked to stop.
    async fn keep_polling(&self, until: Instant) -> Result<bool, Lost> {
        loop {
            self.heartbeat.beat();
            self.member.check()?;
            tokio::select! {
                () = self.stop.cancelled() => return Ok(false),
                () = tokio::time::sleep_until(until) => return Ok(true),
                // The heart beats however long the wait is.
                () = tokio::time::sleep(IDLE_ROUND) => {}
                // On its way when the pause began: not now.
                record = self.member.next() => self.member.rewind(std::slice::from_ref(&record?))?,
            }
        }
    }
}

fn count(counts: Counts, time: Duration) {
    metrics::histogram!("consumer_batch_seconds").record(time.as_secs_f64());
    for (outcome, count) in
        [("applied", counts.applied), ("duplicate", counts.duplicates), ("parked", counts.parked)]
    {
        metrics::counter!("consumer_records_total", "outcome" => outcome).increment(count.unsigned_abs());
    }
}
