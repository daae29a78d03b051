//! Limits the body of a request in size, pieces, pace and memory, and drains what no handler has read.
//!
//! A response that is sent while the client still writes its body can get lost: the connection is reset, and the client sees a
//! broken connection instead of its 413 or 401. So the unread rest is read and discarded first, up to a limit.

use std::{
    future::Future as _,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    BoxError,
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderValue, Version, header},
    response::Response,
};
use holdfast_common::{
    deadline::Deadline,
    error::causes,
    metric::{HTTP_BODY_BYTES, HTTP_REQUESTS_REFUSED_TOTAL},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    context::{ANSWER_TIME, Call},
    head::Refused,
};
use crate::problem::{Problem, ProblemType};

/// Largest body of a request in bytes; a longer one is 413.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Most pieces of a body, chunks or frames: each costs far more than its byte.
const BODY_PIECES_MAX: usize = 4_096;
/// What a body may lag behind its pace: the time of a lost packet or two.
const BODY_LAG_MAX: Duration = Duration::from_secs(2);
/// Most bytes that are discarded; a client that sends more sees its connection end.
const DRAIN_BYTES_MAX: usize = 1024 * 1024;
/// How long discarding may take.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// Why a body can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// It arrives too slowly.
    #[error("the body did not arrive in time")]
    Slow,
    /// It comes in too many pieces.
    #[error("the body has more than {BODY_PIECES_MAX} pieces")]
    Pieces,
    /// All bodies together take all the memory that they may take.
    #[error("too many bodies are being read")]
    Budget,
}

impl BodyError {
    const fn reason(self) -> &'static str {
        match self {
            Self::Slow => "slow-body",
            Self::Pieces => "body-pieces",
            Self::Budget => "body-budget",
        }
    }
}

/// What all bodies share.
#[derive(Debug, Clone)]
pub(crate) struct Bodies {
    /// Bytes that may still be held in memory.
    budget: Arc<Semaphore>,
    bytes_per_second_min: u32,
}

impl Bodies {
    /// `bytes_max` of all bodies together; each must arrive at `bytes_per_second_min`.
    pub(crate) fn new(bytes_max: u32, bytes_per_second_min: u32) -> Self {
        let budget = Arc::new(Semaphore::new(bytes_max as usize));
        Self { budget, bytes_per_second_min: bytes_per_second_min.max(1) }
    }
}

