//! Makes mutually authenticated connections; each uses the configuration of that moment, so a rotated certificate is
//! used from the next connection on.

use std::{io, net::SocketAddr, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Identity, Peer, guard::Guarded, socket};

/// For the TCP connection. A host on the same network answers within a round trip, or is gone: a connection that is
/// neither accepted nor refused must cost its caller far less than an attempt, so that there is time for another
/// endpoint.
pub(crate) const CONNECT_TIME_MAX: Duration = Duration::from_millis(250);
/// For the handshake of a host that answered; it may be busy.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_millis(750);
/// Both together.
pub(crate) const CONNECTION_TIME_MAX: Duration = CONNECT_TIME_MAX.saturating_add(HANDSHAKE_TIME_MAX);

/// Connects to `address` and checks that its certificate is for the DNS name `name`.
pub(crate) async fn connect(
    address: SocketAddr,
    name: &str,
    identity: &Identity,
) -> io::Result<TokioIo<Guarded<TlsStream<TcpStream>>>> {
    let tcp = connect_tcp(address).await?;
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let handshake = TlsConnector::from(identity.client_config()).connect(name, tcp);
    let io = tokio::time::timeout(HANDSHAKE_TIME_MAX, handshake).await??;
    let peer = Peer::of_session(io.get_ref().1)?;
    Ok(TokioIo::new(Guarded::new(io, peer, identity, ())?))
}

async fn connect_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect(address)).await??;
    socket::tune(&tcp)?;
    Ok(tcp)
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};
    use tokio::time::Instant;

    use super::*;

    /// A host that neither accepts nor refuses a connection costs 250 ms.
    #[tokio::test]
    async fn a_host_that_is_gone_costs_a_quarter_of_a_second() {
        // A socket whose queue of connections is full drops new ones, like a host that is gone.
        let black_hole = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        black_hole.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
        black_hole.listen(0).expect("listens");
        let address = black_hole.local_addr().expect("bound").as_socket().expect("an address");
        let mut queued = Vec::new();
        let refused = loop {
            let begin = Instant::now();
            match connect_tcp(address).await {
                Ok(stream) => queued.push(stream),
                Err(error) => break (error.kind(), begin.elapsed()),
            }
            assert!(queued.len() < 64, "the queue has an end");
        };
        assert!(!queued.is_empty(), "one fits");
        // The kernel itself would try for two minutes.
        assert_eq!(refused.0, io::ErrorKind::TimedOut);
        assert!((CONNECT_TIME_MAX..Duration::from_secs(30)).contains(&refused.1), "{refused:?}");
    }
}
