//! A client for people who look into topics. It is in no group, commits nothing, creates no topic and has no way to write.
//!
//! It blocks, and each call has a time after which it fails. What it holds is bounded by [`QUEUE_KIB_MAX`] and one answer of a broker.

use std::{collections::BTreeMap, time::Duration};

use holdfast_proto::topic::RECORD_BYTES_MAX;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier},
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult},
    metadata::{MetadataPartition, MetadataTopic},
    types::RDKafkaErrorCode,
};

use super::{
    Brokers, QuietContext, in_words, offsets_of,
    refusal::Refusals,
    tls::{ClientKind, Renewal},
};
use crate::record::Record;

/// librdkafka asks for the name of a group in any case. Nothing joins it, and nothing is committed in it.
const NO_GROUP: &str = "holdfast-reader";
/// Of records that were fetched and not asked for yet.
const QUEUE_KIB_MAX: usize = 4 * 1024;
/// Of an answer of a broker, but for a single larger record.
const FETCH_BYTES_MAX: usize = 4 * 1024 * 1024;
// One record always fits.
const _: () = assert!(FETCH_BYTES_MAX >= RECORD_BYTES_MAX);

/// Why something could not be read, in words.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(String);

/// A topic as the brokers have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicView {
    /// Its name.
    pub name: String,
    /// In the order of their numbers.
    pub partitions: Vec<PartitionView>,
}

/// A partition as the brokers have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionView {
    /// Its number.
    pub number: i32,
    /// The broker that has it; without one it can't be read.
    pub leader: Option<i32>,
    /// Brokers that should have a copy.
    pub replicas: usize,
    /// Those of them that have all of it.
    pub in_sync: usize,
}

/// How long a topic keeps its records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// `cleanup.policy`: `delete`, `compact` or both.
    pub policy: String,
    /// `retention.ms`; -1 is forever.
    pub time_ms: Option<i64>,
    /// `retention.bytes` of each partition; -1 is without a limit.
    pub bytes: Option<i64>,
}

/// A partition of a topic.
pub type Place = (String, i32);

/// Which offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Of the oldest record that there is.
    First,
    /// After the newest record.
    End,
    /// Of the first record that is not older than this, in milliseconds since 1970.
    Time(i64),
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// A record.
    Record(Box<Record>),
    /// A partition with this number has no further record yet; of which topic is not said.
    End(i32),
    /// Nothing was heard in time.
    Nothing,
}

/// See the module.
pub struct Reader {
    client: BaseConsumer<QuietContext>,
    brokers: Brokers,
    refusals: Refusals,
    renewal: Renewal,
}

impl Brokers {
    /// A client as [`Reader`] says. It connects when it is first asked something.
    pub fn reader(&self) -> Result<Reader, ReadError> {
        let (renewal, refusals) = (self.renewal(ClientKind::Reader), self.refusals());
        let context = QuietContext { refusals: refusals.clone() };
        let client = reader_config(self.base()).create_with_context(context);
        let client = client.map_err(|error| ReadError(in_words(&error)))?;
        Ok(Reader { client, brokers: self.clone(), refusals, renewal })
    }
}

fn reader_config(mut client: ClientConfig) -> ClientConfig {
    client
        .set("group.id", NO_GROUP)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("allow.auto.create.topics", "false")
        // As the services: what was written and never committed is not shown to them either.
        .set("isolation.level", "read_committed")
        // What was deleted meanwhile is passed over: each record has its own offset, so that is seen.
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "true")
        .set("fetch.min.bytes", "1")
        // librdkafka asks a broker one thing at a time, and asks on after the end of a partition: what is read next waits so long.
        .set("fetch.wait.max.ms", "10")
        .set("fetch.error.backoff.ms", "50")
        .set("queued.max.messages.kbytes", QUEUE_KIB_MAX.to_string())
        .set("fetch.message.max.bytes", RECORD_BYTES_MAX.to_string())
        .set("fetch.max.bytes", FETCH_BYTES_MAX.to_string());
    client
}

