//! TLS towards clients, who need no certificate of their own: TLS 1.3, HTTP/2 or HTTP/1.1. The certificate changes with its files,
//! without a restart.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{self, SHA256};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
    version::TLS13,
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::{
    health::PeriodicTask,
    identity::{IdentityError, certificates, provider, read},
    metric,
    reload::{self, Reload},
};

/// The files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file of the certificate chain, leaf first.
    pub certificate: PathBuf,
    /// PEM file of the private key of the leaf.
    pub key: PathBuf,
}

/// Certificate and key of a port; clones share them.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<TlsConfig>,
    current: Arc<ArcSwap<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    server: Arc<ServerConfig>,
    digest: Vec<u8>,
}

impl Loaded {
    fn from_files(config: &TlsConfig, certificate: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = certificates(&config.certificate, certificate)?;
        let pem = |source| IdentityError::Pem { path: config.key.clone(), source };
        let private = PrivateKeyDer::from_pem_slice(key).map_err(pem)?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            // Refuses a key that is not the certificate's: the protection against a half-written rotation.
            .with_single_cert(chain, private)?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { server: Arc::new(server), digest: digest_of(certificate, key) })
    }
}

fn digest_of(certificate: &[u8], key: &[u8]) -> Vec<u8> {
    let mut context = digest::Context::new(&SHA256);
    context.update(&certificate.len().to_be_bytes());
    context.update(certificate);
    context.update(key);
    context.finish().as_ref().to_vec()
}

impl Tls {
    /// Reads the files; an error names the one that is wrong.
    pub fn load(config: TlsConfig) -> Result<Self, IdentityError> {
        let (certificate, key) = (read(&config.certificate)?, read(&config.key)?);
        let loaded = Loaded::from_files(&config, &certificate, &key)?;
        Ok(Self { config: Arc::new(config), current: Arc::new(ArcSwap::from_pointee(loaded)) })
    }

    /// The configuration for the next connection.
    pub(super) fn server_config(&self) -> Arc<ServerConfig> {
        self.current.load().server.clone()
    }

    /// Reads the files again if they have changed. Files that don't fit together are refused, and the old ones stay in use.
    pub fn reload(&self) -> Result<Reload, IdentityError> {
        let (certificate, key) = (read(&self.config.certificate)?, read(&self.config.key)?);
        if digest_of(&certificate, &key) == self.current.load().digest {
            return Ok(Reload::Unchanged);
        }
        let loaded = Loaded::from_files(&self.config, &certificate, &key)?;
        self.current.store(Arc::new(loaded));
        Ok(Reload::Swapped)
    }

    /// Keeps certificate and key up to date with the files until `stop`.
    pub async fn reload_on_change(self, task: PeriodicTask, stop: CancellationToken) {
        let failures = metric::CERTIFICATE_RELOAD_FAILURES_TOTAL;
        reload::reload_on_change("certificate of the edge", failures, || self.reload(), task, stop).await;
    }
}
