//! Refuses at once what would only wait: requests beyond what a service can do are told to come back before anything is done for them,
//! so that those that are let in are answered soon, and refusing costs so little that most of the work goes on.
//!
//! How many requests may be in progress is found out as it changes, for each service, reads and writes apart: as many successes in
//! time as there may be requests allow one more, an answer that took too long allows a fifth fewer (additive increase, multiplicative decrease, as in TCP). Only
//! while so many are in progress that they may be the cause: a service that hangs for another reason is the circuit breaker's business.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    extract::{MatchedPath, Request},
    http::{Method, StatusCode},
    response::Response,
};
use holdfast_common::metric;
use tokio::time::Instant;

use crate::{
    http::{
        Call,
        context::{Admission, NotSent},
        head::Refused,
    },
    problem::Problem,
};

/// Requests in progress that are let in at the start, at least, and at most.
const IN_PROGRESS_FIRST: f64 = 128.0;
const IN_PROGRESS_MIN: f64 = 32.0;
const IN_PROGRESS_MAX: f64 = 1_024.0;
/// An answer that takes longer says that there are too many: sooner than a service refuses what waits in its line (250 ms).
const TIME_MAX: Duration = Duration::from_millis(150);
/// Those that were let in before may be late too, and say nothing new.
const LOWERED_EVERY_MIN: Duration = Duration::from_millis(150);

const WRITES: usize = 0;
const READS: usize = 1;

/// The gates of all services; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gates(Arc<[[Gate; 2]; 3]>);

impl Gates {
    /// The way to what a request needs most; none if it needs no service.
    fn of(&self, request: &Request) -> Option<Arc<Entrance>> {
        let route = request.extensions().get::<MatchedPath>()?.as_str();
        let service = match route.strip_prefix("/api/")? {
            route if route.starts_with("accounts") || route.ends_with("/payment") => 0,
            route if route.ends_with("/delivery") => 1,
            _ => 2,
        };
        let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
        Some(self.entrance(service, if is_read { READS } else { WRITES }))
    }

    fn entrance(&self, service: usize, kind: usize) -> Arc<Entrance> {
        Arc::new(Entrance { gates: self.clone(), service, kind, stage: Mutex::new(Stage::Before) })
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
    admission: Arc<Entrance>,
    mut request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    if admission.is_write() && admission.gate().state().is_full() {
        // Before its body is read. What a read needs may be known already.
        count_refusal();
        return Refused::response(Problem::overload());
    }
    if let Some(call) = request.extensions_mut().get_mut::<Call>() {
        call.admission = Some(admission.clone());
    }
    let mut response = next(request).await;
    if admission.answered(response.status()) == Stage::Refused {
        count_refusal();
        response.extensions_mut().insert(Refused);
    }
    response
}

fn count_refusal() {
    metrics::counter!(metric::REQUESTS_LIMITED_TOTAL, "limit" => "overload").increment(1);
}

/// Where a request is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has made no call yet.
    Before,
    /// It was let in.
    In {
        began: Instant,
    },
    Refused,
    Answered,
}

/// A request before its gate, and in it once it has entered.
#[derive(Debug)]
struct Entrance {
    gates: Gates,
    service: usize,
    kind: usize,
    stage: Mutex<Stage>,
}

impl Entrance {
    fn gate(&self) -> &Gate {
        &self.gates.0[self.service][self.kind]
    }

    const fn is_write(&self) -> bool {
        self.kind == WRITES
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Admission for Entrance {
    fn enter(&self) -> Result<(), NotSent> {
        let mut stage = self.stage();
        if matches!(*stage, Stage::In { .. }) {
            return Ok(());
        }
        let began = self.gate().enter();
        *stage = began.map_or(Stage::Refused, |began| Stage::In { began });
        began.map(|_| ()).ok_or(NotSent::Overload)
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
    use axum::{body::Body, response::IntoResponse as _};
    use futures_util::{StreamExt as _, stream::FuturesUnordered};
    use tokio::time::{advance, sleep};

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

    /// Those who only wait, for their own body or for their turn, take no place, whatever their number: others are let in, and that time
    /// is not taken for load. Who makes a call when there are too many is refused then.
    #[tokio::test(start_paused = true)]
    async fn who_makes_no_call_takes_no_place() {
        let gates = Gates::default();
        let gate = &gates.0[2][READS];
        let get = |wait: Duration| {
            let mut request = Request::new(Body::empty());
            request.extensions_mut().insert(Call::new(Duration::from_secs(60)));
            admit(gates.entrance(2, READS), request, async move |request| {
                sleep(wait).await;
                let call: &Call = request.extensions().get().expect("it has one");
                match call.request(()).and_then(|_| call.request(())) {
                    Ok(_) => StatusCode::OK.into_response(),
                    Err(cause) => Problem::from(cause).into_response(),
                }
            })
        };
        let waiting: FuturesUnordered<_> = (0..1_000).map(|_| get(Duration::from_secs(5))).collect();
        let answered = waiting.map(|response| response.status()).collect::<Vec<_>>();
        assert!(answered.await.into_iter().all(|status| status == StatusCode::OK));
        let places = enter(gate, 10_000);
        assert!(places.len() >= 128, "{}", places.len());
        let refused = get(Duration::ZERO).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.extensions().get::<Refused>().is_some(), "it is no failure of ours");
        gate.leave(places[0], None);
        assert_eq!(get(Duration::ZERO).await.status(), StatusCode::OK);
        assert_eq!(gate.state().in_progress, places.len() - 1);
    }
}
