//! What pages show of records: all of one, or a line in a list.

use anyhow::Result;
use holdfast_common::{event::Metadata, record};
use holdfast_operator::schema;
use holdfast_proto::topic;
use serde_json::Value;
use time::OffsetDateTime;

use super::{letter_link, order_link};
use crate::{
    payloads::Payloads,
    view::{Moment, ROWS_MAX, Shown},
};

/// Of a name that Kafka allows.
const TOPIC_NAME_BYTES_MAX: usize = 249;
/// Of a value, in a list.
const PREVIEW_CHARACTERS_MAX: usize = 200;
/// Of a value that is no event, in a list.
const PREVIEW_BYTES_MAX: usize = 32;

/// Key, headers and value.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) key: Shown,
    pub(super) headers: Vec<(Shown, Shown)>,
    /// Whether its value is what the topic carries.
    pub(super) is_event: bool,
    /// Decoded by the schema of its topic, as far as it may be shown.
    pub(super) decoded: Shown,
    pub(super) hex: Shown,
    pub(super) bytes: usize,
}

impl Record {
    pub(super) fn of<'h>(
        payloads: Payloads,
        topic: &str,
        key: Option<&[u8]>,
        headers: impl Iterator<Item = (&'h str, &'h [u8])>,
        value: Option<&[u8]>,
    ) -> Result<Self> {
        let decoded = value.map(|value| schema::decode(topic, value)).transpose()?.flatten();
        let is_event = decoded.is_some();
        let decoded = decoded.and_then(|event| payloads.event(event));
        let decoded = decoded.map(|value| serde_json::to_string_pretty(&value)).transpose()?;
        Ok(Self {
            is_event,
            key: key.map(|key| payloads.bytes(key)).unwrap_or_default(),
            headers: headers
                .take(ROWS_MAX)
                .map(|(name, value)| (Shown::of(name), payloads.bytes(value)))
                .collect(),
            decoded: Shown::lines(decoded.unwrap_or_default()),
            hex: value.filter(|_| payloads == Payloads::Full).map(Shown::hex).unwrap_or_default(),
            bytes: value.map_or(0, <[u8]>::len),
        })
    }
}

/// The path of a topic's page; empty if no topic can be called so.
pub(super) fn topic_link(topic: &str) -> String {
    if is_topic_name(topic) { format!("/topics/{topic}") } else { String::new() }
}

/// The path of a message's page; empty if it can't be one.
pub(super) fn message_link(topic: &str, partition: i32, offset: i64) -> String {
    if is_topic_name(topic) && partition >= 0 && offset >= 0 {
        format!("/topics/{topic}/{partition}/{offset}")
    } else {
        String::new()
    }
}

/// Whether Kafka lets a topic be called so.
pub(super) fn is_topic_name(name: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=TOPIC_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(is_legal)
        && !matches!(name, "." | "..")
}

/// The topic whose events a topic has.
pub(super) fn events_of(topic: &str) -> &str {
    topic::copied_from(topic).map_or(topic, |(original, _)| original)
}

/// A message in a list.
#[derive(Debug)]
pub(super) struct MessageRow {
    pub(super) link: String,
    pub(super) topic: Shown,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) written: Moment,
    pub(super) key: Shown,
    pub(super) order: String,
    pub(super) order_link: String,
    pub(super) letter_link: String,
    pub(super) bytes: usize,
    pub(super) value: Shown,
}

impl MessageRow {
    pub(super) fn of(record: &record::Record, payloads: Payloads, now: OffsetDateTime) -> Result<Self> {
        let About { order, order_link, letter_link } = About::of(record);
        Ok(Self {
            link: message_link(&record.topic, record.partition, record.offset),
            topic: Shown::of(&record.topic),
            partition: record.partition,
            offset: record.offset,
            written: written(record, now),
            key: record.key.as_deref().map(|key| payloads.bytes(key)).unwrap_or_default(),
            order,
            order_link,
            letter_link,
            bytes: record.size_bytes(),
            value: preview(&record.topic, record.value.as_deref(), payloads)?,
        })
    }
}

pub(super) fn written(record: &record::Record, now: OffsetDateTime) -> Moment {
    let of_ms = |ms| OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok();
    Moment::of(record.timestamp_ms.and_then(of_ms), now)
}

/// What a message is about, by headers that anybody could have written: they are links only if they are ids.
pub(super) struct About {
    pub(super) order: String,
    pub(super) order_link: String,
    pub(super) letter_link: String,
}

impl About {
    pub(super) fn of(record: &record::Record) -> Self {
        let order_link = Metadata::subject_of(record).map(order_link).unwrap_or_default();
        let letter = record.headers.iter().find(|header| header.name == "dlq-id");
        let letter = letter.and_then(|header| std::str::from_utf8(header.value.as_deref()?).ok());
        let letter = letter.filter(|_| topic::copied_from(&record.topic).is_some());
        Self {
            order: order_link.trim_start_matches("/orders/").to_owned(),
            order_link,
            letter_link: letter.map(letter_link).unwrap_or_default(),
        }
    }
}

