//! Refuses calls that would only wait: an overloaded service says so early, and asks the client to come back a moment
//! later, perhaps to another replica.
//!
//! A call waits for its message without taking a place from others, then for a place, then it is handled. The time in
//! line is bounded well below the time of an attempt ([`crate::client`]): a caller that gives up counts against the
//! service in its circuit breaker, one that is asked to come back does not, so that load alone never opens it (pitfalls
//! P48).

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::{sync::Semaphore, time::timeout};
use tonic::{Status, body::Body, metadata::MetadataValue};
use tower::{Layer, Service, ServiceExt as _};

use super::{HEALTH_SERVICE, MESSAGE_BYTES_MAX, OPERATOR_MESSAGE_BYTES_MAX, OPERATOR_PACKAGE, service_of};
use crate::{client::PUSHBACK_MS, error::BoxError};

/// Calls in line and being handled, over all connections; each holds its message in memory.
const CALLS_MAX: usize = 512;
/// Time in line. A quarter of an attempt: what is left is enough for the work, or for another replica.
pub(crate) const QUEUE_TIME_MAX: Duration = Duration::from_millis(250);
/// From the head of a call to the end of its message.
const MESSAGE_TIME_MAX: Duration = Duration::from_secs(1);
/// In front of each message: a flag and its length.
const PREFIX_BYTES: usize = 5;
/// The shortest pause that a refused client is asked for, and half of the longest, so that clients don't all come back
/// at once.
const PUSHBACK_MS_MIN: u64 = 50;

