//! A connection that ends when its peer's certificate is revoked.
//!
//! Handshakes alone would let a connection that is open live on for minutes. Both ends ping every 10 s
//! (`KEEPALIVE_EVERY` of the two columns), so an idle one reads that often too.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Identity, Peer};

/// See the module.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    io: S,
    serial: Arc<str>,
    identity: Identity,
}

impl<S> Guarded<S> {
    /// A connection that shook hands; refused if the peer's certificate is on the deny list.
    pub(super) fn new(io: S, peer: &Peer, identity: &Identity) -> io::Result<Self> {
        let guarded = Self { io, serial: peer.serial.clone(), identity: identity.clone() };
        guarded.check()?;
        Ok(guarded)
    }

    fn check(&self) -> io::Result<()> {
        if self.identity.denies(&self.serial) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "peer's certificate is revoked"));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
