//! Accepts connections, shakes hands, and yields only those whose peer proved an identity.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::AbortHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{Identity, Peer, guard::Guarded, socket};
use crate::error::chain;

/// A peer that takes longer is dropped, so that slow or silent connections can't pile up.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_millis(1_500);
/// Handshakes at a time. When there are more, the oldest one of the address that has most of them is dropped: a working
/// peer is done within milliseconds, so an old handshake is a silent one, and new ones never wait behind it.
const HANDSHAKES_MAX: usize = 256;
/// Connections at a time, handshakes included. Further ones wait in the kernel's backlog until others end: a client
/// that keeps opening connections blocks itself before it exhausts our memory and file descriptors.
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
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::spawn(async move {
        let mut handshakes = Handshakes::default();
        loop {
            // The semaphore is never closed, and has more places than there are handshakes.
            let Ok(slot) = connections.clone().acquire_owned().await else { return };
            let tcp = tokio::select! {
                () = stop.cancelled() => return,
                () = accepted.closed() => return,
                tcp = listener.accept() => tcp,
            };
            let (tcp, address) = match tcp {
                Ok((tcp, address)) => (tcp, address.ip()),
                Err(error) => {
                    // Most likely no file descriptors are left. Closing connections return theirs.
                    tracing::warn!(error = chain(&error), "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // A task of its own for each handshake: one slow peer must not hold up the others.
            let (accepted, identity) = (accepted.clone(), identity.clone());
            let handshake = tokio::spawn(async move {
                match shake_hands(tcp, &identity, slot).await {
                    Ok(stream) => {
                        // Fails only when the server is gone, and the connection with it.
                        let _ = accepted.send(Ok(stream)).await;
                    }
                    Err(error) => {
                        metrics::counter!(crate::metric::TLS_HANDSHAKE_FAILURES_TOTAL).increment(1);
                        tracing::info!(error = chain(&error), "connection refused in the handshake");
                    }
                }
            });
            handshakes.push(address, handshake.abort_handle());
        }
    });
    ReceiverStream::new(stream)
}

/// Handshakes in progress, oldest first.
#[derive(Default)]
struct Handshakes(VecDeque<(IpAddr, AbortHandle)>);

impl Handshakes {
    fn push(&mut self, address: IpAddr, handshake: AbortHandle) {
        self.0.retain(|(_, handshake)| !handshake.is_finished());
        if self.0.len() >= HANDSHAKES_MAX {
            let mut counts: HashMap<IpAddr, usize> = HashMap::new();
            for (address, _) in &self.0 {
                *counts.entry(*address).or_default() += 1;
            }
            let crowd = counts.into_iter().max_by_key(|(_, count)| *count).map(|(address, _)| address);
            let oldest = self.0.iter().position(|(address, _)| Some(*address) == crowd);
            if let Some((_, silent)) = oldest.and_then(|oldest| self.0.remove(oldest)) {
                silent.abort();
                metrics::counter!(crate::metric::TLS_HANDSHAKES_DROPPED_TOTAL).increment(1);
            }
        }
        self.0.push_back((address, handshake));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A crowd of silent peers loses its own oldest handshake, never somebody else's.
    #[tokio::test]
    async fn a_crowd_drops_its_own_oldest() {
        let (crowd, neighbour) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let silent = || tokio::spawn(std::future::pending::<()>());
        let mut handshakes = Handshakes::default();
        let first = silent();
        handshakes.push(neighbour, first.abort_handle());
        let others: Vec<_> = (0..HANDSHAKES_MAX + 9)
            .map(|_| {
                let handshake = silent();
                handshakes.push(crowd, handshake.abort_handle());
                handshake
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(handshakes.0.len(), HANDSHAKES_MAX);
        assert!(!first.is_finished());
        assert!(others[..10].iter().all(tokio::task::JoinHandle::is_finished));
        assert!(!others[10..].iter().any(tokio::task::JoinHandle::is_finished));
    }
}
