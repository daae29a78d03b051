//! Where the keys of an issuer come from: a file, or the URL of an identity provider.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::body::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::keys::{KeySet, KeySetError};

/// A fetch takes no longer than this.
const FETCH_TIME_MAX: Duration = Duration::from_secs(5);
/// Largest key set in bytes.
const KEY_SET_BYTES_MAX: usize = 64 * 1024;

/// Why there are no keys from a source.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("cannot read key set {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot use the key set of {from}")]
    KeySet {
        from: String,
        #[source]
        source: KeySetError,
    },
    #[error("issuer {issuer} needs either jwks_file or jwks_url")]
    NotOneSource { issuer: String },
    #[error("{url} is neither https nor http to this machine")]
    Url { url: String },
    #[error("cannot read trust bundle {path}")]
    TrustBundle {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("this machine has no certificates of authorities: set jwks_trust_bundle")]
    NoRoots,
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("cannot fetch {url}")]
    Fetch {
        url: Uri,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("{url} answered {status}")]
    Status { url: Uri, status: StatusCode },
    #[error("{url} did not answer within {} s", FETCH_TIME_MAX.as_secs())]
    Timeout { url: Uri },
}

/// Reads a key set from a file.
pub(super) fn read(path: &Path) -> Result<KeySet, SourceError> {
    let text =
        fs::read_to_string(path).map_err(|source| SourceError::Read { path: path.to_owned(), source })?;
    parse(text, &path.display())
}

fn parse(text: String, from: &dyn std::fmt::Display) -> Result<KeySet, SourceError> {
    KeySet::parse(text).map_err(|source| SourceError::KeySet { from: from.to_string(), source })
}

/// Fetches a key set from a URL.
#[derive(Debug)]
pub(super) struct Fetcher {
    url: Uri,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    /// Of the set that is in use: the provider need not send it again.
    etag: Option<header::HeaderValue>,
}

impl Fetcher {
    /// Trusts the authorities of `trust_bundle`, or those of the machine.
    pub(super) fn new(url: &str, trust_bundle: Option<&Path>) -> Result<Self, SourceError> {
        let refused = || SourceError::Url { url: url.to_owned() };
        let parsed: Uri = url.parse().map_err(|_| refused())?;
        let host = parsed.host().unwrap_or_default();
        let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        if !(parsed.scheme_str() == Some("https") || (parsed.scheme_str() == Some("http") && here)) {
            return Err(refused());
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            // The database client brings version 1.2 into the library.
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots(trust_bundle)?)
            .with_no_client_auth();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Self { url: parsed, client: Client::builder(TokioExecutor::new()).build(connector), etag: None })
    }

    /// The set, or `None` if it is the one that was fetched last. Redirects are not followed: who may name the keys is said in
    /// the configuration, and only there.
    pub(super) async fn fetch(&mut self) -> Result<Option<KeySet>, SourceError> {
        let fetched = tokio::time::timeout(FETCH_TIME_MAX, self.exchange()).await;
        let Some((text, etag)) = fetched.map_err(|_| SourceError::Timeout { url: self.url.clone() })?? else {
            return Ok(None);
        };
        let keys = parse(text, &self.url)?;
        // Only of a set that can be used: another one must be sent again.
        self.etag = etag;
        Ok(Some(keys))
    }

    async fn exchange(&self) -> Result<Option<(String, Option<header::HeaderValue>)>, SourceError> {
        let failed =
            |source: Box<dyn Error + Send + Sync>| SourceError::Fetch { url: self.url.clone(), source };
        let mut request =
            Request::get(&self.url).header(header::ACCEPT, "application/jwk-set+json, application/json");
        if let Some(etag) = &self.etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let request = request.body(Empty::new()).map_err(|error| failed(error.into()))?;
        let response = self.client.request(request).await.map_err(|error| failed(error.into()))?;
        if response.status() == StatusCode::NOT_MODIFIED && self.etag.is_some() {
            return Ok(None);
        }
        if response.status() != StatusCode::OK {
            return Err(SourceError::Status { url: self.url.clone(), status: response.status() });
        }
        let etag = response.headers().get(header::ETAG).cloned();
        let body = Limited::new(response.into_body(), KEY_SET_BYTES_MAX).collect().await.map_err(failed)?;
        let text = String::from_utf8(body.to_bytes().into()).map_err(|error| failed(error.into()))?;
        Ok(Some((text, etag)))
    }
}

fn roots(trust_bundle: Option<&Path>) -> Result<RootCertStore, SourceError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = trust_bundle {
        let unreadable = |source| SourceError::TrustBundle { path: path.to_owned(), source };
        for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
            roots.add(certificate.map_err(unreadable)?)?;
        }
    } else {
        // What can't be parsed on this machine is nobody's authority here.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() { Err(SourceError::NoRoots) } else { Ok(roots) }
}
