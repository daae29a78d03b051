//! One request and its answer, from the head to the last byte that the HTTP library took.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::watch::Watch;

/// Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Exchange {
    watch: Arc<Watch>,
    id: u64,
}

impl Exchange {
    pub(super) fn begin(watch: Arc<Watch>, began: Instant) -> Self {
        let id = watch.begin(began);
        Self { watch, id }
    }

    pub(super) fn long_lived(&self) {
        self.watch.long_lived(self.id);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.watch.end(self.id, Instant::now());
    }
}

/// The body of an answer, which writes down when the HTTP library waits for the client with it.
#[derive(Debug)]
pub(super) struct Watched<B> {
    body: B,
    exchange: Exchange,
}

impl<B> Watched<B> {
    pub(super) const fn new(body: B, exchange: Exchange) -> Self {
        Self { body, exchange }
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let id = self.exchange.id;
        self.exchange.watch.asked(id);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_some() {
            self.exchange.watch.handed_over(id, Instant::now());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
