//! The outermost layer: a whole call, with all its attempts and pauses, ends at its deadline.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::deadline::{CALL_TIME_MAX, Deadline, DeadlinePassed, grpc_timeout};

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

impl<S> Service<Request<Body>> for WithDeadline<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Status>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let given = request.extensions().get::<Deadline>().copied();
        let deadline = given.unwrap_or_else(|| {
            // `tonic::Request::set_timeout` writes it into the head.
            let time = grpc_timeout(request.headers()).ok().flatten();
            Deadline::after(time.unwrap_or(CALL_TIME_MAX))
        });
        request.extensions_mut().insert(deadline);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = tokio::time::timeout_at(deadline.instant(), answer).await;
            answer.unwrap_or_else(|_| Err(DeadlinePassed.into()))
        })
    }
}
