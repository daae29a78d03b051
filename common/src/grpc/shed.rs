//! Refuses calls that would only wait: a service that is full says so at once, and asks the client to come back a
//! moment later, perhaps to another replica.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::{Status, body::Body, metadata::MetadataValue};
use tower::{Layer, Service};

use super::{HEALTH_SERVICE, service_of};
use crate::client::PUSHBACK_MS;

/// Calls in hand, over all connections. A call holds a database connection for milliseconds and there are ten of them,
/// so what comes behind this many would be answered after its caller's patience is over.
const CALLS_MAX: usize = 512;
/// The pause that a refused client is asked for: from here on, up to twice as long, so that they don't come back at once.
const PUSHBACK_MS_MIN: u64 = 50;

/// See the module. One for all connections.
#[derive(Debug, Clone)]
pub(super) struct ShedLayer {
    slots: Arc<Semaphore>,
}

impl Default for ShedLayer {
    fn default() -> Self {
        Self { slots: Arc::new(Semaphore::new(CALLS_MAX)) }
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = Shed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Shed { inner, slots: self.slots.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Shed<S> {
    inner: S,
    slots: Arc<Semaphore>,
}

impl<S, B> Service<Request<B>> for Shed<S>
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if service_of(request.uri().path()) == Some(HEALTH_SERVICE) {
            return Box::pin(self.inner.call(request));
        }
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            metrics::counter!("grpc_calls_shed_total").increment(1);
            return Box::pin(std::future::ready(Ok(full().into_http())));
        };
        metrics::counter!("grpc_calls_total").increment(1);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(slot);
            answer
        })
    }
}

/// `RESOURCE_EXHAUSTED` with a pause: no breaker counts it, and a retry waits.
fn full() -> Status {
    let mut status = Status::resource_exhausted("service is full");
    let pause = PUSHBACK_MS_MIN + fastrand::u64(..PUSHBACK_MS_MIN);
    status.metadata_mut().insert(PUSHBACK_MS, MetadataValue::from(pause));
    status
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic::Code;
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    fn call(path: &str) -> Request<()> {
        Request::get(path).body(()).expect("a request")
    }

    fn code(answer: &Response<Body>) -> Code {
        Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
    }

    /// The call behind the last free place is refused at once with a pause, health is answered all the same, and a
    /// caller that goes away gives its place back.
    #[tokio::test]
    async fn a_full_service_says_so_at_once() {
        let layer = ShedLayer::default();
        let waiting =
            layer.layer(service_fn(|_: Request<()>| std::future::pending::<Result<_, Infallible>>()));
        let quick =
            layer.layer(service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(Body::empty()))));
        let mut calls: Vec<_> =
            (0..CALLS_MAX).map(|_| tokio_test_poll(waiting.clone().oneshot(call("/s/m")))).collect();
        let refused = quick.clone().oneshot(call("/s/m")).await.expect("answered");
        assert_eq!(code(&refused), Code::ResourceExhausted);
        let pause = refused.headers().get(PUSHBACK_MS).expect("a pause").to_str().expect("a number");
        assert!((50..100).contains(&pause.parse::<u64>().expect("a number")), "{pause}");
        let health = quick.clone().oneshot(call("/grpc.health.v1.Health/Check")).await.expect("answered");
        assert_eq!(code(&health), Code::Ok);
        calls.pop();
        assert_eq!(code(&quick.oneshot(call("/s/m")).await.expect("answered")), Code::Ok);
    }

    /// Begins a future and holds it.
    fn tokio_test_poll<F: Future + Send + 'static>(future: F) -> std::pin::Pin<Box<F>> {
        let mut future = Box::pin(future);
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(future.as_mut().poll(&mut context).is_pending());
        future
    }
}
