//! Who is at the other end: SPIFFE ids in short-lived certificates, TLS 1.3 on both sides.
//!
//! - [`Identity`] holds this process's certificate, key and trust roots as two ready configurations that are swapped as a
//!   whole, so that rotation needs no restart.
//! - [`acceptor`] shakes hands and hands the proven [`Peer`] to the handlers; [`connector`] is its twin for clients.
//!
//! tonic's own TLS is not used: it can't change its configuration while it runs, and would bring a second way to do
//! TLS (`docs/adr/0004-own-tls-acceptor.md`).

pub mod acceptor;
pub mod connector;
mod guard;
mod material;
mod peer;
mod socket;

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::material::{Files, Material};
pub use self::{
    material::IdentityError,
    peer::{Peer, PeerError, SpiffeId},
};
pub(crate) use self::{
    material::{Pem, certificates, provider, read},
    socket::tune,
};
pub use crate::reload::Reload;
use crate::{config::IdentityConfig, health::PeriodicTask, metric, reload};

/// This process's identity; clones share it.
#[derive(Debug, Clone)]
pub struct Identity {
    config: Arc<IdentityConfig>,
    current: Arc<ArcSwap<Material>>,
    swapped: Arc<watch::Sender<()>>,
}

impl Identity {
    /// Reads the files; an error names the one that is wrong.
    pub fn load(config: IdentityConfig) -> Result<Self, IdentityError> {
        let material = Material::load(&config, &Files::read(&config)?)?;
        material.publish(None);
        Ok(Self {
            config: Arc::new(config),
            current: Arc::new(ArcSwap::from_pointee(material)),
            swapped: Arc::default(),
        })
    }

    /// Whether a certificate is on the deny list.
    fn denies(&self, serial: &str) -> bool {
        self.current.load().denied.contains(serial)
    }

    /// The configuration for the next connection that is accepted.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.current.load().server.clone()
    }

    /// The configuration for the next connection that is opened.
    #[must_use]
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.current.load().client.clone()
    }

    /// The files that are in use.
    pub(crate) fn pem(&self) -> Arc<Pem> {
        self.current.load().pem.clone()
    }

    /// Changes whenever other files are in use.
    pub(crate) fn swaps(&self) -> watch::Receiver<()> {
        self.swapped.subscribe()
    }

    /// Reads the files again if they have changed. Files that don't fit together are refused, and the old ones stay in
    /// use.
    pub fn reload(&self) -> Result<Reload, IdentityError> {
        let files = Files::read(&self.config)?;
        let current = self.current.load();
        if files.digest() == current.digest {
            return Ok(Reload::Unchanged);
        }
        let material = Material::load(&self.config, &files)?;
        material.publish(Some(&current));
        self.current.store(Arc::new(material));
        self.swapped.send_replace(());
        Ok(Reload::Swapped)
    }

    /// Keeps the configurations up to date with the files until `stop`.
    pub async fn reload_on_change(self, task: PeriodicTask, stop: CancellationToken) {
        let failures = metric::CERTIFICATE_RELOAD_FAILURES_TOTAL;
        reload::reload_on_change("certificate", failures, || self.reload(), task, stop).await;
    }
}
