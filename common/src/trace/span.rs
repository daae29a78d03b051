//! A piece of work that is part of a trace.

use std::{borrow::Cow, time::SystemTime};

use super::{LINKS_MAX, context::TraceContext, export};

/// What a span is to those beside it in the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Handles a call.
    Server,
    /// Makes a call.
    Client,
    /// Creates an event.
    Producer,
    /// Handles an event.
    Consumer,
}

/// The value of an attribute. Never a secret, a payload, an address or a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// What is recorded of a span.
#[derive(Debug, Clone)]
pub(super) struct Recording {
    pub(super) name: Cow<'static, str>,
    pub(super) kind: Kind,
    pub(super) context: TraceContext,
    /// `None`: it is the root.
    pub(super) parent: Option<u64>,
    pub(super) started: SystemTime,
    pub(super) ended: SystemTime,
    pub(super) attributes: Vec<(&'static str, Value)>,
    pub(super) links: Vec<TraceContext>,
    pub(super) links_left_out: u32,
    pub(super) is_failed: bool,
}

impl Recording {
    /// Of a span that begins now.
    pub(super) fn begun(
        context: TraceContext,
        parent: Option<u64>,
        kind: Kind,
        name: Cow<'static, str>,
    ) -> Self {
        let now = SystemTime::now();
        Self {
            name,
            kind,
            context,
            parent,
            started: now,
            ended: now,
            attributes: Vec::with_capacity(8),
            links: Vec::new(),
            links_left_out: 0,
            is_failed: false,
        }
    }
}

/// A span that has begun. It is exported by [`Span::end`], and not at all if it is dropped.
#[derive(Debug, Clone)]
pub struct Span {
    /// For what it causes.
    context: Option<TraceContext>,
    /// `None`: not sampled, or there is nowhere to export it to.
    recording: Option<Box<Recording>>,
}

impl Span {
    /// A span below `parent`. Without a parent there is none: what nobody's trace has caused begins none by itself.
    #[must_use]
    pub fn below(parent: Option<TraceContext>, kind: Kind, name: impl Into<Cow<'static, str>>) -> Self {
        match parent {
            Some(parent) if parent.is_sampled() && export::is_on() => {
                Self::recorded(parent.child(), Some(parent.span_id()), kind, name.into())
            }
            context => Self { context, recording: None },
        }
    }

    /// The span that a trace begins with, under the id of this context.
    #[must_use]
    pub fn root(context: TraceContext, kind: Kind, name: impl Into<Cow<'static, str>>) -> Self {
        if context.is_sampled() && export::is_on() {
            Self::recorded(context, None, kind, name.into())
        } else {
            Self { context: Some(context), recording: None }
        }
    }

    fn recorded(context: TraceContext, parent: Option<u64>, kind: Kind, name: Cow<'static, str>) -> Self {
        let recording = Box::new(Recording::begun(context, parent, kind, name));
        Self { context: Some(context), recording: Some(recording) }
    }

    /// With an id that can be found again: by whoever links to the span after its process is gone.
    #[must_use]
    pub fn with_id(mut self, span_id: u64) -> Self {
        if let Some(recording) = &mut self.recording {
            recording.context = recording.context.with_span(span_id);
            self.context = Some(recording.context);
        }
        self
    }

    /// Gives it a name that costs something to make.
    pub fn rename(&mut self, name: impl Into<Cow<'static, str>>) {
        if let Some(recording) = &mut self.recording {
            recording.name = name.into();
        }
    }

    /// As begun at this time.
    #[must_use]
    pub fn since(mut self, started: SystemTime) -> Self {
        if let Some(recording) = &mut self.recording {
            recording.started = started;
        }
        self
    }

    /// The context for what this span causes; that of its parent if it is not recorded.
    #[must_use]
    pub const fn context(&self) -> Option<TraceContext> {
        self.context
    }

    /// Whether attributes are worth their cost.
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        self.recording.is_some()
    }

    /// Adds an attribute; `value` is not computed for a span that is not recorded.
    pub fn set<V: Into<Value>>(&mut self, key: &'static str, value: impl FnOnce() -> V) {
        if let Some(recording) = &mut self.recording {
            recording.attributes.push((key, value().into()));
        }
    }

    /// Says what is done with messages of Kafka; for us name and type of an operation are the same.
    pub fn messaging(&mut self, operation: &'static str) {
        self.set("messaging.system", || "kafka");
        self.set("messaging.operation.name", || operation);
        self.set("messaging.operation.type", || operation);
    }

    /// Marks it as failed; `kind` is a short word or code of a closed set (`error.type`).
    pub fn fail(&mut self, kind: impl Into<Value>) {
        if let Some(recording) = &mut self.recording {
            recording.attributes.push(("error.type", kind.into()));
            recording.is_failed = true;
        }
    }

    /// Says that it has to do with a span of another trace.
    pub fn link(&mut self, context: TraceContext) {
        if let Some(recording) = &mut self.recording {
            if recording.links.len() < LINKS_MAX {
                recording.links.push(context);
            } else {
                recording.links_left_out += 1;
            }
        }
    }

    /// Exports it, as ended now.
    pub fn end(self) {
        if let Some(mut recording) = self.recording {
            recording.ended = SystemTime::now();
            export::export(*recording);
        }
    }
}

/// Ends its span when it is dropped: for work that ends with its future. What is dropped before [`SpanUntilDropped::finish`] was
/// cancelled by its caller.
#[derive(Debug)]
pub struct SpanUntilDropped(Option<Span>);

impl SpanUntilDropped {
    /// See the type.
    #[must_use]
    pub const fn new(span: Span) -> Self {
        Self(Some(span))
    }

    /// Drops it without exporting it.
    pub fn forget(mut self) {
        self.0 = None;
    }

    /// Ends it after `with` has said how it went.
    pub fn finish(mut self, with: impl FnOnce(&mut Span)) {
        if let Some(mut span) = self.0.take() {
            with(&mut span);
            span.end();
        }
    }
}

impl Drop for SpanUntilDropped {
    fn drop(&mut self) {
        if let Some(mut span) = self.0.take() {
            span.fail("cancelled");
            span.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where nothing is exported the context of the cause travels on unchanged.
    #[test]
    fn without_an_endpoint_the_context_travels_on() {
        let parent = TraceContext::begin(true);
        let mut span = Span::below(Some(parent), Kind::Consumer, "process order.created").with_id(7);
        span.set("messaging.system", || -> &'static str { unreachable!("it is not recorded") });
        assert_eq!(span.context(), Some(parent));
        assert_eq!(Span::root(parent, Kind::Server, "GET").context(), Some(parent));
        assert_eq!(Span::below(None, Kind::Producer, "create order.created").context(), None);
    }
}
