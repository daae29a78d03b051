//! HTTP/2 to one address, over mutual TLS.

use std::{net::SocketAddr, time::Duration};

use http::Uri;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::identity::{Identity, connector};

/// Ping a connection on which nothing came for 2 s, and drop it 2 s later: a dead peer is found before the next call needs it
/// (pitfalls P28). A middlebox that has forgotten a connection acknowledges what is sent and passes on nothing, so nobody else
/// finds that out, and every call fails until then: attempts that time out leave the connection as it is. Longer than an
/// attempt, so no call is lost that would have been answered in time.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEPALIVE_WAIT_MAX: Duration = Duration::from_secs(2);

/// A channel that connects when it is first used, and again whenever its connection is gone. Each connection uses the
/// certificate of that moment; the server ends connections when they get old ([`crate::grpc`]).
pub(super) fn connect_lazily(address: SocketAddr, name: &str, origin: Uri, identity: &Identity) -> Channel {
    let (name, identity) = (name.to_owned(), identity.clone());
    // `http` although it is TLS: the connector does the TLS, and tonic refuses `https` for connectors as soon as any
    // crate in the build turns on one of its TLS features. `origin` sets the scheme that the server sees.
    let uri = Uri::builder().scheme("http").authority(address.to_string()).path_and_query("/").build();
    let endpoint = Endpoint::from(uri.unwrap_or_default())
        .origin(origin)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_WAIT_MAX)
        .keep_alive_while_idle(true);
    endpoint.connect_with_connector_lazy(service_fn(move |_| {
        let (name, identity) = (name.clone(), identity.clone());
        async move { connector::connect(address, &name, &identity).await }
    }))
}
