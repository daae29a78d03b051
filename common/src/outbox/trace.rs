//! A span for each time that records were sent and acknowledged together. It belongs to no order's trace, because it serves many, so
//! it is linked to the creation of each.

use std::time::SystemTime;

use super::flight::Sent;
use crate::{
    event::Metadata,
    record::Header,
    trace::{self, Kind, Span, TraceContext},
};

/// The trace context in the headers of a record, if its spans are recorded.
pub(super) fn of(headers: &[Header]) -> Option<TraceContext> {
    if trace::is_on() { Metadata::trace_in(headers).filter(TraceContext::is_sampled) } else { None }
}

/// Reports what was acknowledged.
pub(super) fn report(acknowledged: &[Sent]) {
    let mut links = acknowledged.iter().filter_map(|sent| sent.trace).peekable();
    if links.peek().is_none() {
        return;
    }
    let waited = acknowledged.iter().map(|sent| sent.at.elapsed()).max().unwrap_or_default();
    let begun = SystemTime::now().checked_sub(waited).unwrap_or_else(SystemTime::now);
    let mut span = Span::root(TraceContext::begin(true), Kind::Client, "send").since(begun);
    span.messaging("send");
    span.set("messaging.batch.message_count", || i64::try_from(acknowledged.len()).unwrap_or(i64::MAX));
    // The conventions want a destination only if all messages have the same.
    if let Some(first) = acknowledged.first()
        && acknowledged.iter().all(|sent| sent.topic == first.topic)
    {
        span.rename(format!("send {}", first.topic));
        span.set("messaging.destination.name", || first.topic.clone());
    }
    links.for_each(|context| span.link(context));
    span.end();
}
