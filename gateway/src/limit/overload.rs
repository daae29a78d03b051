//! Refuses at once what would only wait: requests beyond what a service can do are told to come back before anything is done for them,
//! so that those that are let in are answered soon, and refusing costs so little that most of the work goes on.
//!
//! How many requests may be in progress is found out as it changes, for each service, reads and writes apart: as many successes in
//! time as there may be requests allow one more, an answer that took too long allows a fifth fewer (additive increase, multiplicative decrease, as in TCP). Only
//! while so many are in progress that they may be the cause: a service that hangs for another reason is the circuit breaker's business.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    BoxError,
    body::{Body, Bytes, HttpBody},
    extract::{MatchedPath, Request},
    http::{Method, StatusCode},
    response::Response,
};
use holdfast_common::metric;
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::{
    http::{body::BodyError, head::Refused},
    problem::{Problem, ProblemType},
};

/// Requests in progress that are let in at the start, at least, and at most.
const IN_PROGRESS_FIRST: f64 = 128.0;
const IN_PROGRESS_MIN: f64 = 32.0;
const IN_PROGRESS_MAX: f64 = 1_024.0;
/// An answer that takes longer says that there are too many: sooner than a service refuses what waits in its line (250 ms).
const TIME_MAX: Duration = Duration::from_millis(150);
/// Those that were let in before may be late too, and say nothing new.
const LOWERED_EVERY_MIN: Duration = Duration::from_millis(150);

/// The gates of all services; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gates(Arc<[[Gate; 2]; 3]>);

impl Gates {
    /// The way to what a request needs most; none if it needs no service.
    fn of(&self, request: &Request) -> Option<Admission> {
        let route = request.extensions().get::<MatchedPath>()?.as_str();
        let service = match route.strip_prefix("/api/")? {
            route if route.starts_with("accounts") || route.ends_with("/payment") => 0,
            route if route.ends_with("/delivery") => 1,
            _ => 2,
        };
        let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
        Some(self.admission(service, usize::from(is_read)))
    }

    fn admission(&self, service: usize, kind: usize) -> Admission {
        Admission(Arc::new(Entrance { gates: self.clone(), service, kind, stage: Mutex::new(Stage::Before) }))
    }
}

/// The layer: lets a request in, or refuses it. Without gates it lets in all.
pub(crate) async fn shed<F: Future<Output = Response>>(
    gates: Option<&Gates>,
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    match gates.and_then(|gates| gates.of(&request)) {
        Some(admission) => admit(admission, request, next).await,
        None => next(request).await,
    }
}

async fn admit<F: Future<Output = Response>>(
    admission: Admission,
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    let request = if request.body().is_end_stream() {
        if admission.enter().is_err() {
            return Refused::response(overloaded());
        }
        request
    } else {
        if admission.gate().state().is_full() {
            return Refused::response(overloaded());
        }
        // A client that sends its body slowly needs nothing yet, and its slowness is not ours.
        request.map(|body| Body::new(Awaited { body, admission: admission.clone() }))
    };
    let mut response = next(request).await;
    if admission.answered(response.status()) == Stage::Refused {
        count_refusal();
        response.extensions_mut().insert(Refused);
    }
    response
}

fn overloaded() -> Problem {
    count_refusal();
    Problem::new(ProblemType::Unavailable, BodyError::Overload.to_string()).retry_after(1)
}

fn count_refusal() {
    metrics::counter!(metric::REQUESTS_LIMITED_TOTAL, "limit" => "overload").increment(1);
}

/// Where a request is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its body is not there yet.
    Before,
    /// It was let in.
    In {
        began: Instant,
    },
    Refused,
    Answered,
}

/// A request before its gate, and in it once it has entered.
#[derive(Debug, Clone)]
struct Admission(Arc<Entrance>);

#[derive(Debug)]
struct Entrance {
    gates: Gates,
    service: usize,
    kind: usize,
    stage: Mutex<Stage>,
}

