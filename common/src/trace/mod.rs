//! Traces: one order is one trace, through HTTP, gRPC, outbox, Kafka, services, dead letters and the steps of its delivery.
//!
//! A [`Span`] is a plain value that is handed on like any other, because what it describes may be rolled back or tried again: it is
//! exported only when [`Span::end`] is called, in the work of a transaction after the commit. Names and attributes are those of
//! OpenTelemetry's conventions ([`SCHEMA_URL`]).
//!
//! Without an endpoint ([`crate::config::TracesConfig`]) nothing is recorded, and the context that came in travels on as it is. With one,
//! spans go to it in batches by OTLP over gRPC ([`export`]); why not by OpenTelemetry's own SDK is in `docs/adr/0015-traces.md`.

mod context;
#[cfg(test)]
mod cost;
mod current;
mod encode;
pub(crate) mod export;
mod queue;
mod span;

pub use self::{
    context::{TRACEPARENT, TraceContext},
    current::{current, during, within},
    export::{TracesError, begin, is_on},
    span::{Kind, Span, SpanUntilDropped, Value},
};

/// The version of the conventions that names and attributes follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";
/// Links of one span; more are left out and counted in it.
const LINKS_MAX: usize = 128;
