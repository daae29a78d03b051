//! What every request gets on its way in (trace id, deadline) and every response on its way out (request id, body of a problem,
//! metrics).

use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::{
    extract::{FromRequestParts, MatchedPath, Request},
    http::{HeaderName, HeaderValue, Method, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use holdfast_common::{
    deadline::{Deadline, DeadlinePassed},
    handles::{Handles, Histograms},
    metric::{HTTP_SERVER_ACTIVE_REQUESTS, HTTP_SERVER_REQUEST_DURATION_SECONDS},
    subject::Subject,
    trace::{self, Kind, Span, SpanUntilDropped, TraceContext},
};
use metrics::Gauge;

use super::{head::Refused, headers::Transport};
use crate::problem::{self, Problem, ProblemType};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is accepted from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Calls end this much before the deadline, so that there is time left to report their failure.
pub(crate) const ANSWER_TIME: Duration = Duration::from_millis(100);

/// 32 hexadecimal digits: the `instance` of a problem, and part of the events that the request causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceId(u128);

impl TraceId {
    fn digits(self) -> [u8; 32] {
        std::array::from_fn(|digit| b"0123456789abcdef"[(self.0 >> (4 * (31 - digit)) & 0xf) as usize])
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // They are digits.
        formatter.write_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

/// By method, scheme and status, below the route.
static TIMES: LazyLock<Histograms<(&'static str, Transport, StatusCode)>> =
    LazyLock::new(Histograms::default);

/// By scheme, below the method.
static ACTIVE: LazyLock<Handles<Transport, Gauge>> = LazyLock::new(Handles::default);

/// Adds the time of a request to its histogram.
fn measure(method: &Method, transport: Transport, route: &str, status: StatusCode, seconds: f64) {
    let method = name_of(method);
    TIMES.record(route, (method, transport, status), seconds, || {
        let mut labels = vec![
            ("http_request_method", method.to_owned()),
            ("url_scheme", transport.scheme().to_owned()),
            ("http_route", route.to_owned()),
            ("http_response_status_code", status.as_str().to_owned()),
        ];
        if status.is_server_error() {
            labels.push(("error_type", status.as_str().to_owned()));
        }
        metrics::histogram!(HTTP_SERVER_REQUEST_DURATION_SECONDS, &labels)
    });
}

/// Counts a request until it has its answer, or its client has gone.
struct Active(Gauge);

impl Active {
    fn begin(method: &Method, transport: Transport) -> Self {
        let method = name_of(method);
        let gauge = ACTIVE.get(method, transport, || {
            let labels = [("http_request_method", method), ("url_scheme", transport.scheme())];
            metrics::gauge!(HTTP_SERVER_ACTIVE_REQUESTS, &labels)
        });
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// A client may call its method as it likes: those that we don't know are one.
const fn name_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}

/// Why a call is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotSent {
    #[error(transparent)]
    Late(#[from] DeadlinePassed),
    #[error("there are more requests than can be answered in time")]
    Overload,
}

/// Asked before the calls of a request, so that one that still receives its body, waits for its turn, or needs no call takes no place
/// of those that do.
pub(crate) trait Admission: fmt::Debug + Send + Sync {
    /// Lets the request make calls, from the first one on.
    fn enter(&self) -> Result<(), NotSent>;
}

/// The context of one request.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// A client's own is not taken over: it would decide what we record, and put its ids beside ours.
    trace: TraceContext,
    /// When a response is no longer of use.
    pub(crate) deadline: Deadline,
    /// For whom it is, once that is known.
    pub(crate) subject: Option<Subject>,
    /// `None` if it may call whenever it likes.
    pub(crate) admission: Option<Arc<dyn Admission>>,
}

impl Call {
    /// The context of a request that begins now.
    pub(crate) fn new(deadline: Duration) -> Self {
        Self { trace: trace::begin(), deadline: Deadline::after(deadline), subject: None, admission: None }
    }

    /// The context of work that no request waits for. It is not part of any trace.
    pub(crate) fn in_background(deadline: Duration) -> Self {
        Self { trace: TraceContext::begin(false), ..Self::new(deadline) }
    }

    fn trace_id(&self) -> TraceId {
        TraceId(self.trace.trace_id())
    }

    /// The same for this subject.
    pub(crate) fn on_behalf_of(self, subject: Option<Subject>) -> Self {
        Self { subject, ..self }
    }

    /// Returns a gRPC request with the rest of the deadline, the trace context and the subject, if the request is admitted.
    pub(crate) fn request<M>(&self, message: M) -> Result<tonic::Request<M>, NotSent> {
        if let Some(admission) = &self.admission {
            admission.enter()?;
        }
        let mut request = self.deadline.earlier_by(ANSWER_TIME).request(message)?;
        self.trace.write(request.metadata_mut().as_mut());
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
pub(crate) async fn enter<F: Future<Output = Response>>(
    transport: Transport,
    deadline: Duration,
    mut request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    let started = std::time::Instant::now();
    let call = Call::new(deadline);
    let request_id = request
        .headers()
        .get(&REQUEST_ID)
        .filter(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.to_str().is_ok())
        .cloned();
    let method = request.method().clone();
    let _active = Active::begin(&method, transport);
    let route = request.extensions().get::<MatchedPath>().cloned();
    request.extensions_mut().insert(call.clone());
    let span = SpanUntilDropped::new(server_span(call.trace, &method, route.as_ref()));

    let answered =
        tokio::time::timeout(call.deadline.remaining(), trace::within(Some(call.trace), next(request))).await;
    let mut response = answered.unwrap_or_else(|_| Problem::deadline().into_response());
    let trace_id = call.trace_id();
    problem::render(&mut response, &trace_id);

    let status = response.status();
    span.finish(|span| {
        span.set("http.response.status_code", || i64::from(status.as_u16()));
        if status.is_server_error() {
            span.fail("5xx");
        }
    });
    // The route, never the path: the ids in a path are private, and would create one series per order.
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let seconds = started.elapsed().as_secs_f64();
    measure(&method, transport, route, status, seconds);
    if status.is_server_error() && response.extensions().get::<Refused>().is_none() {
        tracing::warn!(%trace_id, %method, route, status = status.as_u16(), seconds, "request failed");
    } else {
        tracing::debug!(%trace_id, %method, route, status = status.as_u16(), seconds, "request answered");
    }
    let id = request_id.or_else(|| HeaderValue::from_bytes(&trace_id.digits()).ok());
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// By the route, never by the path.
fn server_span(trace: TraceContext, method: &Method, route: Option<&MatchedPath>) -> Span {
    let mut span = Span::root(trace, Kind::Server, "");
    if span.is_recorded() {
        let route = route.map_or("", MatchedPath::as_str);
        span.rename(format!("{method} {route}").trim_end().to_owned());
        span.set("http.request.method", || method.to_string());
        span.set("http.route", || route.to_owned());
    }
    span
}

impl From<NotSent> for Problem {
    fn from(cause: NotSent) -> Self {
        match cause {
            NotSent::Late(_) => Self::deadline(),
            NotSent::Overload => Self::overload(),
        }
    }
}

impl Problem {
    /// A service has more to do than it can.
    pub(crate) fn overload() -> Self {
        Self::new(ProblemType::Unavailable, NotSent::Overload.to_string()).retry_after(1)
    }

    /// The deadline has passed.
    pub(crate) fn deadline() -> Self {
        Self::new(ProblemType::Deadline, "the request could not be answered in time")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_is_32_digits() {
        for id in [1, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, u128::MAX] {
            assert_eq!(TraceId(id).to_string(), format!("{id:032x}"));
        }
    }
}