/// Limits the body of every request, whoever reads it, and drains it before the response is sent.
pub(crate) async fn limit<F: Future<Output = Response>>(
    bodies: &Bodies,
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    if request.body().is_end_stream() && !request.headers().contains_key(header::CONTENT_LENGTH) {
        // Most requests have none.
        return next(request).await;
    }
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<u64>().ok());
    // A client that asks first (`Expect: 100-continue`) has not sent its body yet.
    let sends_unasked = !request.headers().contains_key(header::EXPECT);
    let version = request.version();
    let deadline = request.extensions().get::<Call>().map(|call| call.deadline.earlier_by(ANSWER_TIME));
    let end = deadline.map_or_else(|| Instant::now() + DRAIN_TIME_MAX, Deadline::instant);
    let (parts, body) = request.into_parts();
    let shared = Shared(Arc::new(Mutex::new(Paced::new(body, bodies.bytes_per_second_min, end))));
    // Held until there is a response: by then nobody needs the bytes.
    let charge = Charge::new(bodies.budget.clone());
    let mut response = if declared.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        Refused::response(Problem::too_large())
    } else {
        let body = Limited::new(Charged { body: shared.clone(), charge: charge.clone() }, BODY_BYTES_MAX);
        next(Request::from_parts(parts, Body::new(body))).await
    };
    if charge.lock().is_refused {
        response.extensions_mut().insert(Refused);
    }
    drop(charge);
    let is_read = if sends_unasked {
        let until = end.min(Instant::now() + DRAIN_TIME_MAX);
        tokio::time::timeout_at(until, shared.drain()).await.unwrap_or(Drained::InPart)
    } else {
        Drained::Completely
    };
    if is_read == Drained::InPart && version < Version::HTTP_2 {
        // The rest of the body would be read as the next request.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

impl Problem {
    /// The body is longer than [`BODY_BYTES_MAX`].
    pub(crate) fn too_large() -> Self {
        Self::new(ProblemType::TooLarge, format!("the body has more than {BODY_BYTES_MAX} bytes"))
    }

    /// A body could not be read, for a reason that is the client's.
    pub(crate) fn unreadable(error: &(dyn std::error::Error + 'static)) -> Self {
        for cause in causes(error) {
            if cause.is::<LengthLimitError>() {
                return Self::too_large();
            }
            if let Some(error) = cause.downcast_ref::<BodyError>() {
                metrics::counter!(
                    HTTP_REQUESTS_REFUSED_TOTAL, "port" => "gateway", "reason" => error.reason()
                )
                .increment(1);
                return match error {
                    BodyError::Slow => Self::new(ProblemType::SlowBody, error.to_string()),
                    BodyError::Pieces => Self::malformed(error.to_string()),
                    BodyError::Budget => {
                        Self::new(ProblemType::Unavailable, error.to_string()).retry_after(1)
                    }
                };
            }
        }
        Self::malformed("the body was cut short")
    }
}

/// The bytes of one body that are held in memory, as a part of the budget.
#[derive(Clone)]
struct Charge(Arc<Mutex<Held>>);

struct Held {
    budget: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    is_refused: bool,
}

impl Charge {
    fn new(budget: Arc<Semaphore>) -> Self {
        Self(Arc::new(Mutex::new(Held { budget, permit: None, is_refused: false })))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, bytes: usize) -> Result<(), BodyError> {
        let mut held = self.lock();
        let count = u32::try_from(bytes).map_err(|_| BodyError::Budget)?;
        let Ok(more) = held.budget.clone().try_acquire_many_owned(count) else {
            held.is_refused = true;
            return Err(BodyError::Budget);
        };
        metrics::gauge!(HTTP_BODY_BYTES).increment(f64::from(count));
        match &mut held.permit {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(permit) = &self.permit else { return };
        let bytes = permit.num_permits();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        metrics::gauge!(HTTP_BODY_BYTES).decrement(bytes as f64);
    }
}

/// A body as the handler reads it, which counts what it gets against the budget.
struct Charged {
    body: Shared,
    charge: Charge,
}

impl HttpBody for Charged {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            if let Err(error) = self.charge.add(bytes) {
                return Poll::Ready(Some(Err(error.into())));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that must arrive at a pace, and in not too many pieces.
struct Paced {
    body: Body,
    bytes_per_second_min: u32,
    /// When it must be there in any case.
    end: Instant,
    began: Option<Instant>,
    bytes: u64,
    pieces: usize,
    /// Made when the body makes somebody wait: most are there at once.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    const fn new(body: Body, bytes_per_second_min: u32, end: Instant) -> Self {
        Self { body, bytes_per_second_min, end, began: None, bytes: 0, pieces: 0, alarm: None }
    }

    /// Until when the next piece must be there.
    fn due(&mut self) -> Instant {
        let began = *self.began.get_or_insert_with(Instant::now);
        let earned_ms = self.bytes.saturating_mul(1_000) / u64::from(self.bytes_per_second_min);
        self.end.min(began + BODY_LAG_MAX + Duration::from_millis(earned_ms))
    }

    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.due();
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if alarm.deadline() != due {
            alarm.as_mut().reset(due);
        }
        alarm.as_mut().poll(cx)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.due();
                self.pieces += 1;
                self.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                let is_too_many = self.pieces > BODY_PIECES_MAX;
                Poll::Ready(Some(if is_too_many { Err(BodyError::Pieces.into()) } else { Ok(frame) }))
            }
            Poll::Ready(other) => Poll::Ready(other.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => self.poll_due(cx).map(|()| Some(Err(BodyError::Slow.into()))),
        }
    }
}

/// Whether a body was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drained {
    Completely,
    InPart,
}

/// A body that the handler reads and then the middleware drains, never both at once.
#[derive(Clone)]
struct Shared(Arc<Mutex<Paced>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Paced> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn drain(mut self) -> Drained {
        let mut drained = 0;
        while !self.is_end_stream() {
            match self.frame().await {
                None => return Drained::Completely,
                Some(Err(_)) => return Drained::InPart,
                Some(Ok(frame)) => drained += frame.data_ref().map_or(0, Bytes::len),
            }
            if drained > DRAIN_BYTES_MAX {
                return Drained::InPart;
            }
        }
        Drained::Completely
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.lock().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().body.size_hint()
    }
}
