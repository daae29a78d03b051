//! Turns certificate files into rustls configurations. All or nothing: files that don't fit together are refused here,
//! so the rest of the code never sees a half-written rotation.

use std::{collections::HashSet, fmt, fs, path::Path, path::PathBuf, sync::Arc};

use aws_lc_rs::digest::{self, SHA256};
use holdfast_proto::hexadecimal;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::TLS13,
};

use super::peer::{Peer, PeerError};
use crate::config::IdentityConfig;

/// Why certificate files are refused.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file can't be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not PEM of the right kind, or is cut short.
    #[error("{path} does not hold what it should")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A file holds no certificate at all.
    #[error("{path} holds no certificate")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key don't match, or a certificate is not usable.
    #[error("certificate and key do not fit")]
    Tls(#[from] rustls::Error),
    /// The trust bundle is not usable.
    #[error("trust bundle is not usable")]
    TrustBundle(#[from] rustls::server::VerifierBuilderError),
    /// Our own certificate names no identity that peers would accept.
    #[error("our own certificate proves no identity")]
    Peer(#[from] PeerError),
    /// Our own certificate is on the deny list: peers would refuse it.
    #[error("certificate is revoked")]
    Revoked,
    /// Expired, not yet valid, or not signed by an authority of the trust bundle: peers would refuse it.
    #[error("certificate would not be accepted by a peer with the same trust bundle")]
    Unacceptable(#[source] rustls::Error),
}

/// The content of all files, read once: what is compared, checked and used is the same.
pub(super) struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    trust_bundle: Vec<u8>,
    deny_list: Vec<u8>,
}

impl Files {
    pub(super) fn read(config: &IdentityConfig) -> Result<Self, IdentityError> {
        Ok(Self {
            certificate: read(&config.certificate)?,
            key: read(&config.key)?,
            trust_bundle: read(&config.trust_bundle)?,
            deny_list: config.deny_list.as_deref().map(read).transpose()?.unwrap_or_default(),
        })
    }

    /// Equal content needs no reload.
    pub(super) fn digest(&self) -> Vec<u8> {
        let mut context = digest::Context::new(&SHA256);
        for part in [&self.certificate, &self.key, &self.trust_bundle, &self.deny_list] {
            // Includes the lengths, so that moving bytes from one file to the next changes it.
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        context.finish().as_ref().to_vec()
    }

    /// For operators and `holdfast certs`, which computes the same from the files: 16 hexadecimal digits over
    /// everything but the key.
    fn fingerprint(&self) -> String {
        fingerprint(&[&self.certificate, &self.trust_bundle, &self.deny_list])
    }
}

fn fingerprint(parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    hexadecimal(&context.finish().as_ref()[..8])
}

/// A consistent set of files as PEM, for clients that can't be given a configuration of rustls.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pem {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) trust_bundle: Vec<u8>,
    /// Over certificate and trust bundle: as that of all files, without the deny list, which clients don't show.
    pub(crate) fingerprint: String,
}

impl Pem {
    /// Of files that fit together. They prove no identity to our own services, so that nothing else is asked of them.
    pub(crate) fn read(certificate: &Path, key: &Path, trust_bundle: &[u8]) -> Result<Self, IdentityError> {
        let (certificate_path, key_path) = (certificate, key);
        let (certificate, key) = (read(certificate_path)?, read(key_path)?);
        let pem = |source| IdentityError::Pem { path: key_path.to_owned(), source };
        let parsed_key = PrivateKeyDer::from_pem_slice(&key).map_err(pem)?;
        CertifiedKey::from_der(certificates(certificate_path, &certificate)?, parsed_key, &provider())?;
        let fingerprint = fingerprint(&[&certificate, trust_bundle]);
        Ok(Self { certificate, key, trust_bundle: trust_bundle.to_owned(), fingerprint })
    }
}

impl fmt::Debug for Pem {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pem").finish_non_exhaustive()
    }
}

/// One consistent set of files.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    pub(super) pem: Arc<Pem>,
    /// Serials that are refused.
    pub(super) denied: HashSet<String>,
    pub(super) digest: Vec<u8>,
    serial: String,
    fingerprint: String,
    not_after: i64,
}

/// The one cryptographic provider of the workspace, named explicitly so that no feature flag can bring in another one.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Material {
    pub(super) fn load(config: &IdentityConfig, files: &Files) -> Result<Self, IdentityError> {
        let chain = certificates(&config.certificate, &files.certificate)?;
        let pem = |source| IdentityError::Pem { path: config.key.clone(), source };
        let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(pem)?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(&config.trust_bundle, &files.trust_bundle)? {
            roots.add(authority)?;
        }
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build()?;
        let denied = denied(&files.deny_list);
        let own = check_own(&chain, verifier.as_ref(), &denied)?;

        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            // Refuses a key that is not the certificate's: the protection against a half-written rotation.
            .with_single_cert(chain.clone(), key.clone_key())?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session does not look at the certificate again: one that has expired since would be accepted.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
            pem: Arc::new(Pem {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
                trust_bundle: files.trust_bundle.clone(),
                fingerprint: fingerprint(&[&files.certificate, &files.trust_bundle]),
            }),
            denied,
            digest: files.digest(),
            fingerprint: files.fingerprint(),
            serial: own.serial.as_ref().to_owned(),
            not_after: own.not_after,
        })
    }

    /// Publishes which certificate is in use now, and no longer the previous one, as metrics.
    pub(super) fn publish(&self, before: Option<&Self>) {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
        metrics::gauge!(crate::metric::CERTIFICATE_NOT_AFTER_TIMESTAMP_SECONDS).set(self.not_after as f64);
        let info = |material: &Self| {
            metrics::gauge!(
                crate::metric::CERTIFICATE_INFO, "serial" => material.serial.clone(), "fingerprint" => material.fingerprint.clone()
            )
        };
        if let Some(before) = before {
            info(before).set(0.0);
        }
        info(self).set(1.0);
    }
}

/// Our own leaf is checked as a peer would check it: what is refused here would be an outage there.
fn check_own(
    chain: &[CertificateDer<'_>],
    verifier: &dyn ClientCertVerifier,
    denied: &HashSet<String>,
) -> Result<Peer, IdentityError> {
    let own = Peer::of_chain(chain)?;
    if denied.contains(own.serial.as_ref()) {
        return Err(IdentityError::Revoked);
    }
    verifier.verify_client_cert(&chain[0], &[], UnixTime::now()).map_err(IdentityError::Unacceptable)?;
    Ok(own)
}

/// The first word of each line.
fn denied(list: &[u8]) -> HashSet<String> {
    let text = String::from_utf8_lossy(list);
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_lowercase).collect()
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(|source| IdentityError::Read { path: path.to_owned(), source })
}

pub(crate) fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| IdentityError::Pem { path: path.to_owned(), source })?;
    if chain.is_empty() { Err(IdentityError::Empty { path: path.to_owned() }) } else { Ok(chain) }
}