impl Reader {
    /// Whether it shows a certificate that was renewed since: take another one.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.renewal.is_due()
    }

    fn said<T>(&self, result: KafkaResult<T>) -> Result<T, ReadError> {
        result.map_err(|error| {
            self.refusals.note(&error, "");
            let words = self.refusals.explain(in_words(&error));
            ReadError(if is_passing(&error) { format!("no answer in time: {words}") } else { words })
        })
    }

    /// All topics that may be seen, by their names.
    pub fn topics(&self, time_max: Duration) -> Result<Vec<TopicView>, ReadError> {
        // It reads nothing, but librdkafka reports its errors here, and they must not pile up.
        while self.client.poll(Duration::ZERO).is_some() {}
        // All of them, and never one by its name: a name can't create anything then.
        let metadata = self.said(self.client.fetch_metadata(None, time_max))?;
        let mut topics: Vec<TopicView> = metadata.topics().iter().map(topic_view).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        self.refusals.forget();
        Ok(topics)
    }

    /// The offsets of these partitions, in their order; `None` where there is none: no record is as new as the time. Each partition must
    /// have a leader, or none is answered.
    pub fn offsets(
        &self,
        places: &[Place],
        at: At,
        time_max: Duration,
    ) -> Result<Vec<Option<i64>>, ReadError> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let asked = match at {
            At::First => Offset::Beginning,
            At::End => Offset::End,
            At::Time(ms) => Offset::Offset(ms.max(0)),
        };
        self.said(offsets_of(&self.client, places, asked, time_max))
    }

    /// How long these topics keep their records, by their names; those are missing of which that may not be known.
    pub fn retention(
        &self,
        topics: &[String],
        time_max: Duration,
    ) -> Result<BTreeMap<String, Retention>, ReadError> {
        self.said(self.ask_retention(topics, time_max))
    }

    fn ask_retention(
        &self,
        topics: &[String],
        time_max: Duration,
    ) -> KafkaResult<BTreeMap<String, Retention>> {
        let context = QuietContext { refusals: self.refusals.clone() };
        let admin: AdminClient<QuietContext> = self.brokers.base().create_with_context(context)?;
        let asked: Vec<ResourceSpecifier<'_>> =
            topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(time_max));
        let answers = futures_util::FutureExt::boxed(admin.describe_configs(&asked, &options));
        let answers = tokio::runtime::Handle::current().block_on(answers);
        // It takes up to 100 ms to end, for which nobody has to wait.
        tokio::task::spawn_blocking(move || drop(admin));
        let known = answers?.into_iter().filter_map(|answer| match answer {
            Ok(resource) => match &resource.specifier {
                OwnedResourceSpecifier::Topic(topic) => Some((topic.clone(), retention_of(&resource))),
                _ => None,
            },
            // Of this topic it may not be known.
            Err(_) => None,
        });
        Ok(known.collect())
    }

    /// Reads these partitions, each from an offset on, and nothing else.
    pub fn begin(&self, places: &[(Place, i64)]) -> Result<(), ReadError> {
        let mut list = TopicPartitionList::with_capacity(places.len());
        let added = places.iter().try_for_each(|((topic, partition), offset)| {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset))
        });
        self.said(added.and_then(|()| self.client.assign(&list)))
    }

    /// Reads no more of one of the partitions that were begun.
    pub fn leave(&self, (topic, partition): &Place) -> Result<(), ReadError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(topic, *partition);
        self.said(self.client.incremental_unassign(&list))
    }

    /// What comes next of the partitions that were begun.
    pub fn next(&self, time_max: Duration) -> Result<Next, ReadError> {
        match self.client.poll(time_max) {
            None => Ok(Next::Nothing),
            Some(Ok(message)) => Ok(Next::Record(Box::new(Record::from_message(&message)))),
            Some(Err(KafkaError::PartitionEOF(partition))) => Ok(Next::End(partition)),
            // Tried again until the time is over.
            Some(Err(error)) if is_passing(&error) || is_of_the_group(&error) => Ok(Next::Nothing),
            Some(Err(error)) => self.said(Err(error)),
        }
    }

    /// Reads nothing any more.
    pub fn end(&self) -> Result<(), ReadError> {
        self.said(self.client.unassign())
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("brokers", &self.brokers).finish_non_exhaustive()
    }
}

/// Whether librdkafka goes on by itself.
fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut
        )
    )
}

/// Whether it is about the group, whose coordinator librdkafka looks for in any case. Who may only read topics is refused that, and misses
/// nothing.
fn is_of_the_group(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
}

fn topic_view(topic: &MetadataTopic) -> TopicView {
    let mut partitions: Vec<PartitionView> = topic.partitions().iter().map(partition_view).collect();
    partitions.sort_by_key(|partition| partition.number);
    TopicView { name: topic.name().to_owned(), partitions }
}

fn partition_view(partition: &MetadataPartition) -> PartitionView {
    PartitionView {
        number: partition.id(),
        leader: Some(partition.leader()).filter(|leader| *leader >= 0),
        replicas: partition.replicas().len(),
        in_sync: partition.isr().len(),
    }
}

fn retention_of(resource: &ConfigResource) -> Retention {
    let value = |name| resource.get(name).and_then(|entry| entry.value.clone());
    let number = |name| value(name).and_then(|text| text.parse().ok());
    Retention {
        policy: value("cleanup.policy").unwrap_or_default(),
        time_ms: number("retention.ms"),
        bytes: number("retention.bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever looks changes nothing: it commits nothing, creates nothing, and holds so much at most.
    #[test]
    fn who_looks_changes_nothing() {
        let client = reader_config(Brokers::without_tls(&crate::kafka::tests::config()).base());
        for (setting, value) in [
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("allow.auto.create.topics", "false"),
            ("queued.max.messages.kbytes", "4096"),
        ] {
            assert_eq!(client.get(setting), Some(value), "{setting}");
        }
    }
}
