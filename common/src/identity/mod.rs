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

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};
use tokio_util::sync::CancellationToken;

use self::material::{Files, Material};
pub use self::{
    material::IdentityError,
    peer::{Peer, PeerError, SpiffeId},
};
use crate::{config::IdentityConfig, error::chain, health::PeriodicTask};

/// How often the files are compared with what is in use. Content is compared rather than times or inode events,
/// because secret managers swap symbolic links, and a watcher misses the second swap (pitfalls P30).
const RELOAD_EVERY: Duration = Duration::from_secs(2);

/// Certificates are renewed hours before they expire, but a revocation must be taken soon.
pub const RELOAD_SUCCESS_EVERY_MAX: Duration = Duration::from_secs(15);
/// Time that a writer takes between two files that belong together.
const TORN_TIME_MAX: Duration = Duration::from_millis(100);

/// This process's identity; clones share it.
#[derive(Debug, Clone)]
pub struct Identity {
    config: Arc<IdentityConfig>,
    current: Arc<ArcSwap<Material>>,
}

impl Identity {
    /// Reads the files; an error names the one that is wrong.
    pub fn load(config: IdentityConfig) -> Result<Self, IdentityError> {
        let material = Material::load(&config, &Files::read(&config)?)?;
        material.publish(None);
        Ok(Self { config: Arc::new(config), current: Arc::new(ArcSwap::from_pointee(material)) })
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

    /// The configuration for the next connection that is made.
    #[must_use]
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.current.load().client.clone()
    }

    /// Takes the files again if they changed. What doesn't fit together is refused and the old stays in use.
    pub fn reload(&self) -> Result<Reload, IdentityError> {
        let files = Files::read(&self.config)?;
        let current = self.current.load();
        if files.digest() == current.digest {
            return Ok(Reload::Unchanged);
        }
        let material = Material::load(&self.config, &files)?;
        material.publish(Some(&current));
        self.current.store(Arc::new(material));
        Ok(Reload::Swapped)
    }

    /// Keeps the configurations in step with the files until `stop`.
    pub async fn reload_on_change(self, task: PeriodicTask, stop: CancellationToken) {
        let mut tick = tokio::time::interval(RELOAD_EVERY);
        let mut refused = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let mut reloaded = self.reload();
            if reloaded.is_err() {
                // Perhaps read between the writes of two files that belong together.
                tokio::time::sleep(TORN_TIME_MAX).await;
                reloaded = self.reload();
            }
            match reloaded {
                Ok(Reload::Unchanged) => {
                    task.succeeded();
                    refused = None;
                }
                Ok(Reload::Swapped) => {
                    task.succeeded();
                    refused = None;
                    tracing::info!("certificate reloaded");
                }
                Err(error) => {
                    // Said once per mistake, counted each time.
                    metrics::counter!(crate::metric::CERTIFICATE_RELOAD_FAILURES_TOTAL).increment(1);
                    let text = chain(&error);
                    task.failed(text.as_str());
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
