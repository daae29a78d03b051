//! Limits the body of a request, and drains what no handler has read.
//!
//! A response that is sent while the client still writes its body can get lost: the connection is reset, and the client sees a
//! broken connection instead of its 413 or 401. So the unread rest is read and discarded first, up to a limit.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::header,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::problem::{Problem, ProblemType};

/// Largest body of a request in bytes; a longer one is 413.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Most bytes that are discarded; a client that sends more sees its connection end.
const DRAIN_BYTES_MAX: usize = 1024 * 1024;
/// How long discarding may take.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// Limits the body of every request, whoever reads it, and drains it before the response is sent.
pub(crate) async fn limit(request: Request, next: Next) -> Response {
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<u64>().ok());
    // A client that asks first (`Expect: 100-continue`) has not sent its body yet.
    let sends_unasked = !request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let shared = Shared(Arc::new(Mutex::new(body)));
    let response = if declared.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        Problem::too_large().into_response()
    } else {
        let body = Body::new(Limited::new(shared.clone(), BODY_BYTES_MAX));
        next.run(Request::from_parts(parts, body)).await
    };
    if sends_unasked {
        // If it is too slow or too much, the connection ends with the rest unread.
        let _ = tokio::time::timeout(DRAIN_TIME_MAX, shared.drain()).await;
    }
    response
}

impl Problem {
    /// The body is longer than [`BODY_BYTES_MAX`].
    pub(crate) fn too_large() -> Self {
        Self::new(ProblemType::TooLarge, format!("the body has more than {BODY_BYTES_MAX} bytes"))
    }
}

/// A body that the handler reads and then the middleware drains, never both at once.
#[derive(Clone)]
struct Shared(Arc<Mutex<Body>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn drain(mut self) {
        let mut drained = 0;
        while let Some(Ok(frame)) = self.frame().await {
            drained += frame.data_ref().map_or(0, Bytes::len);
            if drained > DRAIN_BYTES_MAX {
                return;
            }
        }
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.lock()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}