impl Admission {
    fn gate(&self) -> &Gate {
        &self.0.gates.0[self.0.service][self.0.kind]
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.0.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> Result<(), BodyError> {
        let began = self.gate().enter();
        *self.stage() = began.map_or(Stage::Refused, |began| Stage::In { began });
        began.map(|_| ()).ok_or(BodyError::Overload)
    }

    /// There is an answer. Returns how far the request had come.
    fn answered(&self, status: StatusCode) -> Stage {
        let stage = std::mem::replace(&mut *self.stage(), Stage::Answered);
        if let Stage::In { began } = stage {
            self.gate().leave(began, Some(status));
        }
        stage
    }
}

impl Drop for Entrance {
    /// Nobody waits for the answer any more.
    fn drop(&mut self) {
        if let Stage::In { began } = *self.stage.get_mut().unwrap_or_else(PoisonError::into_inner) {
            self.gates.0[self.service][self.kind].leave(began, None);
        }
    }
}

/// A body at whose end the request enters its gate.
struct Awaited {
    body: Body,
    admission: Admission,
}

impl HttpBody for Awaited {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => {
                let stage = *self.admission.stage();
                let entered = if stage == Stage::Before { self.admission.enter() } else { Ok(()) };
                Poll::Ready(entered.err().map(|overload| Err(overload.into())))
            }
            Some(frame) => Poll::Ready(Some(frame.map_err(Into::into))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[derive(Debug)]
struct State {
    in_progress: usize,
    most: f64,
    lowered: Option<Instant>,
}

impl State {
    fn is_full(&self) -> bool {
        count(self.in_progress) >= self.most.floor()
    }
}

/// One limit.
#[derive(Debug)]
struct Gate(Mutex<State>);

impl Default for Gate {
    fn default() -> Self {
        Self(Mutex::new(State { in_progress: 0, most: IN_PROGRESS_FIRST, lowered: None }))
    }
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a request in; returns since when it is there.
    fn enter(&self) -> Option<Instant> {
        let mut state = self.state();
        if state.is_full() {
            return None;
        }
        state.in_progress += 1;
        Some(Instant::now())
    }

    /// Without a status nobody waited for the answer.
    fn leave(&self, began: Instant, status: Option<StatusCode>) {
        let now = Instant::now();
        let mut state = self.state();
        let is_crowded = count(state.in_progress) * 2.0 >= state.most;
        state.in_progress -= 1;
        if !is_crowded {
            return;
        }
        let is_late = now - began > TIME_MAX;
        let may_lower = state.lowered.is_none_or(|lowered| now - lowered >= LOWERED_EVERY_MIN);
        if is_late && may_lower {
            state.most = (state.most * 0.8).max(IN_PROGRESS_MIN);
            state.lowered = Some(now);
        } else if !is_late && status.is_some_and(|status| status.is_success()) {
            state.most = (state.most + 1.0 / state.most).min(IN_PROGRESS_MAX);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a small count")]
fn count(requests: usize) -> f64 {
    requests as f64
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use futures_util::{StreamExt as _, stream};
    use tokio::time::{advance, timeout};

    use super::*;

    fn enter(gate: &Gate, count: usize) -> Vec<Instant> {
        (0..count).map_while(|_| gate.enter()).collect()
    }

    fn answer(gate: &Gate, places: Vec<Instant>, status: StatusCode) {
        for place in places {
            gate.leave(place, Some(status));
        }
    }

    /// While answers take too long, fewer and fewer are let in, down to a few; when they come in time, more again.
    #[tokio::test(start_paused = true)]
    async fn as_many_are_let_in_as_are_answered_in_time() {
        let gate = Gate::default();
        let mut most = Vec::new();
        for _ in 0..20 {
            let places = enter(&gate, 10_000);
            most.push(places.len());
            advance(Duration::from_millis(300)).await;
            answer(&gate, places, StatusCode::OK);
        }
        assert_eq!(most[..4], [128, 102, 81, 65]);
        assert_eq!(most[19], 32);
        for _ in 0..10 {
            let places = enter(&gate, 10_000);
            assert!(gate.state().is_full() && gate.enter().is_none());
            advance(Duration::from_millis(100)).await;
            answer(&gate, places, StatusCode::OK);
        }
        assert!((36..=42).contains(&enter(&gate, 10_000).len()));
    }

    /// A few slow requests say nothing about load; failures that come at once let nobody in.
    #[tokio::test(start_paused = true)]
    async fn what_is_not_load_changes_nothing() {
        let gate = Gate::default();
        let places = enter(&gate, 20);
        advance(Duration::from_secs(3)).await;
        answer(&gate, places, StatusCode::GATEWAY_TIMEOUT);
        let places = enter(&gate, 10_000);
        assert_eq!(places.len(), 128);
        answer(&gate, places, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(enter(&gate, 10_000).len(), 128);
    }
    /// Those who send their bodies slowly take no place, whatever their number: others are let in, and what they wait for their own
    /// bodies is not taken for load. Whose body ends while there are too many is refused then.
    #[tokio::test(start_paused = true)]
    async fn slow_bodies_take_no_place() {
        let gates = Gates::default();
        let gate = &gates.0[2][0];
        let post = |body| {
            admit(gates.admission(2, 0), Request::new(body), async |request| {
                match axum::body::to_bytes(request.into_body(), usize::MAX).await {
                    Ok(_) => StatusCode::CREATED.into_response(),
                    Err(error) => Problem::unreadable(&error).into_response(),
                }
            })
        };
        for _ in 0..1_000 {
            let slow = Body::from_stream(stream::pending::<Result<Bytes, BoxError>>());
            assert!(timeout(Duration::from_secs(2), post(slow)).await.is_err());
        }
        let places = enter(gate, 10_000);
        assert_eq!(places.len(), 128);
        assert_eq!(post(Body::from("{}")).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        gate.leave(places[0], None);
        let others = gates.clone();
        let body = stream::once(async move {
            // Somebody else takes the place meanwhile.
            assert_eq!(enter(&others.0[2][0], 1).len(), 1);
            Ok::<_, BoxError>(Bytes::from_static(b"{}"))
        });
        let refused = post(Body::from_stream(body.boxed())).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.extensions().get::<Refused>().is_some(), "it is no failure of ours");
        gate.leave(places[1], None);
        assert_eq!(post(Body::from("{}")).await.status(), StatusCode::CREATED);
        assert_eq!(gate.state().in_progress, 127);
    }
}
