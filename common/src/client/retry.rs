//! Sends an idempotent call again when the answer says that it may help: `tower::retry` with our policy.
//!
//! - Only calls whose message can be replayed ([`super::replay`]), so only those that the contract marks as idempotent.
//! - Only `UNAVAILABLE`, and `RESOURCE_EXHAUSTED` if the server names a pause (gRFC A6: `grpc-retry-pushback-ms`).
//! - Never when the breakers refused: nothing was sent, and waiting for them is not a retry's job.
//! - Within a budget that all calls to a destination share, so that an outage is not answered with three times the
//!   load (the reason for budgets instead of counts: Finagle, linkerd).
//!
//! Retries happen at the edge only, never again inside the services: two layers of three attempts are nine.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Request, Response};
use metrics::Counter;
use tokio::time::{Sleep, sleep};
use tonic::{Code, Status, body::Body};
use tower::retry::{Policy, budget::Budget as _};

use super::{breaker::Rejected, budget::RetryBudget, replay::Message};
use crate::{deadline::Deadline, error::is_caused_by};

/// How often the call was sent before (gRFC A6).
pub(crate) const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
/// The pause that a server asks for before the next attempt, in milliseconds; negative or garbage means "don't" (gRFC
/// A6).
pub(crate) const PUSHBACK_MS: &str = "grpc-retry-pushback-ms";

/// The upper end of the first pause; the next are twice as long each.
const PAUSE_MAX_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// An attempt that has less time than this is not worth the load.
const ATTEMPT_TIME_MIN: Duration = Duration::from_millis(50);

/// The policy of one destination; a clone is the state of one call.
#[derive(Clone)]
pub(super) struct RetryPolicy {
    attempts_max: u32,
    attempts: u32,
    budget: Arc<RetryBudget>,
    retries: Counter,
    over_budget: Counter,
}

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It is the answer.
    Answer,
    /// Again, after a random pause.
    Retry,
    /// Again, after the pause that the server asks for.
    RetryAfter(Duration),
}

impl RetryPolicy {
    /// At most `attempts_max` of a call, the first included.
    pub(super) fn new(attempts_max: u32, budget: Arc<RetryBudget>, destination: &str) -> Self {
        let name = destination.to_owned();
        Self {
            attempts_max,
            attempts: 1,
            budget,
            retries: metrics::counter!(crate::metric::GRPC_CLIENT_RETRIES_TOTAL, "destination" => name.clone()),
            over_budget: metrics::counter!(crate::metric::GRPC_CLIENT_RETRIES_OVER_BUDGET_TOTAL, "destination" => name),
        }
    }

    fn pause(&self, next: Next) -> Option<Duration> {
        match next {
            Next::Answer => None,
            // Full jitter: callers that failed together must not come back together.
            Next::Retry => {
                let ceiling = PAUSE_MAX_FIRST.saturating_mul(1 << (self.attempts - 1).min(16)).min(PAUSE_MAX);
                Some(ceiling.mul_f64(fastrand::f64()))
            }
            Next::RetryAfter(pause) => Some(pause),
        }
    }
}

/// The one place that says what may be tried again.
fn judge(answer: &Result<Response<Body>, Status>) -> Next {
    let Err(status) = answer else { return Next::Answer };
    let pushback = status.metadata().get(PUSHBACK_MS).map(|value| {
        value.to_str().ok().and_then(|text| text.parse::<u64>().ok()).map(Duration::from_millis)
    });
    match (status.code(), pushback) {
        (Code::Unavailable, _) if is_caused_by::<Rejected>(status) => Next::Answer,
        (Code::Unavailable | Code::ResourceExhausted, Some(Some(pause))) => Next::RetryAfter(pause),
        (Code::Unavailable, None) => Next::Retry,
        // No pushback, or one that says "don't".
        _ => Next::Answer,
    }
}

impl Policy<Request<Message>, Response<Body>, Status> for RetryPolicy {
    type Future = Sleep;

    fn retry(
        &mut self,
        request: &mut Request<Message>,
        answer: &mut Result<Response<Body>, Status>,
    ) -> Option<Sleep> {
        let Some(pause) = self.pause(judge(answer)) else {
            if self.attempts == 1 {
                self.budget.deposit();
            }
            return None;
        };
        let left = request.extensions().get::<Deadline>().map(|deadline| deadline.remaining());
        let enough_time = left.is_none_or(|left| left > pause + ATTEMPT_TIME_MIN);
        if self.attempts >= self.attempts_max || !enough_time {
            return None;
        }
        if !self.budget.withdraw() {
            self.over_budget.increment(1);
            return None;
        }
        request.headers_mut().insert(PREVIOUS_ATTEMPTS, HeaderValue::from(self.attempts));
        self.attempts += 1;
        self.retries.increment(1);
        Some(sleep(pause))
    }

    fn clone_request(&mut self, request: &Request<Message>) -> Option<Request<Message>> {
        let mut copy = Request::new(request.body().replay()?);
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        *copy.extensions_mut() = request.extensions().clone();
        Some(copy)
    }
}
