//! The W3C trace context that travels with a request and with the events that it causes.

use std::fmt;

use tonic::metadata::MetadataMap;

/// The header, in gRPC metadata and in events alike.
pub const TRACEPARENT: &str = "traceparent";

/// A `traceparent` of version 00 (W3C Trace Context, 3.2): version, trace id, parent id, flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext(String);

impl TraceContext {
    /// Parses one; anything invalid is left out, never passed on.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('-').collect();
        let is_hex = |part: &str, digits: usize| {
            part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id = |part: &str, digits| is_hex(part, digits) && part.bytes().any(|b| b != b'0');
        match parts.as_slice() {
            ["00", trace, parent, flags] if is_id(trace, 32) && is_id(parent, 16) && is_hex(flags, 2) => {
                Some(Self(text.to_owned()))
            }
            _ => None,
        }
    }

    /// The trace context of a call.
    #[must_use]
    pub fn of(metadata: &MetadataMap) -> Option<Self> {
        Self::parse(metadata.get(TRACEPARENT)?.to_str().ok()?)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
        ] {
            assert_eq!(TraceContext::parse(garbage), None, "{garbage}");
        }
    }
}
