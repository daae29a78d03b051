//! A broker in memory: topics with partitions whose records stay. It keeps what it has acknowledged; that a real one may
//! lose its tail is what `holdfast reconcile` is for.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_common::{
    consumer::pure::Place,
    outbox::OutboxRecord,
    record::{Header, Record},
};
use time::OffsetDateTime;

/// Enough for events of two users to have no order between them.
pub const PARTITIONS: i32 = 2;
/// Marks a record that no service has written. No reader looks at it.
const FORGED: &str = "simulated-poison";

/// The logs, by topic and partition.
#[derive(Debug, Default)]
pub struct Broker {
    /// A record's offset is its index.
    pub logs: BTreeMap<Place, Vec<Record>>,
}

impl Broker {
    /// Appends what a relay sends.
    pub fn publish(&mut self, record: &OutboxRecord, now: OffsetDateTime) {
        let sum: i32 = record.key.iter().flatten().map(|byte| i32::from(*byte)).sum();
        self.append(Record {
            topic: record.topic.clone(),
            partition: sum % PARTITIONS,
            offset: 0,
            timestamp_ms: Some(now.unix_timestamp() * 1000),
            key: record.key.clone().map(Bytes::from),
            value: record.value.clone().map(Bytes::from),
            headers: record.headers.clone(),
            headers_unreadable: false,
        });
    }

    /// Appends a record to its partition.
    pub fn append(&mut self, record: Record) {
        let log = self.logs.entry((record.topic.clone(), record.partition)).or_default();
        log.push(Record { offset: i64::try_from(log.len()).unwrap_or(i64::MAX), ..record });
    }

    /// One of the records of a topic.
    #[must_use]
    pub fn pick(&self, topic: &str, pick: u8) -> Option<&Record> {
        let records: Vec<&Record> =
            self.logs.iter().filter(|((name, _), _)| name == topic).flat_map(|(_, log)| log).collect();
        records.get(usize::from(pick) % records.len().max(1)).copied()
    }

    /// Marks a record as forged.
    pub fn mark(record: &mut Record) {
        record.headers.push(Header::new(FORGED, "yes"));
    }

    /// Whether no service has written it: it is marked, or has no headers at all.
    #[must_use]
    pub fn is_forged(record: &Record) -> bool {
        record.headers.is_empty() || record.headers.iter().any(|header| header.name == FORGED)
    }
}
