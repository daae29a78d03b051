//! Makes mutually authenticated connections; the configuration is read anew for each, so a rotated certificate is
//! used from the next connection on.

use std::{io, net::SocketAddr, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Identity, Peer, guard::Guarded, socket};

/// For TCP and TLS together; a peer on the same network answers within milliseconds or not at all.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// Connects to `address` and checks that its certificate is for the DNS name `name`.
pub(crate) async fn connect(
    address: SocketAddr,
    name: &str,
    identity: &Identity,
) -> io::Result<TokioIo<Guarded<TlsStream<TcpStream>>>> {
    let handshake = async {
        let tcp = TcpStream::connect(address).await?;
        socket::tune(&tcp)?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(identity.client_config()).connect(name, tcp).await
    };
    let io = tokio::time::timeout(CONNECT_TIME_MAX, handshake).await??;
    let peer = Peer::of_session(io.get_ref().1)?;
    Ok(TokioIo::new(Guarded::new(io, peer, identity, ())?))
}
