//! The clients of Kafka: the settings of librdkafka that matter, each with its reason; [`tls`]; what the brokers refuse
//! ([`refusal`]); and a client for people who look into topics ([`reader`]).

pub mod reader;
pub mod refusal;
pub mod tls;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use crc::{CRC_32_ISO_HDLC, Crc};
use holdfast_proto::{text::kafka_in_words, topic};
use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, KafkaResult},
    producer::FutureProducer,
};

use self::{
    refusal::Refusals,
    tls::{ClientKind, KafkaTlsError, Renewal, Tls},
};
use crate::{config::KafkaConfig, identity::Identity, reload::Reload};

/// A member that falls silent is replaced after this time.
pub const SESSION_TIME_MAX: Duration = Duration::from_secs(10);
/// How often a client asks for brokers, topics and partitions. Five minutes, librdkafka's default, is how long a new
/// partition would go unread.
const METADATA_REFRESH_EVERY: Duration = Duration::from_secs(5);
/// A client that reaches none of the brokers that it knows starts over with the bootstrap brokers after this time
/// (librdkafka: 5 min). A broker that was fenced for a moment is missing from the metadata, so a client can lose its
/// only one.
const REBOOTSTRAP_AFTER: Duration = Duration::from_secs(10);
/// By which of its keys a record goes to which partition: all with one key to one, those without a key to any. [`partition_of`] says
/// which.
const PARTITIONER: &str = "consistent_random";
/// What [`PARTITIONER`] takes of a key.
const KEY_HASH: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
/// A record for a topic that isn't there fails after this time (librdkafka: 30 s).
pub const TOPIC_PROPAGATION_TIME_MAX: Duration = Duration::from_secs(5);

/// Writes librdkafka's log to ours, mostly at debug level: it is about brokers that come and go, which `/readyz` and
/// metrics show better. What is refused is remembered for them.
#[derive(Debug, Clone, Default)]
pub struct QuietContext {
    /// Shared by the clients of one component.
    pub refusals: Refusals,
}

impl ClientContext for QuietContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(facility, message, "librdkafka");
            }
            _ => tracing::debug!(facility, message, "librdkafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.refusals.note(&error, reason);
        tracing::debug!(error = %error, reason, "librdkafka");
    }
}

impl ConsumerContext for QuietContext {}

/// What went wrong, without the name that the library has for it.
pub(crate) fn in_words(error: &KafkaError) -> String {
    let code = error.rdkafka_error_code().map(|code| code.to_string());
    kafka_in_words(&error.to_string(), code.as_deref())
}

/// Where the brokers are, and what we show them: every client of a process is made here. Clones share it.
#[derive(Clone)]
pub struct Brokers(Arc<Inner>);

struct Inner {
    config: KafkaConfig,
    tls: Option<Tls>,
    refusals: Refusals,
}

impl fmt::Debug for Brokers {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Brokers").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl Brokers {
    /// As they are configured; nothing is connected yet. An error means that there can't be the TLS that is asked for.
    pub fn new(config: &KafkaConfig, identity: &Identity) -> Result<Self, KafkaTlsError> {
        let tls = Tls::load(&config.tls, identity)?;
        Ok(Self(Arc::new(Inner { config: config.clone(), tls, refusals: Refusals::default() })))
    }

    /// In the clear, whatever `config` says of TLS. For tests, which have no identity.
    #[must_use]
    pub fn without_tls(config: &KafkaConfig) -> Self {
        Self(Arc::new(Inner { config: config.clone(), tls: None, refusals: Refusals::default() }))
    }

    /// What was configured.
    #[must_use]
    pub fn config(&self) -> &KafkaConfig {
        &self.0.config
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.0.tls.is_some()
    }

    /// Has clients from now on show what the files have now. Those that there are become due for a renewal if that is something else.
    pub fn reload(&self) -> Result<Reload, KafkaTlsError> {
        self.0.tls.as_ref().map_or(Ok(Reload::Unchanged), Tls::reload)
    }

