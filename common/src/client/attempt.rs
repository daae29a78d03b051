//! One attempt at one endpoint: bounded in time, settled as a whole, and every failure gets a code that callers can act
//! on.

use std::{
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::{Service, ServiceExt as _};

use super::{breaker::CutShort, failure, replay::Message, trace};
use crate::{
    deadline::{Deadline, DeadlinePassed, set_grpc_timeout},
    error::BoxError,
};

/// An attempt that has less time than this before the deadline is no evidence against its endpoint.
const FAIR_TIME_MIN: Duration = Duration::from_millis(100);
/// Largest answer to a unary call: a dead letter with its record, an edited one and its history.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Attempt<S> {
    pub(super) inner: S,
    pub(super) time_max: Duration,
    /// Where `inner` leads, for its spans.
    pub(super) address: SocketAddr,
}

impl<S> Service<Request<Message>> for Attempt<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<BoxError> + Send,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    /// Waiting for a connection is part of the attempt, so it is always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Message>) -> Self::Future {
        let (inner, time_max) = (self.inner.clone(), self.time_max);
        let span = trace::attempt(&request, self.address);
        Box::pin(async move {
            let begin = Instant::now();
            let deadline = request.extensions().get::<Deadline>().copied();
            let own = begin + time_max;
            let end = deadline.map_or(own, |deadline| deadline.instant().min(own));
            let answer = tokio::time::timeout_at(end, send(inner, request, end - begin)).await;
            let answer = match answer.unwrap_or_else(|_| Err(DeadlinePassed.into())) {
                // This attempt has timed out, whichever end noticed first; the next one may still succeed.
                Err(status) if status.code() == Code::DeadlineExceeded && end == own => {
                    Err(Status::unavailable("no answer within the time of an attempt"))
                }
                Err(mut status) if status.code() == Code::DeadlineExceeded && end - begin < FAIR_TIME_MIN => {
                    status.set_source(Arc::new(CutShort));
                    Err(status)
                }
                answer => answer,
            };
            match &answer {
                Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {
                    span.finish(|span| trace::answered(span, status.code()));
                }
                _ => span.forget(),
            }
            answer
        })
    }
}

async fn send<S>(inner: S, mut request: Request<Message>, time: Duration) -> Result<Response<Body>, Status>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: Into<BoxError>,
{
    // What is left now: the deadline shrinks from attempt to attempt and from hop to hop.
    set_grpc_timeout(request.headers_mut(), time);
    let unary = matches!(request.body(), Message::Replayable(_));
    let answer = inner.oneshot(request.map(Body::new)).await;
    let response = answer.map_err(|error| failure::of_transport(error.into()))?;
    // A call that failed without a message is a response whose head holds the status.
    refused(response.headers())?;
    if unary { settle(response).await } else { Ok(response) }
}

/// Reads a unary answer to its end, so that a connection that breaks in the middle and a status in the trailers
/// (pitfalls P8) are seen here, where they can be counted and retried, and not by the caller.
async fn settle(response: Response<Body>) -> Result<Response<Body>, Status> {
    let (parts, body) = response.into_parts();
    let answer = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(failure::of_transport)?;
    let trailers = answer.trailers().cloned();
    refused(trailers.as_ref().unwrap_or(&parts.headers))?;
    let message = answer.to_bytes();
    let frames = [Frame::data(message)].into_iter().chain(trailers.map(Frame::trailers));
    let frames = stream::iter(frames).map(Ok::<Frame<Bytes>, Status>);
    Ok(Response::from_parts(parts, Body::new(StreamBody::new(frames))))
}

fn refused(headers: &HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(()),
    }
}
