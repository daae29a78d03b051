//! Events on the wire: CloudEvents 1.0 in the Kafka protocol binding, binary content mode.
//!
//! [`NewEvent`] is what a service writes to its outbox, [`Metadata`] is what a consumer reads from a record's headers.

use aws_lc_rs::digest;
use bytes::Bytes;
use holdfast_proto::topic::Event;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::{
    record::{Header, Record},
    trace::{TRACEPARENT, TraceContext},
};

/// The namespace of all event types: `holdfast.<topic>.v<version>`.
const TYPE_PREFIX: &str = "holdfast";
/// Longest `ce_subject` in bytes. An index entry of PostgreSQL holds about 2,700.
pub const SUBJECT_BYTES_MAX: usize = 255;
/// The only content type.
const CONTENT_TYPE: &str = "application/protobuf";

/// An event that was not written yet.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Identifies the event for good; the inbox key of its consumers.
    pub id: Uuid,
    /// Where it goes.
    pub topic: &'static str,
    /// Of its schema.
    pub version: u32,
    /// Kafka key: events with one key keep their order.
    pub key: String,
    /// The aggregate.
    pub subject: String,
    /// When it happened.
    pub time: OffsetDateTime,
    /// W3C trace context of the cause, where there is one.
    pub trace: Option<TraceContext>,
    /// The encoded message.
    pub payload: Vec<u8>,
}

impl NewEvent {
    /// The event that `message` reports about the aggregate `subject`, which happened at `time`, in whole microseconds
    /// ([`crate::clock::now`]). Its id is derived from its content: built again from the same facts, it is the same event.
    #[must_use]
    pub fn of<E: Event>(message: &E, key: String, subject: String, time: OffsetDateTime) -> Self {
        let payload = message.encode_to_vec();
        Self {
            id: id_of(E::TOPIC, E::VERSION, &subject, time, &payload),
            topic: E::TOPIC,
            version: E::VERSION,
            key,
            subject,
            time,
            trace: None,
            payload,
        }
    }

    /// With the trace of its cause.
    #[must_use]
    pub fn caused_by(self, trace: Option<TraceContext>) -> Self {
        Self { trace, ..self }
    }

    /// The headers of the record, `source` being the service that writes it.
    #[must_use]
    pub fn headers(&self, source: &str) -> Vec<Header> {
        // RFC 3339 can express every time between the years 0 and 9999, so also ours.
        let time = self.time.format(&Rfc3339).unwrap_or_default();
        let mut headers = vec![
            Header::new("ce_specversion", "1.0"),
            Header::new("ce_id", self.id.to_string()),
            Header::new("ce_source", format!("/holdfast/{source}")),
            Header::new("ce_type", format!("{TYPE_PREFIX}.{}.v{}", self.topic, self.version)),
            Header::new("ce_subject", self.subject.clone()),
            Header::new("ce_time", time),
            Header::new("content-type", CONTENT_TYPE),
        ];
        if let Some(trace) = &self.trace {
            headers.push(Header::new(TRACEPARENT, trace.to_string()));
        }
        headers
    }
}

/// The id of an event: a `UUIDv7` of its time, whose random bits are the first of a SHA-256 over its content.
///
/// So an event that was lost can be rebuilt from the rows that it reported, under its old id, long after its outbox row is gone, and
/// the inbox of a reader that has handled it knows it. And no id ever has two payloads: an event that is rebuilt with another
/// content, as by a version that knows one more field, is a new event, not one that readers park because its id was used before.
fn id_of(topic: &str, version: u32, subject: &str, time: OffsetDateTime, payload: &[u8]) -> Uuid {
    let mut context = digest::Context::new(&digest::SHA256);
    // No topic and no subject has a zero byte.
    for part in [topic.as_bytes(), &[0], &version.to_be_bytes(), subject.as_bytes(), &[0], payload] {
        context.update(part);
    }
    let mut bits = [0; 10];
    bits.copy_from_slice(&context.finish().as_ref()[..10]);
    let milliseconds = u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(milliseconds, &bits).into_uuid()
}

/// The checked headers of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// `ce_id`.
    pub id: Uuid,
    /// `ce_type` without prefix and version: the topic that the writer meant.
    pub kind: String,
    /// The version of `ce_type`.
    pub version: u32,
    /// `ce_subject`: the aggregate.
    pub subject: String,
    /// `ce_time`.
    pub time: OffsetDateTime,
    /// `traceparent`, where there is a valid one.
    pub trace: Option<TraceContext>,
}