    /// For the clients of one component.
    #[must_use]
    pub fn refusals(&self) -> Refusals {
        self.0.refusals.of_another()
    }

    /// To be made before a client and kept with it.
    #[must_use]
    pub fn renewal(&self, client: ClientKind) -> Renewal {
        self.0.tls.as_ref().map_or(Renewal::NEVER, |tls| tls.renewal(client))
    }

    fn base(&self) -> ClientConfig {
        let mut client = base(&self.0.config);
        if let Some(tls) = &self.0.tls {
            tls.apply(&mut client);
        }
        client
    }

    /// The settings of a consumer in `group`.
    #[must_use]
    pub fn consumer_config(&self, group: &str) -> ClientConfig {
        consumer_config(self.base(), &self.0.config, group)
    }

    /// A client that can ask what a group has committed without being a member of it.
    pub fn observer(
        &self,
        group: &str,
        context: QuietContext,
    ) -> Result<BaseConsumer<QuietContext>, KafkaError> {
        self.base()
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("allow.auto.create.topics", "false")
            .create_with_context(context)
    }

    /// A producer that acknowledges only what all in-sync replicas have.
    pub fn producer(&self, context: QuietContext) -> Result<FutureProducer<QuietContext>, KafkaError> {
        producer_config(self.base()).create_with_context(context)
    }
}

fn base(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.brokers)
        // Come back quickly after a broker's restart.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("topic.metadata.refresh.interval.ms", METADATA_REFRESH_EVERY.as_millis().to_string())
        .set("metadata.recovery.strategy", "rebootstrap")
        .set("metadata.recovery.rebootstrap.trigger.ms", REBOOTSTRAP_AFTER.as_millis().to_string())
        .set("socket.keepalive.enable", "true")
        // A request and its answer are small; waiting for more to send only adds latency.
        .set("socket.nagle.disable", "true");
    client
}

fn consumer_config(mut client: ClientConfig, config: &KafkaConfig, group: &str) -> ClientConfig {
    client
        .set("group.id", group)
        // Offsets are stored by us after the transaction, and what is stored is committed in the background
        // (pitfalls P19). What isn't committed in a crash is delivered again, and the inbox knows it.
        .set("enable.auto.offset.store", "false")
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "1000")
        // A new group reads everything. An offset that the broker lost must stop us, not skip records: "earliest"
        // reads again from the oldest record, which the inbox makes harmless.
        .set("auto.offset.reset", "earliest")
        // Eager assignment: cooperative-sticky has open defects with stored offsets (pitfalls P20).
        .set("partition.assignment.strategy", "range")
        .set("session.timeout.ms", SESSION_TIME_MAX.as_millis().to_string())
        .set("heartbeat.interval.ms", "1000")
        // The work of one batch is bounded far below this.
        .set("max.poll.interval.ms", "300000")
        .set("enable.partition.eof", "false")
        // Answer a fetch as soon as there is a record.
        .set("fetch.min.bytes", "1")
        .set("fetch.wait.max.ms", "500")
        // Bounds the memory of the prefetch queue (KiB).
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.message.max.bytes", topic::RECORD_BYTES_MAX.to_string())
        // After an empty or failed fetch, ask again soon.
        .set("fetch.error.backoff.ms", "50")
        // Reports how far each partition was fetched, for the consumer's watch.
        .set("statistics.interval.ms", "2000")
        .set("allow.auto.create.topics", "false");
    if let Some(instance) = &config.instance_id {
        client.set("group.instance.id", format!("{group}-{instance}"));
    }
    client
}

