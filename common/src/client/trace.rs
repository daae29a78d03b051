//! A span for each call, with all its attempts and pauses, below the one whose context the call brings.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::{
    grpc::code_name,
    trace::{Kind, Span, SpanUntilDropped, TraceContext},
};

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct TraceLayer {
    /// The DNS name of the service that is called.
    pub(super) destination: String,
}

impl<S> Layer<S> for TraceLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Traced { inner, destination: self.destination.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Traced<S> {
    inner: S,
    destination: String,
}

impl<S> Service<Request<Body>> for Traced<S>
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
        let mut span = Span::below(TraceContext::of_headers(request.headers()), Kind::Client, "");
        if !span.is_recorded() {
            return Box::pin(self.inner.call(request));
        }
        let method = request.uri().path().trim_start_matches('/').to_owned();
        span.rename(method.clone());
        span.set("rpc.system.name", || "grpc");
        span.set("rpc.method", || method);
        span.set("server.address", || self.destination.clone());
        if let Some(context) = span.context() {
            context.write(request.headers_mut());
        }
        let span = SpanUntilDropped::new(span);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
            span.finish(|span| {
                span.set("rpc.response.status_code", || code_name(code));
                // Whatever is not an answer is an error to the one who called.
                if code != tonic::Code::Ok {
                    span.fail(code_name(code));
                }
            });
            answer
        })
    }
}
