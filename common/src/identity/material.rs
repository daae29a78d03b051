//! Certificate files into rustls configurations. All or nothing: what doesn't fit together is refused here, so nothing
//! behind this module ever sees a torn rotation.

use std::{fs, path::Path, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
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
    /// Certificate and key are no pair, or a certificate is not usable.
    #[error("certificate and key do not fit")]
    Tls(#[from] rustls::Error),
    /// The trust bundle is not usable.
    #[error("trust bundle is not usable")]
    TrustBundle(#[from] rustls::server::VerifierBuilderError),
    /// Our own certificate names no identity that peers would accept.
    #[error("our own certificate proves no identity")]
    Peer(#[from] PeerError),
    /// Our own certificate is over or not yet valid.
    #[error("certificate is valid from {not_before} to {not_after} (Unix time), not now")]
    NotNow {
        /// Seconds since 1970.
        not_before: i64,
        /// Seconds since 1970.
        not_after: i64,
    },
    /// The leaf was not signed by any authority of the trust bundle: peers would refuse it.
    #[error("certificate was issued by no authority of the trust bundle")]
    Chain,
}

/// One consistent set of files.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    pub(super) fingerprint: Vec<u8>,
    not_after: i64,
}

/// The one cryptographic provider of the workspace, named explicitly so that no other can slip in by a feature.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Material {
    pub(super) fn load(files: &IdentityConfig) -> Result<Self, IdentityError> {
        let fingerprint = Self::fingerprint(files)?;
        let chain = certificates(&files.certificate)?;
        let pem = |source| IdentityError::Pem { path: files.key.clone(), source };
        let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(pem)?;
        let authorities = certificates(&files.trust_bundle)?;
        let not_after = check_leaf(&chain[0], &authorities)?;

        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority)?;
        }
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            // Refuses a key that is not the certificate's: the protection against a half-written rotation.
            .with_single_cert(chain.clone(), key.clone_key())?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { server: Arc::new(server), client: Arc::new(client), fingerprint, not_after })
    }

    /// The content of all files; equal content needs no reload.
    pub(super) fn fingerprint(files: &IdentityConfig) -> Result<Vec<u8>, IdentityError> {
        let mut all = read(&files.certificate)?;
        all.extend(read(&files.key)?);
        all.extend(read(&files.trust_bundle)?);
        Ok(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &all).as_ref().to_vec())
    }

    /// Tells the metrics which certificate is in use now.
    pub(super) fn publish(&self) {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
        metrics::gauge!("certificate_not_after_seconds").set(self.not_after as f64);
    }
}

/// The leaf proves an identity, is valid now, and was signed by one of the authorities. Returns its end.
fn check_leaf(leaf: &CertificateDer<'_>, authorities: &[CertificateDer<'_>]) -> Result<i64, IdentityError> {
    Peer::from_certificate(leaf)?;
    let parse = |der: &CertificateDer<'_>,
                 check: &mut dyn FnMut(&x509_parser::certificate::X509Certificate<'_>)| {
        x509_parser::parse_x509_certificate(der).map(|(_, certificate)| check(&certificate)).is_ok()
    };
    let (mut validity, mut signed) = ((0, 0), false);
    let parsed = parse(leaf, &mut |leaf| {
        validity = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
        for authority in authorities {
            parse(authority, &mut |authority| signed |= leaf.issuer() == authority.subject());
        }
    });
    let (not_before, not_after) = validity;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    if !parsed || !(not_before..=not_after).contains(&now) {
        return Err(IdentityError::NotNow { not_before, not_after });
    }
    if signed { Ok(not_after) } else { Err(IdentityError::Chain) }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(|source| IdentityError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let chain = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| IdentityError::Pem { path: path.to_owned(), source })?;
    if chain.is_empty() { Err(IdentityError::Empty { path: path.to_owned() }) } else { Ok(chain) }
}
