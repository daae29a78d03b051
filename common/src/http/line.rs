//! A connection's bytes, for one run of the HTTP library after the other: the library keeps 16 KiB of buffers for as long as it serves
//! a connection, so one that waits for its next request is taken from it, and given back with the request's first byte.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::Guard;

/// See the module; clones are the same connection.
#[derive(Debug)]
pub(super) struct Line<S>(Arc<Mutex<Guard<S>>>);

impl<S> Clone for Line<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Line<S> {
    pub(super) fn new(guard: Guard<S>) -> Self {
        Self(Arc::new(Mutex::new(guard)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Guard<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncRead + Unpin> Line<S> {
    /// Waits for the first bytes of a request; `false` if there will be none.
    pub(super) async fn is_readable(&self) -> bool {
        poll_fn(|cx| self.lock().poll_readable(cx)).await
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(cx)
    }
}
