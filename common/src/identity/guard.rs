//! A connection that ends when its peer's certificate is revoked.
//!
//! If only handshakes were checked, an open connection could live on for minutes. Both ends ping every 10 s
//! (`KEEPALIVE_EVERY` of the two columns), so an idle one reads that often too.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::{Identity, Peer};

/// See the module.
#[derive(Debug)]
pub struct Guarded<S, H = ()> {
    io: S,
    peer: Peer,
    identity: Identity,
    /// Dropped when the connection ends.
    _held: H,
}

impl<S, H> Guarded<S, H> {
    /// A connection that shook hands with `peer`; refused if the peer's certificate is on the deny list. `held` lives
    /// as long as the connection.
    pub(super) fn new(io: S, peer: Peer, identity: &Identity, held: H) -> io::Result<Self> {
        let guarded = Self { io, peer, identity: identity.clone(), _held: held };
        guarded.check()?;
        Ok(guarded)
    }

    fn check(&self) -> io::Result<()> {
        if self.identity.denies(&self.peer.serial) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "peer's certificate is revoked"));
        }
        Ok(())
    }
}

impl<S, H> Connected for Guarded<S, H> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin, H: Unpin> AsyncRead for Guarded<S, H> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin, H: Unpin> AsyncWrite for Guarded<S, H> {
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
