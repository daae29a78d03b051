//! A span for each call, with all its attempts and pauses, below the one whose context the call brings.
//!
//! Below it is a span for each attempt that got no answer, with the address that it was made at. One that was answered has none: it would
//! say the same as the span of the call.

use std::{
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::{
    grpc::code_name,
    trace::{self, Kind, Span, SpanUntilDropped, TraceContext},
};

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct TraceLayer {
    /// The DNS name of the service that is called.
    pub(super) destination: Arc<str>,
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
    destination: Arc<str>,
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
        let method = method_of(&request).to_owned();
        span.rename(method.clone());
        span.set("rpc.system.name", || "grpc");
        span.set("rpc.method", || method);
        span.set("server.address", || self.destination.to_string());
        if let Some(context) = span.context() {
            context.write(request.headers_mut());
        }
        let span = SpanUntilDropped::new(span);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
            span.finish(|span| answered(span, code));
            answer
        })
    }
}

fn method_of<B>(request: &Request<B>) -> &str {
    request.uri().path().trim_start_matches('/')
}

/// Whatever is not an answer is an error to the one who called.
pub(super) fn answered(span: &mut Span, code: Code) {
    span.set("rpc.response.status_code", || code_name(code));
    if code != Code::Ok {
        span.fail(code_name(code));
    }
}

/// The span of an attempt at one address, to be forgotten if it is answered.
pub(super) fn attempt<B>(request: &Request<B>, address: SocketAddr) -> SpanUntilDropped {
    let call = if trace::is_on() { TraceContext::of_headers(request.headers()) } else { None };
    let mut span = Span::below(call, Kind::Client, "");
    if span.is_recorded() {
        let method = method_of(request).to_owned();
        span.rename(format!("attempt {method}"));
        span.set("rpc.system.name", || "grpc");
        span.set("rpc.method", || method);
        span.set("server.address", || address.ip().to_string());
        span.set("server.port", || i64::from(address.port()));
    }
    SpanUntilDropped::new(span)
}