/// See the module. One for all connections.
#[derive(Debug, Clone)]
pub(crate) struct ShedLayer {
    calls: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl ShedLayer {
    /// With this many calls handled at a time.
    pub(crate) fn new(places: usize) -> Self {
        Self { calls: Arc::new(Semaphore::new(CALLS_MAX)), places: Arc::new(Semaphore::new(places)) }
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = Shed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Shed { inner, limits: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Shed<S> {
    inner: S,
    limits: ShedLayer,
}

impl<S, B> Service<Request<B>> for Shed<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    /// The inner service is polled when there is a place.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (inner, limits) = (self.inner.clone(), self.limits.clone());
        Box::pin(async move {
            let called = service_of(request.uri().path());
            let is_health = called == Some(HEALTH_SERVICE);
            let is_for_operators = called.is_some_and(|service| service.starts_with(OPERATOR_PACKAGE));
            let bytes_max = if is_for_operators { OPERATOR_MESSAGE_BYTES_MAX } else { MESSAGE_BYTES_MAX };
            let (parts, body) = request.into_parts();
            let message = match receive(body, bytes_max).await {
                Ok(message) => message,
                Err(status) => return Ok(status.into_http()),
            };
            let request = Request::from_parts(parts, Body::new(Full::new(message)));
            if is_health {
                return inner.oneshot(request).await;
            }
            let Ok(_call) = limits.calls.try_acquire() else { return Ok(refuse("full").into_http()) };
            // The semaphore is never closed, so only time ends the wait without a place.
            let Ok(_place) = timeout(QUEUE_TIME_MAX, limits.places.acquire()).await else {
                return Ok(refuse("waited").into_http());
            };
            let _in_progress = InProgress::begin();
            inner.oneshot(request).await
        })
    }
}

/// Counts a call that is handled until it is dropped.
struct InProgress(metrics::Gauge);

impl InProgress {
    fn begin() -> Self {
        let gauge = metrics::gauge!(crate::metric::GRPC_CALLS_IN_PROGRESS);
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Reads the whole message of a call: all of ours have exactly one. A head without a message occupies its stream and
/// nothing else, and not for long.
async fn receive<B>(body: B, bytes_max: usize) -> Result<Bytes, Status>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let message = Limited::new(body, PREFIX_BYTES + bytes_max).collect();
    match timeout(MESSAGE_TIME_MAX, message).await {
        Ok(Ok(message)) => Ok(message.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Status::out_of_range(format!("message is larger than {bytes_max} bytes")))
        }
        Ok(Err(_)) => Err(Status::cancelled("message was cut off")),
        Err(_) => {
            metrics::counter!(crate::metric::GRPC_MESSAGES_LATE_TOTAL).increment(1);
            Err(Status::deadline_exceeded(format!("no message within {} s", MESSAGE_TIME_MAX.as_secs())))
        }
    }
}

/// `RESOURCE_EXHAUSTED` with a pause: no breaker counts it, and a retry waits.
fn refuse(reason: &'static str) -> Status {
    metrics::counter!(crate::metric::GRPC_CALLS_SHED_TOTAL, "reason" => reason).increment(1);
    let mut status = Status::resource_exhausted("service is overloaded");
    let pause = PUSHBACK_MS_MIN + fastrand::u64(..PUSHBACK_MS_MIN);
    status.metadata_mut().insert(PUSHBACK_MS, MetadataValue::from(pause));
    status
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{Empty, StreamBody};
    use tokio::{
        task::JoinSet,
        time::{Instant, sleep},
    };
    use tonic::Code;
    use tower::service_fn;

    use super::*;

    const WORK: Duration = Duration::from_secs(5);

    fn call(path: &str) -> Request<Empty<Bytes>> {
        Request::get(path).body(Empty::new()).expect("a request")
    }

    fn code(answer: &Response<Body>) -> Code {
        Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
    }

    async fn work(_: Request<Body>) -> Result<Response<Body>, Infallible> {
        sleep(WORK).await;
        Ok(Response::new(Body::empty()))
    }

    async fn answer(_: Request<Body>) -> Result<Response<Body>, Infallible> {
        Ok(Response::new(Body::empty()))
    }

    /// Calls that wait longer than a quarter of an attempt are refused with a pause, those that get a place in time are
    /// answered, health always is, and a caller that goes away gives its place back.
    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_a_moment_only() {
        let layer = ShedLayer::new(3);
        let busy = layer.layer(service_fn(work));
        let quick = layer.layer(service_fn(answer));
        let mut working: Vec<_> = (0..3).map(|_| tokio::spawn(busy.clone().oneshot(call("/s/m")))).collect();
        sleep(Duration::from_millis(1)).await;

        let begin = Instant::now();
        let refused = quick.clone().oneshot(call("/s/m")).await.expect("answered");
        assert_eq!((code(&refused), begin.elapsed()), (Code::ResourceExhausted, QUEUE_TIME_MAX));
        let pause = refused.headers().get(PUSHBACK_MS).expect("a pause").to_str().expect("a number");
        assert!((50..100).contains(&pause.parse::<u64>().expect("a number")), "{pause}");
        let health = quick.clone().oneshot(call("/grpc.health.v1.Health/Check")).await.expect("answered");
        assert_eq!(code(&health), Code::Ok);

        let waiting = tokio::spawn(quick.clone().oneshot(call("/s/m")));
        sleep(Duration::from_millis(200)).await;
        working.pop().expect("three").abort();
        assert_eq!(code(&waiting.await.expect("no panic").expect("answered")), Code::Ok);
        assert_eq!(code(&quick.oneshot(call("/s/m")).await.expect("answered")), Code::Ok);
    }

    /// One call more than fits is refused at once.
    #[tokio::test(start_paused = true)]
    async fn a_full_service_says_so_at_once() {
        let busy = ShedLayer::new(3).layer(service_fn(work));
        let mut calls = JoinSet::new();
        for _ in 0..CALLS_MAX {
            calls.spawn(busy.clone().oneshot(call("/s/m")));
        }
        sleep(Duration::from_millis(1)).await;
        let begin = Instant::now();
        let refused = busy.oneshot(call("/s/m")).await.expect("answered");
        assert_eq!((code(&refused), begin.elapsed()), (Code::ResourceExhausted, Duration::ZERO));
    }

    /// However many heads come without their message, calls with one are answered; the heads end after a second.
    #[tokio::test(start_paused = true)]
    async fn heads_without_a_message_take_no_place() {
        let service = ShedLayer::new(3).layer(service_fn(answer));
        let mut heads = JoinSet::new();
        for _ in 0..2 * CALLS_MAX {
            let body = StreamBody::new(futures_util::stream::pending::<Result<_, Infallible>>());
            heads.spawn(service.clone().oneshot(Request::get("/s/m").body(body).expect("a request")));
        }
        sleep(Duration::from_millis(1)).await;
        let begin = Instant::now();
        assert_eq!(code(&service.oneshot(call("/s/m")).await.expect("answered")), Code::Ok);
        assert_eq!(begin.elapsed(), Duration::ZERO);
        for head in heads.join_all().await {
            assert_eq!(code(&head.expect("answered")), Code::DeadlineExceeded);
        }
        assert!(begin.elapsed() <= MESSAGE_TIME_MAX);
    }

    /// A message that is too large is refused as such; operators may send a whole record.
    #[tokio::test]
    async fn a_large_message_is_refused() {
        let service = ShedLayer::new(3).layer(service_fn(answer));
        let edit = "/holdfast.ops.v1.DeadLetterService/EditDeadLetter";
        for (path, most) in [("/s/m", MESSAGE_BYTES_MAX), (edit, OPERATOR_MESSAGE_BYTES_MAX)] {
            for (bytes, expected) in [(0, Code::Ok), (1, Code::OutOfRange)] {
                let message = Full::new(Bytes::from(vec![0; PREFIX_BYTES + most + bytes]));
                let request = Request::get(path).body(message).expect("a request");
                assert_eq!(code(&service.clone().oneshot(request).await.expect("answered")), expected);
            }
        }
    }
}
