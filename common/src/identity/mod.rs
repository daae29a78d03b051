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
mod material;
mod peer;
mod socket;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};
use tokio_util::sync::CancellationToken;

use self::material::Material;
pub use self::{
    material::IdentityError,
    peer::{Peer, PeerError, SpiffeId, TRUST_DOMAIN},
};
use crate::{config::IdentityConfig, service::chain};

/// How often the files are compared with what is in use. Content is compared rather than times or inode events,
/// because secret managers swap symbolic links, and a watcher misses the second swap (pitfalls P30).
const RELOAD_EVERY: Duration = Duration::from_secs(2);

/// This process's identity; clones share it.
#[derive(Debug, Clone)]
pub struct Identity {
    files: Arc<IdentityConfig>,
    current: Arc<ArcSwap<Material>>,
}

impl Identity {
    /// Reads the files; an error names the one that is wrong.
    pub fn load(files: IdentityConfig) -> Result<Self, IdentityError> {
        let material = Material::load(&files)?;
        material.publish();
        Ok(Self { files: Arc::new(files), current: Arc::new(ArcSwap::from_pointee(material)) })
    }

    /// The configuration for the next connection that is accepted.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.current.load().server.clone()
    }

    /// The configuration for the next connection that is made.
    #[must_use]
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.current.load().client.clone()
    }

    /// Takes the files again if they changed. What doesn't fit together is refused and the old stays in use.
    pub fn reload(&self) -> Result<Reload, IdentityError> {
        if Material::fingerprint(&self.files)? == self.current.load().fingerprint {
            return Ok(Reload::Unchanged);
        }
        let material = Material::load(&self.files)?;
        material.publish();
        self.current.store(Arc::new(material));
        Ok(Reload::Swapped)
    }

    /// Keeps the configurations in step with the files until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(RELOAD_EVERY);
        let mut refused = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            match self.reload() {
                Ok(Reload::Unchanged) => {}
                Ok(Reload::Swapped) => {
                    refused = None;
                    tracing::info!("certificate reloaded");
                }
                Err(error) => {
                    // Said once per mistake, counted each time.
                    metrics::counter!("certificate_reload_failures_total").increment(1);
                    let text = chain(&error);
                    if refused.as_ref() != Some(&text) {
                        tracing::error!(error = text, "certificate files refused, the old certificate stays");
                        refused = Some(text);
                    }
                }
            }
        }
    }
}

/// What a reload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// The files are those in use.
    Unchanged,
    /// New files are in use for connections from now on.
    Swapped,
}
