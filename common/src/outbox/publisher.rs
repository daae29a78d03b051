//! The producer of a process, replaced when it is dead or deaf.
//!
//! A producer is *dead* after a fatal error of librdkafka: for example from a broker that came back with an older log.
//! It is *deaf* when the broker answers another, fresh client, but never this one (librdkafka 2.12, after a broker was
//! stopped for longer than its session). Neither ever ends on its own.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rdkafka::{
    consumer::Consumer as _,
    error::KafkaError,
    producer::{FutureProducer, Producer as _, PurgeConfig},
};

use crate::{
    config::KafkaConfig,
    kafka::{self, QuietContext},
};

/// A producer of librdkafka.
pub type Client = FutureProducer<QuietContext>;

/// A producer that gets no answer for this long although the broker answers others is deaf. Longer than a leader
/// election and [`kafka::TOPIC_PROPAGATION_TIME_MAX`], which end on their own.
pub const DEAF_AFTER: Duration = Duration::from_secs(10);
/// Time for a fresh client to connect and be answered.
const WITNESS_TIME_MAX: Duration = Duration::from_secs(3);

/// Why a producer was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// librdkafka reported a fatal error.
    Fatal,
    /// The broker answers others.
    Deaf,
}

impl Replaced {
    const fn name(self) -> &'static str {
        match self {
            Self::Fatal => "fatal",
            Self::Deaf => "deaf",
        }
    }
}

/// What a fresh client finds out about the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// It answers, and each partition that was asked for has a leader.
    Answered,
    /// It does not, or a partition has no leader, or the topic isn't there.
    Silent,
}

struct Inner {
    config: KafkaConfig,
    current: ArcSwap<Client>,
    /// One replacement at a time.
    replacing: Mutex<()>,
}

/// The one producer of a process; clones share it.
#[derive(Clone)]
pub struct Publisher(Arc<Inner>);

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("brokers", &self.0.config.brokers).finish_non_exhaustive()
    }
}

impl Publisher {
    /// With a first producer. Nothing is connected yet.
    pub fn new(config: &KafkaConfig) -> Result<Self, KafkaError> {
        Ok(Self::starting_with(kafka::producer(config)?, config))
    }

    /// With a first producer of the caller's; its successors are created from `config`. For tests.
    #[must_use]
    pub fn starting_with(first: Client, config: &KafkaConfig) -> Self {
        let current = ArcSwap::from_pointee(first);
        Self(Arc::new(Inner { config: config.clone(), current, replacing: Mutex::default() }))
    }

    /// The current producer. Hold it for one pass only: an old one is dropped when nobody holds it.
    #[must_use]
    pub fn current(&self) -> Arc<Client> {
        self.0.current.load_full()
    }

    /// Whether `client` is still the current producer.
    #[must_use]
    pub fn is_current(&self, client: &Arc<Client>) -> bool {
        Arc::ptr_eq(&self.0.current.load(), client)
    }

    /// Replaces `dead`, unless somebody else has. What it still had is discarded first, so that the old and the new one
    /// don't publish at the same time; a request that is already on its way to the broker can't be recalled, which
    /// repeats records in their order, and every inbox recognises them.
    pub fn replace(&self, dead: &Arc<Client>, why: Replaced) -> Result<(), KafkaError> {
        let _replacing = self.0.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_current(dead) {
            return Ok(());
        }
        dead.purge(PurgeConfig::default().queue().inflight());
        let fresh = kafka::producer(&self.0.config)?;
        self.0.current.store(Arc::new(fresh));
        metrics::counter!(crate::metric::OUTBOX_PRODUCER_REPLACEMENTS_TOTAL, "reason" => why.name())
            .increment(1);
        let fatal = dead.client().fatal_error().map(|(code, text)| format!("{code}: {text}"));
        tracing::warn!(reason = why.name(), error = fatal, "producer was replaced");
        Ok(())
    }

    /// Replaces the current producer if it has had a fatal error. Returns whether it had.
    pub fn replace_if_fatal(&self) -> Result<bool, KafkaError> {
        let client = self.current();
        if client.client().fatal_error().is_none() {
            return Ok(false);
        }
        self.replace(&client, Replaced::Fatal)?;
        Ok(true)
    }

    /// Asks the broker with a fresh client. Blocks for up to a few seconds.
    #[must_use]
    pub fn witness(&self, topic: Option<&str>) -> Witness {
        let asked = kafka::observer(&self.0.config, "holdfast-witness")
            .and_then(|observer| observer.fetch_metadata(topic, WITNESS_TIME_MAX));
        let Ok(metadata) = asked else {
            return Witness::Silent;
        };
        let led = topic.is_none()
            || metadata.topics().iter().all(|topic| {
                let partitions = topic.partitions();
                topic.error().is_none()
                    && !partitions.is_empty()
                    && partitions.iter().all(|partition| partition.leader() >= 0)
            });
        if led && !metadata.brokers().is_empty() { Witness::Answered } else { Witness::Silent }
    }
}
