//! Every replica of a destination by itself, for what one of them can't answer for the others: a stream of what each of
//! them does. Nothing is balanced or repeated here; whoever reads such a stream opens it again.

use std::{collections::BTreeSet, net::SocketAddr};

use tokio::sync::watch;
use tonic::transport::Channel;

use super::{Addresses, DestinationConfig, channel, resolve};
use crate::{error::BoxError, identity::Identity};

/// The replicas of a service.
#[derive(Debug, Clone)]
pub struct Replicas {
    name: String,
    origin: http::Uri,
    identity: Identity,
    addresses: watch::Receiver<BTreeSet<SocketAddr>>,
}

impl Replicas {
    /// Prepares them. Nothing is connected; the addresses are resolved again and again for as long as this lives.
    pub fn new(
        where_they_are: &Addresses,
        config: &DestinationConfig,
        identity: &Identity,
    ) -> Result<Self, BoxError> {
        let (known, addresses) = watch::channel(BTreeSet::new());
        tokio::spawn(resolve::publish_addresses(config.name.clone(), where_they_are.follow(), known));
        Ok(Self {
            name: config.name.clone(),
            origin: config.origin()?,
            identity: identity.clone(),
            addresses,
        })
    }

    /// Where they are; none until the name is resolved for the first time.
    #[must_use]
    pub fn addresses(&self) -> watch::Receiver<BTreeSet<SocketAddr>> {
        self.addresses.clone()
    }

    /// A connection of its own to one of them, made when it is first used, with keepalive: a peer that is gone or hangs is
    /// found within 4 s.
    #[must_use]
    pub fn connect(&self, address: SocketAddr) -> Channel {
        channel::connect_lazily(address, &self.name, self.origin.clone(), &self.identity)
    }
}
