//! `application/problem+json` (RFC 9457): the one shape of every failure.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// Problem types are this and a slug.
const TYPE_PREFIX: &str = "https://holdfast.internal/problems/";

/// One thing that is wrong with the content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FieldError {
    /// JSON pointer into the body, or the name of a parameter behind a slash.
    pub(crate) pointer: String,
    /// What it must be.
    pub(crate) detail: String,
}

impl FieldError {
    pub(crate) fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// A failure, as the client will see it.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    slug: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    retry_after_s: Option<u64>,
    challenge: Option<&'static str>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, slug: &'static str, detail: impl Into<String>) -> Self {
        Self { status, slug, detail: detail.into(), errors: Vec::new(), retry_after_s: None, challenge: None }
    }

    /// When to try again.
    pub(crate) const fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// `WWW-Authenticate`.
    pub(crate) const fn challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// 400: what was sent can't be read.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// 422: it can be read, but not be accepted.
    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = "the content does not keep to its limits";
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-content", detail) }
    }

    /// 404, the same for what never was and what belongs to somebody else.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is no such thing")
    }

    /// 404: it will be there soon.
    pub(crate) fn not_yet() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-yet", "it is not there yet").retry_after(1)
    }

    /// 413.
    pub(crate) fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "the body has more than 65536 bytes")
    }

    /// 503.
    pub(crate) fn unavailable() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "a service cannot be reached")
            .retry_after(1)
    }

    /// 500: a defect of ours; the log knows more.
    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something went wrong here")
    }
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl IntoResponse for Problem {
    /// The body is written by [`sign`], which knows the trace id.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the body of a problem. Every failure is one: what a library refused by itself becomes a problem here too.
pub(super) fn sign(response: &mut Response, trace_id: &str) {
    let status = response.status();
    let problem = response.extensions_mut().remove::<Problem>();
    let problem = match problem {
        Some(problem) => problem,
        None if status == StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(),
        None if status.is_client_error() && !response.headers().contains_key(header::CONTENT_TYPE) => {
            Problem { status, ..Problem::malformed("the request was refused") }
        }
        None => return,
    };
    let document = Document {
        r#type: format!("{TYPE_PREFIX}{}", problem.slug),
        title: problem.status.canonical_reason().unwrap_or("Error"),
        status: problem.status.as_u16(),
        detail: &problem.detail,
        instance: trace_id,
        errors: &problem.errors,
    };
    // Only texts and a number: this can't fail.
    *response.body_mut() = Body::from(serde_json::to_vec(&document).unwrap_or_default());
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = problem.retry_after_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(challenge) = problem.challenge {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
}