/// Why headers are not those of an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A required header is not there.
    #[error("header {0} is missing")]
    Missing(&'static str),
    /// A header that must be unique occurs twice.
    #[error("header {0} is there more than once")]
    Repeated(&'static str),
    /// A header's value can't be read.
    #[error("header {0} has a bad value")]
    Value(&'static str),
    /// Header names that aren't UTF-8.
    #[error("header names are not readable")]
    Unreadable,
    /// `ce_type` is not one of ours.
    #[error("event type is not known")]
    UnknownType,
}

impl Metadata {
    /// Reads the headers of a record.
    pub fn read(record: &Record) -> Result<Self, HeaderError> {
        if record.headers_unreadable {
            return Err(HeaderError::Unreadable);
        }
        let headers = record.headers.as_slice();
        if required(headers, "ce_specversion")? != "1.0" {
            return Err(HeaderError::Value("ce_specversion"));
        }
        let id = Uuid::try_parse(required(headers, "ce_id")?).map_err(|_| HeaderError::Value("ce_id"))?;
        if id.is_nil() {
            return Err(HeaderError::Value("ce_id"));
        }
        if required(headers, "ce_source")?.is_empty() {
            return Err(HeaderError::Value("ce_source"));
        }
        let subject = required(headers, "ce_subject")?;
        if !is_subject(subject) {
            return Err(HeaderError::Value("ce_subject"));
        }
        let time = OffsetDateTime::parse(required(headers, "ce_time")?, &Rfc3339)
            .map_err(|_| HeaderError::Value("ce_time"))?;
        if required(headers, "content-type")? != CONTENT_TYPE {
            return Err(HeaderError::Value("content-type"));
        }
        let (kind, version) = parse_type(required(headers, "ce_type")?).ok_or(HeaderError::UnknownType)?;
        let trace = optional(headers, TRACEPARENT)?.and_then(TraceContext::parse);
        Ok(Self { id, kind: kind.to_owned(), version, subject: subject.to_owned(), time, trace })
    }

    /// The trace context in the headers of a record, even if others of them are broken.
    #[must_use]
    pub fn trace_in(headers: &[Header]) -> Option<TraceContext> {
        optional(headers, TRACEPARENT).ok().flatten().and_then(TraceContext::parse)
    }

    /// The aggregate that a record names, even if its other headers are broken. One that is too long for an event
    /// ([`SUBJECT_BYTES_MAX`]) does not count: it goes into indexes, which refuse it.
    #[must_use]
    pub fn subject_of(record: &Record) -> Option<&str> {
        optional(&record.headers, "ce_subject").ok().flatten().filter(|subject| is_subject(subject))
    }

    /// The inbox key of a record: its `ce_id`, or an id derived from where it is if that can't be read.
    #[must_use]
    pub fn inbox_id(record: &Record) -> Uuid {
        optional(&record.headers, "ce_id")
            .ok()
            .flatten()
            .and_then(|text| Uuid::try_parse(text).ok())
            .filter(|id| !id.is_nil())
            .unwrap_or_else(|| Self::id_of_place(record))
    }

    /// An id that belongs to topic, partition, offset, time and value. A place alone does not identify a record: a
    /// recreated topic has the same places.
    #[must_use]
    pub fn id_of_place(record: &Record) -> Uuid {
        let mut name = format!(
            "kafka:{}:{}:{}:{}:",
            record.topic,
            record.partition,
            record.offset,
            record.timestamp_ms.unwrap_or(-1)
        )
        .into_bytes();
        name.extend(payload_hash(record));
        Uuid::new_v5(&Uuid::NAMESPACE_URL, &name)
    }
}

/// Whether it can name an aggregate.
pub(crate) fn is_subject(text: &str) -> bool {
    (1..=SUBJECT_BYTES_MAX).contains(&text.len()) && !text.contains('\0')
}

/// `holdfast.order.created.v1` -> (`order.created`, 1).
fn parse_type(text: &str) -> Option<(&str, u32)> {
    let (kind, version) = text.strip_prefix(TYPE_PREFIX)?.strip_prefix('.')?.rsplit_once(".v")?;
    let plain = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit());
    if kind.is_empty() || !plain {
        return None;
    }
    Some((kind, version.parse().ok()?))
}

fn optional<'a>(headers: &'a [Header], name: &'static str) -> Result<Option<&'a str>, HeaderError> {
    let mut found = headers.iter().filter(|header| header.name == name);
    let Some(first) = found.next() else { return Ok(None) };
    if found.next().is_some() {
        return Err(HeaderError::Repeated(name));
    }
    let value = first.value.as_deref().ok_or(HeaderError::Value(name))?;
    std::str::from_utf8(value).map(Some).map_err(|_| HeaderError::Value(name))
}

fn required<'a>(headers: &'a [Header], name: &'static str) -> Result<&'a str, HeaderError> {
    optional(headers, name)?.ok_or(HeaderError::Missing(name))
}

/// The value of a record, or empty for a tombstone.
#[must_use]
pub fn payload(record: &Record) -> Bytes {
    record.value.clone().unwrap_or_default()
}

/// SHA-256 of the value of a record; a tombstone has the hash of no bytes.
#[must_use]
pub fn payload_hash(record: &Record) -> Vec<u8> {
    let value = record.value.as_deref().unwrap_or_default();
    digest::digest(&digest::SHA256, value).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> NewEvent {
        NewEvent {
            id: Uuid::now_v7(),
            topic: "order.created",
            version: 1,
            key: "user-1".to_owned(),
            subject: "an-order".to_owned(),
            time: OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("in range"),
            trace: TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            payload: vec![1, 2, 3],
        }
    }

    fn record(headers: Vec<Header>) -> Record {
        Record {
            topic: "order.created".to_owned(),
            partition: 3,
            offset: 42,
            timestamp_ms: None,
            key: None,
            value: None,
            headers,
            headers_unreadable: false,
        }
    }

    /// Headers are read back as they were written.
    #[test]
    fn headers_round_trip() {
        let event = event();
        let metadata = Metadata::read(&record(event.headers("order"))).expect("valid");
        assert_eq!(metadata.id, event.id);
        assert_eq!(metadata.kind, event.topic);
        assert_eq!(metadata.version, 1);
        assert_eq!(metadata.subject, event.subject);
        assert_eq!(metadata.time, event.time);
        assert_eq!(metadata.trace, event.trace);
    }

    /// Each required header that is missing, repeated or not UTF-8 is named.
    #[test]
    fn broken_headers_are_named() {
        let good = event().headers("order");
        for index in 0..7 {
            let mut missing = good.clone();
            let name = missing.remove(index).name;
            let mut repeated = good.clone();
            repeated.push(good[index].clone());
            let mut broken = good.clone();
            broken[index].value = Some(Bytes::from_static(&[0xff, 0xfe]));
            let mut absent = good.clone();
            absent[index].value = None;
            for (headers, expected) in [
                (missing, "missing"),
                (repeated, "more than once"),
                (broken, "bad value"),
                (absent, "bad value"),
            ] {
                let error = Metadata::read(&record(headers)).expect_err(expected).to_string();
                assert!(error.contains(&name) && error.contains(expected), "{error}");
            }
        }
    }

    /// A record without a usable id gets one that belongs to its place, the same each time.
    #[test]
    fn a_record_without_id_gets_one_of_its_place() {
        let nameless = record(Vec::new());
        let next = Record { offset: nameless.offset + 1, ..nameless.clone() };
        let of_another_log = Record { value: Some(Bytes::from_static(b"x")), ..nameless.clone() };
        let later = Record { timestamp_ms: Some(1), ..nameless.clone() };
        assert_eq!(Metadata::inbox_id(&nameless), Metadata::inbox_id(&nameless));
        for other in [next, of_another_log, later] {
            assert_ne!(Metadata::inbox_id(&nameless), Metadata::inbox_id(&other));
        }
    }

    /// The same content has the same id, a `UUIDv7` of its time; any difference makes another one.
    #[test]
    fn an_id_is_derived_from_the_content() {
        let time = event().time;
        let id =
            |topic, version, subject, time, payload: &[u8]| id_of(topic, version, subject, time, payload);
        let one = id("order.created", 1, "an-order", time, b"abc");
        assert_eq!(one, id("order.created", 1, "an-order", time, b"abc"));
        assert_eq!(one.get_version(), Some(uuid::Version::SortRand));
        assert_eq!(one.get_variant(), uuid::Variant::RFC4122);
        let (seconds, nanoseconds) = one.get_timestamp().expect("it has one").to_unix();
        assert_eq!((i64::try_from(seconds), nanoseconds), (Ok(time.unix_timestamp()), 0));
        for other in [
            id("order.create", 1, "dan-order", time, b"abc"),
            id("order.created", 2, "an-order", time, b"abc"),
            id("order.created", 1, "an-orde", time, b"rabc"),
            id("order.created", 1, "an-order", time + time::Duration::milliseconds(1), b"abc"),
            id("order.created", 1, "an-order", time, b"abd"),
        ] {
            assert_ne!(one, other);
        }
    }

    /// Types have a kind and a version.
    #[test]
    fn types_have_a_kind_and_a_version() {
        assert_eq!(parse_type("holdfast.order.created.v1"), Some(("order.created", 1)));
        assert_eq!(parse_type("holdfast.order.created.v0"), Some(("order.created", 0)));
        for bad in ["", "holdfast", "holdfast..v1", "holdfast.x", "holdfast.x.v", "holdfast.x.v+1", "y.x.v1"]
        {
            assert_eq!(parse_type(bad), None, "{bad}");
        }
    }

    proptest! {
        /// Headers of any shape get an answer, never a panic.
        #[test]
        fn any_headers_get_an_answer(
            headers in prop::collection::vec(("(ce_[a-z]{0,12}|.{0,6})", prop::option::of(prop::collection::vec(any::<u8>(), 0..20))), 0..10)
        ) {
            let headers = headers.into_iter().map(|(name, value)| Header { name, value: value.map(Bytes::from) }).collect();
            let record = record(headers);
            let _ = Metadata::read(&record);
            let _ = Metadata::inbox_id(&record);
        }
    }
}
