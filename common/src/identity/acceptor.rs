//! Accepts connections, shakes hands, and yields only those whose peer proved an identity.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{Identity, Peer, guard::Guarded, socket};
use crate::service::chain;

/// A peer that takes longer is dropped, so that slow or silent connections can't pile up.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// Handshakes at a time; the next ones wait in the kernel's backlog.
const HANDSHAKES_MAX: usize = 256;
/// Connections at a time, handshakes included. Further ones wait in the kernel's backlog until others end: a client that
/// opens connections without end hurts itself before it takes our memory and file descriptors.
const CONNECTIONS_MAX: usize = 1024;
/// Connections that shook hands and wait for the server to take them; when full, handshakes wait.
const ACCEPTED_MAX: usize = 64;

/// A connection that knows its peer, and holds its place among [`CONNECTIONS_MAX`].
pub type PeerStream = Guarded<TlsStream<TcpStream>, OwnedSemaphorePermit>;

/// Accepts on `listener` until `stop`.
pub fn accept(
    listener: TcpListener,
    identity: Identity,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<PeerStream>> {
    let (accepted, stream) = mpsc::channel(ACCEPTED_MAX);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::spawn(async move {
        loop {
            // The semaphores are never closed.
            let Ok(handshake) = handshakes.clone().acquire_owned().await else { return };
            let Ok(slot) = connections.clone().acquire_owned().await else { return };
            let tcp = tokio::select! {
                () = stop.cancelled() => return,
                () = accepted.closed() => return,
                tcp = listener.accept() => tcp,
            };
            let tcp = match tcp {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    // Mostly: no file descriptors left. They come back when connections close.
                    tracing::warn!(error = chain(&error), "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // A task of its own for each handshake: one slow peer must not hold up the others.
            let (accepted, identity) = (accepted.clone(), identity.clone());
            tokio::spawn(async move {
                match shake_hands(tcp, &identity, slot).await {
                    Ok(stream) => {
                        // Fails only when the server is gone, and the connection with it.
                        let _ = accepted.send(Ok(stream)).await;
                    }
                    Err(error) => {
                        metrics::counter!("tls_handshake_failures_total").increment(1);
                        tracing::info!(error = chain(&error), "connection refused in the handshake");
                    }
                }
                drop(handshake);
            });
        }
    });
    ReceiverStream::new(stream)
}

async fn shake_hands(
    tcp: TcpStream,
    identity: &Identity,
    slot: OwnedSemaphorePermit,
) -> io::Result<PeerStream> {
    socket::tune(&tcp)?;
    let acceptor = TlsAcceptor::from(identity.server_config());
    let io = tokio::time::timeout(HANDSHAKE_TIME_MAX, acceptor.accept(tcp)).await??;
    let (_, session) = io.get_ref();
    if session.alpn_protocol() != Some(b"h2") {
        return Err(io::Error::other("peer does not speak HTTP/2"));
    }
    let peer = Peer::of_session(session)?;
    Guarded::new(io, peer, identity, slot)
}
