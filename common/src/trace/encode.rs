//! Spans in the bytes of OTLP. They are written as they are, because the types that are generated from the protocol own each key and each
//! value: filling them took longer than all the rest of a span. A test reads the bytes by those types.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    SCHEMA_URL,
    context::TraceContext,
    span::{Kind, Recording, Value},
};

/// Bytes of a span with its attributes, about.
const SPAN_BYTES: usize = 512;

/// Numbers of the protocol's enumerations.
const STATUS_ERROR: u64 = 2;
const KINDS: [(Kind, u64); 4] =
    [(Kind::Server, 2), (Kind::Client, 3), (Kind::Producer, 4), (Kind::Consumer, 5)];

/// How a field is written, by the last three bits of its key.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Fixed64 = 1,
    Delimited = 2,
    Fixed32 = 5,
}

/// A message that is being written: its fields, one after the other.
struct Fields<'b>(&'b mut Vec<u8>);

impl Fields<'_> {
    fn number(&mut self, mut number: u64) {
        let low = |number: u64| number.to_le_bytes()[0];
        // Seven bits at a time, and whether there are more.
        while number >= 0x80 {
            self.0.push(low(number) | 0x80);
            number >>= 7;
        }
        self.0.push(low(number));
    }

    fn key(&mut self, field: u64, wire: Wire) {
        self.number(field << 3 | wire as u64);
    }

    fn varint(&mut self, field: u64, number: u64) {
        self.key(field, Wire::Varint);
        self.number(number);
    }

    fn fixed64(&mut self, field: u64, number: u64) {
        self.key(field, Wire::Fixed64);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn fixed32(&mut self, field: u64, number: u32) {
        self.key(field, Wire::Fixed32);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, Wire::Delimited);
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A message within this one. Its length is known only once it is written, and is put before it.
    fn message(&mut self, field: u64, write: impl FnOnce(&mut Fields<'_>)) {
        self.key(field, Wire::Delimited);
        let begin = self.0.len();
        self.0.push(0);
        write(&mut Fields(self.0));
        let length = self.0.len() - begin - 1;
        // Most are so short that one byte is enough.
        match u8::try_from(length) {
            Ok(short) if short < 0x80 => self.0[begin] = short,
            _ => {
                let mut prefix = Vec::with_capacity(5);
                Fields(&mut prefix).number(length as u64);
                self.0.splice(begin..=begin, prefix);
            }
        }
    }

    fn attribute(&mut self, field: u64, key: &str, value: &Value) {
        self.message(field, |attribute| {
            attribute.bytes(1, key.as_bytes());
            attribute.message(2, |any| match value {
                Value::Text(text) => any.bytes(1, text.as_bytes()),
                Value::Number(number) => any.varint(3, number.cast_unsigned()),
            });
        });
    }

    fn context(&mut self, context: TraceContext) {
        self.bytes(1, &context.trace_id().to_be_bytes());
        self.bytes(2, &context.span_id().to_be_bytes());
    }

    fn span(&mut self, recording: &Recording) {
        self.context(recording.context);
        if let Some(parent) = recording.parent {
            self.bytes(4, &parent.to_be_bytes());
        }
        self.bytes(5, recording.name.as_bytes());
        for (kind, number) in KINDS {
            if kind == recording.kind {
                self.varint(6, number);
            }
        }
        self.fixed64(7, nanoseconds(recording.started));
        self.fixed64(8, nanoseconds(recording.ended));
        for (key, value) in &recording.attributes {
            self.attribute(9, key, value);
        }
        for link in &recording.links {
            self.message(13, |fields| {
                fields.context(*link);
                fields.fixed32(6, u32::from(link.is_sampled()));
            });
        }
        if recording.links_left_out > 0 {
            self.varint(14, recording.links_left_out.into());
        }
        if recording.is_failed {
            self.message(15, |status| status.varint(3, STATUS_ERROR));
        }
        self.fixed32(16, u32::from(recording.context.is_sampled()));
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What all spans of a process have in common: a `Resource`.
pub(super) fn resource(attributes: &[(&str, Value)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in attributes {
        Fields(&mut bytes).attribute(1, key, value);
    }
    bytes
}

/// The `ResourceSpans` of a batch.
pub(super) fn spans(resource: &[u8], batch: &[Recording]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(batch.len() * SPAN_BYTES);
    let mut fields = Fields(&mut bytes);
    fields.bytes(1, resource);
    fields.message(2, |scope_spans| {
        scope_spans.message(1, |scope| {
            scope.bytes(1, b"holdfast");
            scope.bytes(2, env!("CARGO_PKG_VERSION").as_bytes());
        });
        for recording in batch {
            scope_spans.message(2, |span| span.span(recording));
        }
        scope_spans.bytes(3, SCHEMA_URL.as_bytes());
    });
    fields.bytes(3, SCHEMA_URL.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use holdfast_proto::otlp::{
        common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
        resource::v1::Resource,
        trace::v1 as pb,
    };
    use prost::Message as _;

    use super::*;

    fn text(key: &str, text: &str) -> KeyValue {
        let value = any_value::Value::StringValue(text.to_owned());
        KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
    }

    /// What is written is what the protocol's own types read: every field that a span can have, of every size of length.
    #[test]
    fn what_is_written_can_be_read() {
        let context = TraceContext::begin(true);
        let (linked, parent) = (TraceContext::begin(false), context.child());
        let long = "x".repeat(20_000);
        let mut full = Recording::begun(context, Some(parent.span_id()), Kind::Producer, "create".into());
        full.started = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_123);
        full.ended = full.started + Duration::from_nanos(300);
        full.attributes = vec![
            ("short", "é".into()),
            ("long", long.clone().into()),
            ("empty", "".into()),
            ("number", 300.into()),
            ("negative", (-1).into()),
        ];
        full.links = vec![linked, context];
        full.links_left_out = 130;
        full.is_failed = true;
        let mut bare = full.clone();
        (bare.parent, bare.attributes, bare.links) = (None, Vec::new(), Vec::new());
        (bare.links_left_out, bare.is_failed, bare.kind) = (0, false, Kind::Server);

        let resource = resource(&[("service.name", "order".into())]);
        let bytes = spans(&resource, &[full.clone(), bare]);
        let read = pb::ResourceSpans::decode(bytes.as_slice()).expect("it can be read");

        let number = |key: &str, number| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(any_value::Value::IntValue(number)) }),
        };
        let link = |context: TraceContext| pb::span::Link {
            trace_id: context.trace_id().to_be_bytes().to_vec(),
            span_id: context.span_id().to_be_bytes().to_vec(),
            flags: u32::from(context.is_sampled()),
            ..pb::span::Link::default()
        };
        let bare = pb::Span {
            trace_id: context.trace_id().to_be_bytes().to_vec(),
            span_id: context.span_id().to_be_bytes().to_vec(),
            flags: 1,
            name: "create".to_owned(),
            kind: pb::span::SpanKind::Server.into(),
            start_time_unix_nano: 1_700_000_000_000_000_123,
            end_time_unix_nano: 1_700_000_000_000_000_423,
            ..pb::Span::default()
        };
        let full = pb::Span {
            parent_span_id: parent.span_id().to_be_bytes().to_vec(),
            kind: pb::span::SpanKind::Producer.into(),
            attributes: vec![
                text("short", "é"),
                text("long", &long),
                text("empty", ""),
                number("number", 300),
                number("negative", -1),
            ],
            links: vec![link(linked), link(context)],
            dropped_links_count: 130,
            status: Some(pb::Status { code: pb::status::StatusCode::Error.into(), ..pb::Status::default() }),
            ..bare.clone()
        };
        let scope = InstrumentationScope {
            name: "holdfast".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let expected = pb::ResourceSpans {
            resource: Some(Resource {
                attributes: vec![text("service.name", "order")],
                ..Resource::default()
            }),
            scope_spans: vec![pb::ScopeSpans {
                scope: Some(scope),
                spans: vec![full, bare],
                schema_url: SCHEMA_URL.to_owned(),
            }],
            schema_url: SCHEMA_URL.to_owned(),
        };
        assert_eq!(read, expected);
    }

    /// The numbers of kinds are those of the protocol.
    #[test]
    fn kinds_have_the_numbers_of_the_protocol() {
        use pb::span::SpanKind;
        let numbers = KINDS.map(|(_, number)| i32::try_from(number).expect("small"));
        let kinds = [SpanKind::Server, SpanKind::Client, SpanKind::Producer, SpanKind::Consumer];
        assert_eq!(numbers, kinds.map(i32::from));
        assert_eq!(i32::try_from(STATUS_ERROR).expect("small"), pb::status::StatusCode::Error as i32);
    }
}
