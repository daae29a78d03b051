//! The client column of every call: deadline > (retry > balance > breaker > attempt timeout, next to come) > mTLS
//! channel with keepalive.
//!
//! A [`Destination`] is made once per service and cloned into generated clients. Each call carries what is left of the
//! request's [`Deadline`], and each failure that isn't the service's own answer becomes `UNAVAILABLE` or
//! `DEADLINE_EXCEEDED` ([`failure`]), so callers look at codes only.

mod deadline;
mod failure;

use std::time::Duration;

use serde::Deserialize;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

pub use self::{
    deadline::{Deadline, DeadlinePassed},
    failure::from_service,
};
use crate::{identity::Identity, identity::connector, service::BoxError};

/// Where a service is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationConfig {
    /// `host:port`.
    pub address: String,
    /// The DNS name in its certificate.
    pub name: String,
}

/// A service that can be called; clones share the connection.
pub type Destination = Channel;

/// Ping an idle connection after 10 s and drop it 5 s later: a dead peer is found before the next call needs it
/// (pitfalls P28).
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Prepares a destination. Nothing is connected before the first call, so start needs no order.
pub fn destination(config: &DestinationConfig, identity: &Identity) -> Result<Destination, BoxError> {
    let (address, name, identity) = (config.address.clone(), config.name.clone(), identity.clone());
    // `http` although it is TLS: the connector does the TLS, and tonic refuses `https` for connectors as soon as any
    // crate in the build turns on one of its TLS features. `origin` sets the scheme that the server sees.
    let endpoint = Endpoint::from_shared(format!("http://{}", config.address))?
        .origin(format!("https://{}", config.name).parse()?)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_WAIT_MAX)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector_lazy(service_fn(move |_| {
        let (address, name, identity) = (address.clone(), name.clone(), identity.clone());
        async move { connector::connect(&address, &name, &identity).await }
    })))
}