fn producer_config(mut client: ClientConfig) -> ClientConfig {
    client
        .set("acks", "all")
        // No duplicates and no reordering by retries inside the producer.
        .set("enable.idempotence", "true")
        // The relay sends what it has at once; what arrives meanwhile is the next batch.
        .set("linger.ms", "0")
        // Forever: a record waits for its broker. Giving up would only mean sending it again, out of order (pitfalls
        // P18). The relay's stop ends the wait.
        .set("message.timeout.ms", "0")
        .set("topic.metadata.propagation.max.ms", TOPIC_PROPAGATION_TIME_MAX.as_millis().to_string())
        .set("retry.backoff.ms", "50")
        .set("message.max.bytes", topic::RECORD_BYTES_MAX.to_string())
        .set("partitioner", PARTITIONER)
        .set("queue.buffering.max.messages", "10000")
        .set("compression.type", "none");
    client
}

/// The offsets of these partitions, in their order: of the oldest record (`Offset::Beginning`), after the newest (`Offset::End`), or of the
/// first that is not older than so many milliseconds since 1970 (`Offset::Offset`), if there is one. Each must have a leader, or none is
/// answered.
pub(crate) fn offsets_of(
    client: &BaseConsumer<QuietContext>,
    places: &[(String, i32)],
    asked: Offset,
    time_max: Duration,
) -> KafkaResult<Vec<Option<i64>>> {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for (topic, partition) in places {
        list.add_partition_offset(topic, *partition, asked)?;
    }
    // In the protocol beginning and end are times of their own, so this is one request to each leader.
    let answered = client.offsets_for_times(list, time_max)?;
    let mut offsets = HashMap::new();
    for element in answered.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            offsets.insert((element.topic().to_owned(), element.partition()), offset);
        }
    }
    Ok(places.iter().map(|place| offsets.get(place).copied()).collect())
}

/// The partition to which our producers send what has this key, of a topic that has so many; `None` if it may be in any.
#[must_use]
pub fn partition_of(key: &[u8], partitions: i32) -> Option<i32> {
    let partitions = u32::try_from(partitions).ok().filter(|partitions| *partitions > 0)?;
    let partition = i32::try_from(KEY_HASH.checksum(key) % partitions).ok()?;
    (!key.is_empty()).then_some(partition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KafkaTlsConfig;

    pub(super) fn config() -> KafkaConfig {
        KafkaConfig {
            brokers: "localhost:9092".to_owned(),
            instance_id: None,
            batch_events_max: 1,
            dead_letters_in_a_row_max: 1,
            dead_letter_share_max: 1.0,
            dead_letter_pause: Duration::ZERO,
            tls: KafkaTlsConfig::default(),
        }
    }

    /// Settings that keep records from being lost or reordered. Most losses show under rare faults only, so each setting is
    /// checked here by its value.
    #[test]
    fn the_settings_that_lose_nothing_are_set() {
        let brokers = Brokers::without_tls(&config());
        let (producer, consumer) = (producer_config(brokers.base()), brokers.consumer_config("test"));
        for (client, setting, value) in [
            // Pitfalls P18.
            (&producer, "acks", "all"),
            (&producer, "enable.idempotence", "true"),
            (&producer, "message.timeout.ms", "0"),
            // Whoever looks for a key asks `partition_of`.
            (&producer, "partitioner", "consistent_random"),
            // Pitfalls P19.
            (&consumer, "enable.auto.offset.store", "false"),
            (&consumer, "auto.offset.reset", "earliest"),
            // Pitfalls P20.
            (&consumer, "partition.assignment.strategy", "range"),
        ] {
            assert_eq!(client.get(setting), Some(value), "{setting}");
        }
    }
    /// A key has one partition of those that there are. The check value is that of the hash's definition.
    #[test]
    fn a_key_has_its_partition() {
        assert_eq!(KEY_HASH.checksum(b"123456789"), 0xcbf4_3926);
        assert_eq!(partition_of(b"123456789", 4), Some(2));
        assert_eq!(partition_of(b"123456789", 1), Some(0));
        for (key, partitions) in [(&b""[..], 4), (b"k", 0), (b"k", -1)] {
            assert_eq!(partition_of(key, partitions), None);
        }
    }
}
