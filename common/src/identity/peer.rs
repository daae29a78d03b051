//! The identity in a certificate.

use std::{fmt, io, sync::Arc};

use holdfast_proto::{TRUST_DOMAIN, hexadecimal};
use rustls::{CommonState, pki_types::CertificateDer};
use x509_parser::extensions::GeneralName;

/// Why a certificate proves no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Not a certificate, or its extensions can't be read.
    #[error("certificate cannot be parsed")]
    Malformed,
    /// SPIFFE asks for exactly one URI SAN; with none or several there is no identity.
    #[error("certificate has {found} URI names instead of 1")]
    UriNames {
        /// How many there are.
        found: usize,
    },
    /// The URI is not `spiffe://holdfast.internal/<name>`.
    #[error("URI name is not an id of this trust domain")]
    TrustDomain,
    /// Our authority signs leaves only, but the TLS library does not look at the length of paths that a trusted authority allows.
    #[error("{found} certificates were sent instead of 1: intermediate authorities are not accepted")]
    Chain {
        /// How many.
        found: usize,
    },
    /// A CA certificate must not be used as a leaf.
    #[error("certificate is an authority's")]
    Authority,
}

/// `spiffe://holdfast.internal/<name>`; holds the name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId(String);

impl SpiffeId {
    /// Parses the URI.
    pub fn parse(uri: &str) -> Result<Self, PeerError> {
        let name = uri
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.strip_prefix(TRUST_DOMAIN))
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or(PeerError::TrustDomain)?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(PeerError::TrustDomain);
        }
        Ok(Self(name.to_owned()))
    }

    /// The name behind the trust domain, such as `gateway`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{TRUST_DOMAIN}/{}", self.0)
    }
}

/// Who is at the other end of a connection; tonic clones it into the extensions of each request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Proven by the handshake.
    pub id: Arc<SpiffeId>,
    /// Serial of the certificate: lower-case hexadecimal, as in deny lists.
    pub serial: Arc<str>,
    /// End of the certificate, in seconds since 1970.
    pub not_after: i64,
}

impl Peer {
    /// The other end of a connection that shook hands.
    pub(super) fn of_session(session: &CommonState) -> io::Result<Self> {
        Self::of_chain(session.peer_certificates().unwrap_or_default()).map_err(io::Error::other)
    }

    /// Reads the identity of a chain that was verified before, which must be one certificate.
    pub(super) fn of_chain(chain: &[CertificateDer<'_>]) -> Result<Self, PeerError> {
        match chain {
            [certificate] => Self::from_certificate(certificate),
            _ => Err(PeerError::Chain { found: chain.len() }),
        }
    }

    /// Reads the identity of a certificate whose chain was verified before.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let (_, certificate) =
            x509_parser::parse_x509_certificate(certificate).map_err(|_| PeerError::Malformed)?;
        if certificate.is_ca() {
            return Err(PeerError::Authority);
        }
        let names = certificate.subject_alternative_name().map_err(|_| PeerError::Malformed)?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        match uris[..] {
            [uri] => Ok(Self {
                id: Arc::new(SpiffeId::parse(uri)?),
                serial: hexadecimal(certificate.raw_serial()).into(),
                not_after: certificate.validity().not_after.timestamp(),
            }),
            _ => Err(PeerError::UriNames { found: uris.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An id is a plain name in our trust domain, nothing else.
    #[test]
    fn ids_are_plain_names_of_our_domain() {
        let id = SpiffeId::parse("spiffe://holdfast.internal/gateway").expect("an id");
        assert_eq!(id.name(), "gateway");
        assert_eq!(id.to_string(), "spiffe://holdfast.internal/gateway");
        for bad in [
            "",
            "gateway",
            "https://holdfast.internal/gateway",
            "spiffe://holdfast.internal",
            "spiffe://holdfast.internal/",
            "spiffe://holdfast.internal/a/b",
            "spiffe://holdfast.internal/../gateway",
            "spiffe://holdfast.internal.example/gateway",
            "spiffe://example/gateway",
            "spiffe://holdfast.internal/Gateway",
        ] {
            assert_eq!(SpiffeId::parse(bad), Err(PeerError::TrustDomain), "{bad}");
        }
    }
}
