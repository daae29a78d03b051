//! What every request gets on its way in (trace id, deadline) and every response on its way out (request id, body of a problem,
//! metrics).

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::{FromRequestParts, MatchedPath, Request},
    http::{HeaderName, HeaderValue, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use holdfast_common::{
    deadline::{Deadline, DeadlinePassed},
    subject::Subject,
};
use tonic::metadata::MetadataValue;

use super::head::Refused;
use crate::problem::{self, Problem, ProblemType};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is accepted from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Calls end this much before the deadline, so that there is time left to report their failure.
pub(crate) const ANSWER_TIME: Duration = Duration::from_millis(100);

/// The context of one request.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// 32 hexadecimal digits: the `instance` of a problem, and part of the events that the request causes.
    pub(crate) trace_id: String,
    /// When a response is no longer of use.
    pub(crate) deadline: Deadline,
    /// For whom it is, once that is known.
    pub(crate) subject: Option<Subject>,
}

impl Call {
    /// The context of what begins now: a request, or work that no request waits for.
    pub(crate) fn new(deadline: Duration) -> Self {
        let trace_id = format!("{:032x}", fastrand::u128(1..));
        Self { trace_id, deadline: Deadline::after(deadline), subject: None }
    }

    /// The same for this subject.
    pub(crate) fn on_behalf_of(self, subject: Option<Subject>) -> Self {
        Self { subject, ..self }
    }

    /// Returns a gRPC request with the rest of the deadline, the trace context and the subject.
    pub(crate) fn request<M>(&self, message: M) -> Result<tonic::Request<M>, DeadlinePassed> {
        let mut request = self.deadline.earlier_by(ANSWER_TIME).request(message)?;
        let traceparent = format!("00-{}-{:016x}-01", self.trace_id, fastrand::u64(1..));
        // Hexadecimal digits and dashes are always a metadata value.
        if let Ok(value) = MetadataValue::try_from(traceparent) {
            request.metadata_mut().insert("traceparent", value);
        }
        if let Some(subject) = &self.subject {
            subject.write(request.metadata_mut());
        }
        Ok(request)
    }
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::internal)
    }
}

/// Gives a request its context, ends it at its deadline, counts and logs it, and puts its id on the response. The deadline is
/// that of the response's head: what a stream sends after it takes the time that it takes.
pub(crate) async fn enter(
    deadline: Duration,
    mut request: Request,
    next: Next,
) -> Result<Response, Infallible> {
    let started = std::time::Instant::now();
    let call = Call::new(deadline);
    let request_id = request
        .headers()
        .get(&REQUEST_ID)
        .filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.to_str().is_ok())
        .cloned();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    request.extensions_mut().insert(call.clone());

    let answered = tokio::time::timeout(call.deadline.remaining(), next.run(request)).await;
    let mut response = answered.unwrap_or_else(|_| Problem::deadline().into_response());
    problem::render(&mut response, &call.trace_id);

    let status = response.status();
    // The route, never the path: the ids in a path are private, and would create one series per order.
    let route = route.unwrap_or_else(|| "none".to_owned());
    let seconds = started.elapsed().as_secs_f64();
    let labels = [("route", route.clone()), ("status", status.as_str().to_owned())];
    metrics::histogram!(holdfast_common::metric::HTTP_REQUEST_SECONDS, &labels).record(seconds);
    if status.is_server_error() && response.extensions().get::<Refused>().is_none() {
        tracing::warn!(trace_id = call.trace_id, %method, route, status = status.as_u16(), seconds, "request failed");
    } else {
        tracing::debug!(trace_id = call.trace_id, %method, route, status = status.as_u16(), seconds, "request answered");
    }
    let id = request_id.or_else(|| HeaderValue::from_str(&call.trace_id).ok());
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    Ok(response)
}

impl From<DeadlinePassed> for Problem {
    fn from(_: DeadlinePassed) -> Self {
        Self::deadline()
    }
}

impl Problem {
    /// The deadline has passed.
    pub(crate) fn deadline() -> Self {
        Self::new(ProblemType::Deadline, "the request could not be answered in time")
    }
}
