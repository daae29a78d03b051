//! The W3C trace context that travels with a request and with the events that it causes.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;

/// The header, in gRPC metadata and in events alike.
pub const TRACEPARENT: &str = "traceparent";
const SAMPLED: u8 = 1;

/// A `traceparent` of version 00 (W3C Trace Context, 3.2): trace id, id of the span that is the parent of what comes next, flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Never 0.
    trace_id: u128,
    /// Never 0.
    span_id: u64,
    flags: u8,
}

impl TraceContext {
    /// The context of a trace that begins here.
    #[must_use]
    pub fn begin(is_sampled: bool) -> Self {
        let flags = if is_sampled { SAMPLED } else { 0 };
        Self { trace_id: fastrand::u128(1..), span_id: fastrand::u64(1..), flags }
    }

    /// That of a new span below this one.
    #[must_use]
    pub fn child(self) -> Self {
        self.with_span(fastrand::u64(1..))
    }

    /// That of the span with this id in the same trace.
    #[must_use]
    pub fn with_span(self, span_id: u64) -> Self {
        Self { span_id: span_id.max(1), ..self }
    }

    /// Parses one; anything invalid is left out, never passed on.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut next = |digits| parts.next().filter(|part| is_hex(part, digits));
        let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        if version != "00" || parts.next().is_some() {
            return None;
        }
        let context = Self {
            trace_id: u128::from_str_radix(trace, 16).ok()?,
            span_id: u64::from_str_radix(span, 16).ok()?,
            flags: u8::from_str_radix(flags, 16).ok()?,
        };
        (context.trace_id != 0 && context.span_id != 0).then_some(context)
    }

    /// The trace context of a call.
    #[must_use]
    pub fn of(metadata: &MetadataMap) -> Option<Self> {
        Self::parse(metadata.get(TRACEPARENT)?.to_str().ok()?)
    }

    /// The trace context in the headers of a call.
    #[must_use]
    pub fn of_headers(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get(TRACEPARENT)?.to_str().ok()?)
    }

    /// Writes it into the headers of a call, in place of the one that is there.
    pub fn write(&self, headers: &mut HeaderMap) {
        // Hexadecimal digits and dashes are always a header value.
        if let Ok(value) = HeaderValue::try_from(self.to_string()) {
            headers.insert(HeaderName::from_static(TRACEPARENT), value);
        }
    }

    /// Whether its spans are recorded: decided where the trace began, and the same for all that belongs to it.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Identifies the trace.
    #[must_use]
    pub const fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// Identifies the span within the trace.
    #[must_use]
    pub const fn span_id(&self) -> u64 {
        self.span_id
    }
}

fn is_hex(part: &str, digits: usize) -> bool {
    part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only what the specification allows is a trace context.
    #[test]
    fn garbage_is_no_trace_context() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(TraceContext::parse(good).expect("valid").to_string(), good);
        for garbage in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(garbage), None, "{garbage}");
        }
    }

    /// What comes next belongs to the same trace, and is recorded or not like all of it.
    #[test]
    fn a_child_belongs_to_the_trace() {
        for is_sampled in [true, false] {
            let root = TraceContext::begin(is_sampled);
            let child = root.child();
            assert_eq!((child.trace_id(), child.is_sampled()), (root.trace_id(), is_sampled));
            assert_ne!(child.span_id(), root.span_id());
            assert_eq!(TraceContext::parse(&child.to_string()), Some(child));
        }
    }
}
