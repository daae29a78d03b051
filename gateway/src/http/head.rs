//! Refuses a request by its head, before anything acts on it.

use axum::{
    extract::Request,
    http::{HeaderValue, StatusCode, Version, header},
    response::{IntoResponse as _, Response},
};
use holdfast_common::http::Refusal;

use crate::problem::{Problem, ProblemType};

/// Marks a response, in its extensions, that any client can cause at will. It is counted, but not logged as a failure of ours: a
/// client must not be able to ring our alarm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused;

impl Refused {
    /// Turns `problem` into a marked response.
    pub(crate) fn response(problem: Problem) -> Response {
        let mut response = problem.into_response();
        response.extensions_mut().insert(Self);
        response
    }
}

/// Answers what [`holdfast_common::http`] has refused in the bytes of HTTP/1, and refuses the same in HTTP/2.
pub(crate) async fn refuse<F: Future<Output = Response>>(
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    let refusal = request.extensions().get::<Refusal>().copied().or_else(|| hostless(&request));
    match refusal {
        Some(refusal) => Refused::response(refusal.into()),
        None => next(request).await,
    }
}

/// HTTP/2 names its host in the target, or in Host as a proxy from HTTP/1 may do, but not in both differently (RFC 9113, 8.3.1).
fn hostless(request: &Request) -> Option<Refusal> {
    if request.version() != Version::HTTP_2 {
        return None;
    }
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let mut hosts = request.headers().get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    let is_one = match (authority, hosts.next(), hosts.next()) {
        (Some(_), None, None) | (None, Some(_), None) => true,
        (Some(authority), Some(host), None) => authority == host,
        _ => false,
    };
    (!is_one).then_some(Refusal::Host)
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal.status() {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ProblemType::HeadTooLarge,
            StatusCode::REQUEST_TIMEOUT => ProblemType::SlowHead,
            StatusCode::SERVICE_UNAVAILABLE => ProblemType::Unavailable,
            _ => ProblemType::Malformed,
        };
        let problem = Self::new(kind, refusal.detail());
        if kind == ProblemType::Unavailable { problem.retry_after(1) } else { problem }
    }
}
