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
    http::head::Refused,
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
    /// The gate of what a request needs most; none if it needs no service.
    fn of(&self, request: &Request) -> Option<&Gate> {
        let route = request.extensions().get::<MatchedPath>()?.as_str();
        let service = match route.strip_prefix("/api/")? {
            route if route.starts_with("accounts") || route.ends_with("/payment") => 0,
            route if route.ends_with("/delivery") => 1,
            _ => 2,
        };
        let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
        Some(&self.0[service][usize::from(is_read)])
    }
}

/// The layer: lets a request in, or refuses it. Without gates it lets in all.
pub(crate) async fn shed<F: Future<Output = Response>>(
    gates: Option<&Gates>,
    request: Request,
    next: impl FnOnce(Request) -> F,
) -> Response {
    let Some(gate) = gates.and_then(|gates| gates.of(&request)) else {
        return next(request).await;
    };
    let Some(mut place) = gate.enter() else {
        metrics::counter!(metric::REQUESTS_LIMITED_TOTAL, "limit" => "overload").increment(1);
        let problem =
            Problem::new(ProblemType::Unavailable, "there are more requests than can be answered in time");
        return Refused::response(problem.retry_after(1));
    };
    let response = next(request).await;
    place.status = Some(response.status());
    response
}

#[derive(Debug)]
struct State {
    in_progress: usize,
    most: f64,
    lowered: Option<Instant>,
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

    fn enter(&self) -> Option<Place<'_>> {
        let mut state = self.state();
        if count(state.in_progress) >= state.most.floor() {
            return None;
        }
        state.in_progress += 1;
        Some(Place { gate: self, began: Instant::now(), status: None })
    }
}

/// A request that was let in; it has no status if nobody waited for its answer.
#[derive(Debug)]
struct Place<'g> {
    gate: &'g Gate,
    began: Instant,
    status: Option<StatusCode>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.gate.state();
        let is_crowded = count(state.in_progress) * 2.0 >= state.most;
        state.in_progress -= 1;
        if !is_crowded {
            return;
        }
        let is_late = now - self.began > TIME_MAX;
        let may_lower = state.lowered.is_none_or(|lowered| now - lowered >= LOWERED_EVERY_MIN);
        if is_late && may_lower {
            state.most = (state.most * 0.8).max(IN_PROGRESS_MIN);
            state.lowered = Some(now);
        } else if !is_late && self.status.is_some_and(|status| status.is_success()) {
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
    use tokio::time::advance;

    use super::*;

    fn enter(gate: &Gate, count: usize) -> Vec<Place<'_>> {
        (0..count).map_while(|_| gate.enter()).collect()
    }

    fn answer(places: &mut Vec<Place<'_>>, status: StatusCode) {
        for place in places.iter_mut() {
            place.status = Some(status);
        }
        places.clear();
    }

    /// While answers take too long, fewer and fewer are let in, down to a few; when they come in time, more again.
    #[tokio::test(start_paused = true)]
    async fn as_many_are_let_in_as_are_answered_in_time() {
        let gate = Gate::default();
        let mut most = Vec::new();
        for _ in 0..20 {
            let mut places = enter(&gate, 10_000);
            most.push(places.len());
            advance(Duration::from_millis(300)).await;
            answer(&mut places, StatusCode::OK);
        }
        assert_eq!(most[..4], [128, 102, 81, 65]);
        assert_eq!(most[19], 32);
        for _ in 0..10 {
            let mut places = enter(&gate, 10_000);
            assert!(gate.enter().is_none());
            advance(Duration::from_millis(100)).await;
            answer(&mut places, StatusCode::OK);
        }
        assert!((36..=42).contains(&enter(&gate, 10_000).len()));
    }

    /// A few slow requests say nothing about load; failures that come at once let nobody in.
    #[tokio::test(start_paused = true)]
    async fn what_is_not_load_changes_nothing() {
        let gate = Gate::default();
        let mut places = enter(&gate, 20);
        advance(Duration::from_secs(3)).await;
        answer(&mut places, StatusCode::GATEWAY_TIMEOUT);
        let mut places = enter(&gate, 10_000);
        assert_eq!(places.len(), 128);
        answer(&mut places, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(enter(&gate, 10_000).len(), 128);
    }
}
