//! Answers those who are over a limit a moment later: a client that sends again as soon as it is refused would otherwise take all the
//! time of the processor with its refusals. Who waits as `Retry-After` says does not notice.

use std::time::Duration;

use axum::{extract::Request, http::StatusCode, middleware::Next, response::Response};
use tokio::time::sleep;

/// With it a connection gets forty refusals a second instead of thousands, and each still comes soon.
const PAUSE: Duration = Duration::from_millis(25);

/// The layer.
pub(crate) async fn hold_back(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        sleep(PAUSE).await;
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware::from_fn, routing::get};
    use tokio::time::Instant;
    use tower::ServiceExt as _;

    use super::*;

    /// Only those who are over a limit wait.
    #[tokio::test(start_paused = true)]
    async fn only_those_over_a_limit_wait() {
        for (status, expected) in [(StatusCode::OK, Duration::ZERO), (StatusCode::TOO_MANY_REQUESTS, PAUSE)] {
            let router =
                Router::new().route("/", get(move || async move { status })).layer(from_fn(hold_back));
            let begin = Instant::now();
            let response = router.oneshot(Request::new(Body::empty())).await.expect("infallible");
            assert_eq!((response.status(), begin.elapsed()), (status, expected));
        }
    }
}
