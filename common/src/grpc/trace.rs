//! A span for each call that is handled, below the caller's. The handler finds its context where the caller's was.
//!
//! A call without a trace begins one only if it is an operator's: what a redrive causes belongs to a trace of its own, days after
//! the one that its letters come from. Everything else that has none, such as health checks, is nobody's trace.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use holdfast_proto::OPERATORS;
use http::{Request, Response};
use tonic::{Code, body::Body};
use tower::{Layer, Service};

use super::{code_name, code_of, is_our_fault};
use crate::{
    identity::Peer,
    trace::{self, Kind, Span, SpanUntilDropped, TraceContext, within},
};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct TraceLayer;

impl<S> Layer<S> for TraceLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Traced { inner }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Traced<S> {
    inner: S,
}

fn begin<B>(request: &Request<B>) -> Span {
    if let Some(caller) = TraceContext::of_headers(request.headers()) {
        return Span::below(Some(caller), Kind::Server, "");
    }
    let peer = request.extensions().get::<Peer>();
    if peer.is_some_and(|peer| OPERATORS.contains(&peer.id.name())) {
        Span::root(trace::begin(), Kind::Server, "")
    } else {
        Span::below(None, Kind::Server, "")
    }
}

impl<S, B> Service<Request<B>> for Traced<S>
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
        let mut span = begin(&request);
        if !span.is_recorded() {
            return Box::pin(within(span.context(), self.inner.call(request)));
        }
        let method = request.uri().path().trim_start_matches('/').to_owned();
        span.rename(method.clone());
        span.set("rpc.system.name", || "grpc");
        span.set("rpc.method", || method);
        if let Some(context) = span.context() {
            context.write(request.headers_mut());
        }
        let context = span.context();
        let span = SpanUntilDropped::new(span);
        let answer = within(context, self.inner.call(request));
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or(Code::Internal, code_of);
            span.finish(|span| {
                span.set("rpc.response.status_code", || code_name(code));
                if is_our_fault(code) {
                    span.fail(code_name(code));
                }
            });
            answer
        })
    }
}
