//! One certificate authority, and the leaves that it signs.

use holdfast_proto::TRUST_DOMAIN;
use std::{fs, net::IpAddr, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use crate::{PkiError, error::at, inspect};

/// Leaves are short-lived: a stolen one is worth little, and renewal is exercised every day. No leaf lives longer.
pub const LEAF_LIFE_MAX: Duration = Duration::hours(24);
/// The lifetime of an authority, unless another one is given.
pub const AUTHORITY_LIFE: Duration = Duration::days(3650);
/// Clocks may differ by this much.
const BACKDATE: Duration = Duration::minutes(5);

/// The content of a leaf. [`LeafRequest::service`] is what services get; tests change what they need.
#[derive(Debug, Clone)]
pub struct LeafRequest {
    /// Common name: for people, and for PostgreSQL, where it must be the name of the role.
    pub name: String,
    /// URI names; services have exactly one, their SPIFFE id.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Addresses, for servers that clients reach without a name; services have none.
    pub addresses: Vec<IpAddr>,
    /// From now; negative is in the past.
    pub valid_from: Duration,
    /// From now.
    pub valid_until: Duration,
    /// What it may be used for.
    pub usages: Vec<Usage>,
    /// Whether it may sign others.
    pub kind: Kind,
}

/// An extended key usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Answer.
    Server,
    /// Call.
    Client,
}

/// What a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Signs nothing.
    Leaf,
    /// Signs others.
    Authority,
}

impl LeafRequest {
    /// `spiffe://holdfast.internal/<name>`, the DNS names `<name>` and `localhost`, for both ends of a connection.
    #[must_use]
    pub fn service(name: &str, life: Duration) -> Self {
        Self {
            name: name.to_owned(),
            uris: vec![service_uri(name)],
            dns_names: vec![name.to_owned(), "localhost".to_owned()],
            addresses: Vec::new(),
            valid_from: -BACKDATE,
            valid_until: life,
            usages: vec![Usage::Server, Usage::Client],
            kind: Kind::Leaf,
        }
    }
}

/// The SPIFFE id of a service.
pub(crate) fn service_uri(name: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/{name}")
}

/// A certificate and its private key, as PEM.
#[derive(Clone)]
pub struct Leaf {
    /// The certificate.
    pub certificate: String,
    /// The private key. Never logged, never committed.
    pub key: String,
}

/// A certificate authority.
pub struct Authority {
    certificate: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Creates one with a unique name, so that an old and a new one can be in the same trust bundle.
    pub fn generate(life: Duration) -> Result<Self, PkiError> {
        let name = format!("Holdfast CA {}", uuid::Uuid::now_v7());
        let key = KeyPair::generate()?;
        let parameters = parameters(&name, life);
        let certificate = parameters.self_signed(&key)?.pem();
        let pem = key.serialize_pem();
        Ok(Self { certificate, key: pem, issuer: Issuer::new(parameters, key) })
    }

    /// Reads one.
    pub fn load(certificate_path: &Path, key_path: &Path) -> Result<Self, PkiError> {
        let certificate = fs::read_to_string(certificate_path).map_err(at(certificate_path))?;
        let key = fs::read_to_string(key_path).map_err(at(key_path))?;
        let name = inspect::certificate(certificate_path, &certificate)?.subject;
        let issuer = Issuer::new(parameters(&name, AUTHORITY_LIFE), KeyPair::from_pem(&key)?);
        Ok(Self { certificate, key, issuer })
    }

    /// Signs a new key.
    pub fn leaf(&self, request: &LeafRequest) -> Result<Leaf, PkiError> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(request.dns_names.clone())?;
        for uri in &request.uris {
            parameters.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        }
        let addresses = request.addresses.iter().copied().map(SanType::IpAddress);
        parameters.subject_alt_names.extend(addresses);
        parameters.distinguished_name.push(DnType::CommonName, request.name.as_str());
        let now = OffsetDateTime::now_utc();
        parameters.not_before = now + request.valid_from;
        parameters.not_after = now + request.valid_until;
        if request.kind == Kind::Authority {
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = request
            .usages
            .iter()
            .map(|usage| match usage {
                Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
                Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            })
            .collect();
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters.signed_by(&key, &self.issuer)?.pem();
        Ok(Leaf { certificate, key: key.serialize_pem() })
    }

    /// Signs a list of serials (lower-case hexadecimal) that are refused, for servers that know no other deny list. It is
    /// valid as long as the authority: a list that runs out would have everybody refused.
    pub(crate) fn revocation_list(&self, serials: &[String]) -> Result<String, PkiError> {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &String| RevokedCertParams {
            serial_number: SerialNumber::from(bytes(serial)),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now - BACKDATE,
            next_update: now + AUTHORITY_LIFE,
            crl_number: SerialNumber::from(now.unix_timestamp().unsigned_abs()),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }

    /// Its certificate as PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its private key as PEM.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}

/// Of hexadecimal digits, two for each; what is none is left out.
fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
    pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

fn parameters(name: &str, life: Duration) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    // Signs leaves only.
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    parameters.not_before = now - BACKDATE.max(-life + BACKDATE);
    parameters.not_after = now + life;
    parameters
}
