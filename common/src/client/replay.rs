//! Makes it possible to send the message of an idempotent call twice.
//!
//! `tonic::body::Body` is not `Clone`, so a retry on top of it silently never happens (pitfalls P7). The message of a
//! unary call is small: it is read into memory once, and attempts share it. Everything else passes through as it is,
//! once.

use std::{
    pin::Pin,
    sync::{Arc, atomic::AtomicU64},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, Limited};
use tonic::{GrpcMethod, Status, body::Body};
use tower::{Layer, Service};

/// Which endpoint the attempts of a call went to, for the balancer; clones of a request share it. It is added here,
/// where a call becomes attempts.
#[derive(Debug, Clone, Default)]
pub(super) struct Attempts {
    pub(super) last: Arc<AtomicU64>,
}

/// Which calls may be sent again: whether a method of a service is unary and idempotent.
pub type IsIdempotent = fn(&str, &str) -> bool;

/// Largest message of a call that may be retried; far above any of ours. A larger one is the caller's error.
const REPLAY_BYTES_MAX: usize = 1024 * 1024;

/// A request body: a message that can be sent again, or a stream that can't.
#[derive(Debug)]
pub(super) enum Message {
    /// One message in memory; the call is unary and idempotent.
    Replayable(Full<Bytes>),
    /// Sent once.
    Once(Body),
}

impl Message {
    /// The same message for another attempt.
    pub(super) fn replay(&self) -> Option<Self> {
        match self {
            Self::Replayable(bytes) => Some(Self::Replayable(bytes.clone())),
            Self::Once(_) => None,
        }
    }
}

impl http_body::Body for Message {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.get_mut() {
            Self::Replayable(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Once(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Replayable(body) => body.is_end_stream(),
            Self::Once(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Replayable(body) => body.size_hint(),
            Self::Once(body) => body.size_hint(),
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct ReplayLayer {
    pub(super) is_idempotent: IsIdempotent,
}

impl<S> Layer<S> for ReplayLayer {
    type Service = Replay<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Replay { inner, is_idempotent: self.is_idempotent }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Replay<S> {
    inner: S,
    is_idempotent: IsIdempotent,
}

impl<S> Service<Request<Body>> for Replay<S>
where
    S: Service<Request<Message>, Response = Response<Body>, Error = Status> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Call the instance that was polled ready, not the clone.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        // Generated clients leave the name of the method in the extensions.
        let method = request.extensions().get::<GrpcMethod<'static>>();
        let idempotent = method.is_some_and(|method| (self.is_idempotent)(method.service(), method.method()));
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            parts.extensions.insert(Attempts::default());
            let body = if idempotent {
                let message = Limited::new(body, REPLAY_BYTES_MAX).collect().await;
                let message = message.map_err(|error| Status::out_of_range(error.to_string()))?;
                Message::Replayable(Full::new(message.to_bytes()))
            } else {
                Message::Once(body)
            };
            inner.call(Request::from_parts(parts, body)).await
        })
    }
}
