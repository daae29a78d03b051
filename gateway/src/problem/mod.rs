//! Failures as a client sees them (RFC 9457): [`types`] lists them, [`mod@render`] writes them. Where a module has failures of its
//! own, it adds a constructor or a `From` to [`Problem`], as [`crate::upstream`] does for the status codes of gRPC.

mod render;
mod types;

use serde::Serialize;
use utoipa::ToSchema;

pub(crate) use self::{
    render::{Document, render},
    types::ProblemType,
};

/// One thing that is wrong with the content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// JSON pointer into the body, or the name of a parameter after a slash.
    pub(crate) pointer: String,
    /// What is expected there.
    pub(crate) detail: String,
}

/// Most characters of a pointer or a detail. What a client has sent may be in them, and must not come back at its full length.
const TEXT_CHARS_MAX: usize = 256;

impl FieldError {
    pub(crate) fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: shortened(pointer.into()), detail: shortened(detail.into()) }
    }
}

/// Leaves out the middle of a text that is too long: what is wrong stands at its beginning, what is expected at its end.
fn shortened(text: String) -> String {
    // A text without that many bytes has not that many characters either.
    if text.len() <= TEXT_CHARS_MAX || text.chars().count() <= TEXT_CHARS_MAX {
        return text;
    }
    let mut places = text.char_indices().map(|(place, _)| place);
    let (begin, end) = (places.nth(TEXT_CHARS_MAX / 2), places.nth_back(TEXT_CHARS_MAX / 2 - 2));
    let (begin, end) = (begin.unwrap_or_default(), end.unwrap_or(text.len()));
    format!("{}…{}", &text[..begin], &text[end..])
}

/// A failure, as the client will see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    kind: ProblemType,
    detail: String,
    errors: Vec<FieldError>,
    retry_after_s: Option<u64>,
    challenge: Option<&'static str>,
}

impl Problem {
    /// A problem, with a sentence about this occurrence of it.
    pub(crate) fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: shortened(detail.into()),
            errors: Vec::new(),
            retry_after_s: None,
            challenge: None,
        }
    }

    /// Adds `Retry-After`: when to try again.
    pub(crate) const fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Adds `WWW-Authenticate`.
    pub(crate) const fn challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(challenge);
        self
    }

    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::Malformed, detail)
    }

    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = "the content is not valid";
        Self { errors, ..Self::new(ProblemType::InvalidContent, detail) }
    }

    /// The same for what does not exist and for what belongs to somebody else.
    pub(crate) fn not_found() -> Self {
        Self::new(ProblemType::NotFound, "there is no such thing")
    }

    pub(crate) fn not_yet() -> Self {
        Self::new(ProblemType::NotYet, "it does not exist yet").retry_after(1)
    }

    pub(crate) fn unavailable() -> Self {
        Self::new(ProblemType::Unavailable, "a service cannot be reached").retry_after(1)
    }

    /// Says nothing about the cause, which is in the log.
    pub(crate) fn internal() -> Self {
        Self::new(ProblemType::Internal, "something went wrong here")
    }
}
