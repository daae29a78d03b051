//! Ends a call when its caller has stopped waiting, and gives the handlers its deadline.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::deadline::{CALL_TIME_MAX, Deadline, DeadlinePassed, grpc_timeout};

/// tonic enforces `grpc-timeout` too, outside of this layer, and reports it as CANCELLED. Ours comes first.
const BEFORE_TONIC: Duration = Duration::from_millis(2);

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = WithDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithDeadline { inner }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct WithDeadline<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for WithDeadline<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let time = match grpc_timeout(request.headers()) {
            Ok(time) => {
                time.map_or(CALL_TIME_MAX, |time| time.saturating_sub(BEFORE_TONIC).min(CALL_TIME_MAX))
            }
            Err(malformed) => {
                let status = Status::invalid_argument(malformed.to_string());
                return Box::pin(std::future::ready(Ok(status.into_http())));
            }
        };
        let deadline = Deadline::after(time);
        if time.is_zero() {
            return Box::pin(std::future::ready(Ok(Status::from(DeadlinePassed).into_http())));
        }
        request.extensions_mut().insert(deadline);
        let answer = self.inner.call(request);
        Box::pin(async move {
            tokio::time::timeout_at(deadline.instant(), answer).await.unwrap_or_else(|_| {
                metrics::counter!(crate::metric::GRPC_DEADLINE_EXCEEDED_TOTAL).increment(1);
                Ok(Status::from(DeadlinePassed).into_http())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::HeaderValue;
    use tokio::time::{Instant, sleep};
    use tonic::Code;
    use tower::{ServiceExt as _, service_fn};

    use super::*;
    use crate::deadline::GRPC_TIMEOUT;

    async fn work(request: Request<()>) -> Result<Response<Body>, Infallible> {
        let left =
            request.extensions().get::<Deadline>().expect("the handler knows its deadline").remaining();
        assert!(left <= CALL_TIME_MAX, "{left:?}");
        sleep(Duration::from_secs(5)).await;
        Ok(Response::new(Body::empty()))
    }

    async fn call(timeout: Option<&'static str>) -> (Code, Duration) {
        let mut request = Request::new(());
        if let Some(timeout) = timeout {
            request.headers_mut().insert(GRPC_TIMEOUT, HeaderValue::from_static(timeout));
        }
        let begin = Instant::now();
        let answer = DeadlineLayer.layer(service_fn(work)).oneshot(request).await.expect("answered");
        let code = Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code());
        (code, begin.elapsed())
    }

    /// Work ends at the caller's deadline, at ours if that is earlier, and does not begin if no time is left.
    #[tokio::test(start_paused = true)]
    async fn work_ends_with_the_deadline() {
        assert_eq!(call(None).await, (Code::Ok, Duration::from_secs(5)));
        assert_eq!(call(Some("99999999H")).await, (Code::Ok, Duration::from_secs(5)));
        let (code, time) = call(Some("200m")).await;
        assert_eq!(code, Code::DeadlineExceeded);
        assert!(time <= Duration::from_millis(200), "{time:?}");
        assert_eq!(call(Some("0n")).await, (Code::DeadlineExceeded, Duration::ZERO));
        assert_eq!(call(Some("soon")).await, (Code::InvalidArgument, Duration::ZERO));
    }
}