/// A value on one line, as far as people read it in a list.
fn preview(topic: &str, value: Option<&[u8]>, payloads: Payloads) -> Result<Shown> {
    let Some(value) = value else { return Ok(Shown::of("none")) };
    let event = schema::decode(events_of(topic), value)?;
    // Garbage can be an event in which nothing is set.
    let event = event
        .filter(|event| value.is_empty() || event.as_object().is_some_and(|all| all.values().any(is_set)));
    let Some(event) = event else {
        let of_bytes = |bytes: usize| Shown::of(format!("no event, {bytes} bytes"));
        return Ok(match payloads {
            Payloads::Full => Shown::hex_of_first(value, PREVIEW_BYTES_MAX),
            Payloads::Masked | Payloads::Off => of_bytes(value.len()),
        });
    };
    let Some(event) = payloads.event(event) else {
        return Ok(Shown::of(format!("an event, {} bytes", value.len())));
    };
    let text = event.to_string();
    let shown: String = text.chars().take(PREVIEW_CHARACTERS_MAX).collect();
    Ok(Shown::of(if shown.len() < text.len() { shown + "…" } else { shown }))
}

/// Whether a field has another value than one that is not there.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_true) => *is_true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(all) => !all.is_empty(),
        Value::Object(fields) => fields.values().any(is_set),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_common::record::Header;

    use super::*;

    /// A link has the name of a topic only if it can be one: it says where to go, and nothing else.
    #[test]
    fn only_names_of_topics_are_links() {
        assert_eq!(message_link("order.created", 3, 7), "/topics/order.created/3/7");
        assert_eq!(topic_link("a_B-9.x"), "/topics/a_B-9.x");
        for name in ["", ".", "..", "a/b", "a b", "<script>", "ä", "a?b", "a%2f", &"a".repeat(250)] {
            assert_eq!(topic_link(name), "", "{name}");
            assert_eq!(message_link(name, 0, 0), "", "{name}");
        }
        assert_eq!(message_link("a", -1, 0) + &message_link("a", 0, -1), "");
    }

    /// In a list a value is its event, by the schema of its topic, also in a dead-letter topic; what is none is its first bytes.
    #[test]
    fn a_value_is_its_event_or_its_bytes() {
        let json = r#"{"orderId": "o-1", "userId": "alice"}"#;
        let event = schema::encode(topic::ORDER_CREATED, json).expect("an event");
        let of = |topic: &str, value: Option<&[u8]>, payloads| {
            preview(topic, value, payloads).expect("shown").to_string()
        };
        for topic in [topic::ORDER_CREATED, "order.created.payment.dlq"] {
            let shown = of(topic, Some(&event), Payloads::Full);
            assert!(shown.starts_with("{\"orderId\":\"o-1\",\"userId\":\"alice\""), "{shown}");
        }
        assert_eq!(
            of("other", Some(&event), Payloads::Full),
            format!("0x{}", holdfast_proto::hexadecimal(&event))
        );
        assert_eq!(of(topic::ORDER_CREATED, Some(b"\xff\xfe"), Payloads::Full), "0xfffe");
        let long = of(topic::ORDER_CREATED, Some(&[0xff; 99]), Payloads::Full);
        assert_eq!(long, format!("0x{}… (32 of 99 bytes)", "ff".repeat(32)));
        // Of protobuf it is one field that nobody knows.
        assert_eq!(of(topic::ORDER_CREATED, Some(b"\xf8\x7f\x01"), Payloads::Full), "0xf87f01");
        assert_eq!(of(topic::ORDER_CREATED, None, Payloads::Full), "none");
        assert_eq!(of(topic::ORDER_CREATED, Some(b"\xff"), Payloads::Masked), "no event, 1 bytes");
        assert_eq!(of(topic::ORDER_CREATED, Some(b"\xff"), Payloads::Off), "no event, 1 bytes");
        assert!(!of(topic::ORDER_CREATED, Some(&event), Payloads::Masked).contains("alice"));
        assert_eq!(
            of(topic::ORDER_CREATED, Some(&event), Payloads::Off),
            format!("an event, {} bytes", event.len())
        );
        let address = format!(r#"{{"deliveryAddress": "{}"}}"#, "é".repeat(1_000));
        let event = schema::encode(topic::ORDER_CREATED, &address).expect("an event");
        assert_eq!(
            of(topic::ORDER_CREATED, Some(&event), Payloads::Full).chars().count(),
            PREVIEW_CHARACTERS_MAX + 1
        );
    }

    /// Headers that anybody may write lead to a letter from a dead-letter topic only, and to an order if they name one.
    #[test]
    fn a_message_says_what_it_is_about() {
        let id = "01a21184-8763-7214-acea-bb1c3b689082";
        let about = |topic: &str, subject: &str, letter: &str| {
            let headers =
                vec![Header::new("ce_subject", subject.to_owned()), Header::new("dlq-id", letter.to_owned())];
            About::of(&record::Record { topic: topic.to_owned(), headers, ..record::Record::default() })
        };
        let copy = about("order.created.payment.dlq", id, id);
        assert_eq!(copy.order_link, format!("/orders/{id}"));
        assert_eq!((copy.order.as_str(), copy.letter_link), (id, format!("/letters/{id}")));
        assert_eq!(about("order.created", id, id).letter_link, "");
        let hostile = about("order.created.payment.dlq", "../x", "<script>");
        assert_eq!(hostile.order + &hostile.order_link + &hostile.letter_link, "");
    }
}
