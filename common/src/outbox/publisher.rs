//! The producer of a process, replaced when it is dead or deaf, or shows an old certificate.
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
    error::KafkaError,
    producer::{FutureProducer, Producer as _, PurgeConfig},
};

use crate::kafka::{
    Brokers, QuietContext,
    refusal::Refusals,
    tls::{ClientKind, Renewal},
};

/// A producer of librdkafka.
pub type Client = FutureProducer<QuietContext>;

/// A producer that gets no answer for this long although the broker answers others is deaf. Longer than a leader
/// election and [`crate::kafka::TOPIC_PROPAGATION_TIME_MAX`], which end on their own.
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
    /// Its certificate was renewed.
    Renewed,
}

impl Replaced {
    const fn name(self) -> &'static str {
        match self {
            Self::Fatal => "fatal",
            Self::Deaf => "deaf",
            Self::Renewed => "renewed",
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
    brokers: Brokers,
    current: ArcSwap<Client>,
    /// Whether the current one should be replaced for its certificate. Held during a replacement: one at a time.
    renewal: Mutex<Renewal>,
    refusals: Refusals,
}

/// The one producer of a process; clones share it.
#[derive(Clone)]
pub struct Publisher(Arc<Inner>);

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("brokers", &self.0.brokers.config().brokers).finish_non_exhaustive()
    }
}

impl Publisher {
    /// With a first producer. Nothing is connected yet.
    pub fn new(brokers: &Brokers) -> Result<Self, KafkaError> {
        let (refusals, renewal) = (brokers.refusals(), brokers.renewal(ClientKind::Producer));
        let first = brokers.producer(QuietContext { refusals: refusals.clone() })?;
        Ok(Self::with(first, brokers, renewal, refusals))
    }

    /// With a first producer of the caller's; its successors are created from `brokers`. For tests.
    #[must_use]
    pub fn starting_with(first: Client, brokers: &Brokers) -> Self {
        Self::with(first, brokers, brokers.renewal(ClientKind::Producer), brokers.refusals())
    }

    fn with(first: Client, brokers: &Brokers, renewal: Renewal, refusals: Refusals) -> Self {
        let (brokers, current) = (brokers.clone(), ArcSwap::from_pointee(first));
        Self(Arc::new(Inner { brokers, current, renewal: Mutex::new(renewal), refusals }))
    }

    /// What the brokers have refused.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.0.refusals
    }

    /// Whether the files of its certificate have changed since the current producer was created.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.0.renewal.lock().unwrap_or_else(PoisonError::into_inner).is_due()
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
        let mut renewal = self.0.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_current(dead) {
            return Ok(());
        }
        dead.purge(PurgeConfig::default().queue().inflight());
        let next_renewal = self.0.brokers.renewal(ClientKind::Producer);
        let fresh = self.0.brokers.producer(QuietContext { refusals: self.0.refusals.clone() })?;
        self.0.current.store(Arc::new(fresh));
        *renewal = next_renewal;
        if why == Replaced::Renewed {
            renewal.count();
            tracing::info!("producer has a new certificate");
            return Ok(());
        }
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
        // Another producer: it needs no right that this one does not need.
        let context = QuietContext { refusals: self.0.refusals.clone() };
        let asked = self
            .0
            .brokers
            .producer(context)
            .and_then(|witness| witness.client().fetch_metadata(topic, WITNESS_TIME_MAX));
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
