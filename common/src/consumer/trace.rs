//! A span for each event that is handled, below the one that has created it, and one for each batch.
//!
//! A transaction serves the events of many orders, so its span belongs to no order's trace: it is the root of a trace of its own, with
//! the statements below it, and the span of each event is linked to it.

use uuid::Uuid;

use super::{handler::Accepted, sort::Sorted};
use crate::{
    event::Metadata,
    record::Record,
    trace::{self, Kind, Span, TraceContext},
};

/// The context of the span in which a record was parked. It is derived, so that it need not be kept: whoever redrives the letter,
/// days later, finds it again.
pub(crate) fn of_parking(record: &Record, letter: Uuid) -> Option<TraceContext> {
    // The second half of a `UUIDv7` is random.
    let (_, random) = letter.as_u64_pair();
    Some(Metadata::trace_in(&record.headers)?.with_span(random))
}

/// The span of handling `record` for `group`.
pub(crate) fn process(parent: Option<TraceContext>, record: &Record, group: &str) -> Span {
    let mut span = Span::below(parent, Kind::Consumer, "");
    if span.is_recorded() {
        span.rename(format!("process {}", record.topic));
        span.messaging("process");
        span.set("messaging.destination.name", || record.topic.clone());
        span.set("messaging.destination.partition.id", || record.partition.to_string());
        span.set("messaging.kafka.offset", || record.offset);
        span.set("messaging.consumer.group.name", || group.to_owned());
        span.set("messaging.message.id", || Metadata::inbox_id(record).to_string());
        if let Some(subject) = Metadata::subject_of(record) {
            span.set("holdfast.subject", || subject.to_owned());
        }
    }
    span
}

/// The span of one transaction over `records`; recorded if the trace of any of them is.
pub(super) fn batch(records: &[Record], group: &str) -> Span {
    let is_sampled =
        |record: &Record| Metadata::trace_in(&record.headers).is_some_and(|trace| trace.is_sampled());
    if !trace::is_on() || !records.iter().any(is_sampled) {
        return Span::below(None, Kind::Consumer, "");
    }
    let mut span = Span::root(TraceContext::begin(true), Kind::Consumer, "process batch");
    span.messaging("process");
    span.set("messaging.consumer.group.name", || group.to_owned());
    span.set("messaging.batch.message_count", || i64::try_from(records.len()).unwrap_or(i64::MAX));
    span
}

/// Spans of the events of a sorted batch, to be ended after its commit. What an event causes gets the context of its span.
pub(super) fn of_batch<E>(records: &[Record], sorted: &mut Sorted<E>, group: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    for (Accepted { metadata, .. }, index) in sorted.events.iter_mut().zip(&sorted.accepted) {
        let span = process(metadata.trace, &records[*index], group);
        metadata.trace = span.context();
        spans.push(span);
    }
    for letter in &sorted.letters {
        let record = &records[letter.index];
        let mut span = process(Metadata::trace_in(&record.headers), record, group);
        if let Some(context) = of_parking(record, letter.id) {
            span = span.with_id(context.span_id());
        }
        span.set("holdfast.dead_letter.id", || letter.id.to_string());
        span.fail(letter.verdict.poison.class.as_str());
        spans.push(span);
    }
    spans.retain(Span::is_recorded);
    if let Some(batch) = trace::current() {
        for span in &mut spans {
            span.link(batch);
        }
    }
    spans
}
