//! A certificate authority in a directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::files::{self, Access};

/// All identities live under this trust domain.
pub const TRUST_DOMAIN: &str = "holdfast.internal";
/// Leaves are short-lived: a stolen one is worth little, and renewal is exercised every day.
pub const LEAF_LIFE: Duration = Duration::hours(24);
const AUTHORITY_LIFE: Duration = Duration::days(3650);
/// Clocks may differ by this much.
const BACKDATE: Duration = Duration::minutes(5);

/// Why certificates can't be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file can't be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key or certificate can't be made or read.
    #[error("cannot make or read a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A stored certificate can't be read.
    #[error("{path} is not a certificate")]
    Parse {
        /// The file.
        path: PathBuf,
    },
    /// A stored token key can't be read.
    #[error("{path} is not a token key")]
    TokenKey {
        /// The file.
        path: PathBuf,
    },
    /// A token would live too long.
    #[error("a token lives a year at most")]
    TokenLife,
    /// A token can't be signed.
    #[error("cannot sign a token")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// Maps an I/O error to one that names the file.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> PkiError + '_ {
    move |source| PkiError::File { path: path.to_owned(), source }
}

/// A certificate authority in a directory.
pub struct Authority {
    directory: PathBuf,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads the authority of `directory`, or makes one.
    pub fn load_or_create(directory: &Path) -> Result<Self, PkiError> {
        let (certificate_path, key_path) = (directory.join("ca.crt"), directory.join("ca.key"));
        if certificate_path.exists() && key_path.exists() {
            let certificate = fs::read_to_string(&certificate_path).map_err(at(&certificate_path))?;
            let key = fs::read_to_string(&key_path).map_err(at(&key_path))?;
            let name = common_name(&certificate_path, &certificate)?;
            let issuer = Issuer::new(parameters(&name), KeyPair::from_pem(&key)?);
            return Ok(Self { directory: directory.to_owned(), certificate, issuer });
        }
        fs::create_dir_all(directory).map_err(at(directory))?;
        // A name of its own for each authority, so that an old and a new one can stand in one trust bundle.
        let name = format!("Holdfast CA {}", uuid::Uuid::now_v7());
        let key = KeyPair::generate()?;
        let parameters = parameters(&name);
        let certificate = parameters.self_signed(&key)?.pem();
        files::write(&key_path, &key.serialize_pem(), Access::Private).map_err(at(&key_path))?;
        files::write(&certificate_path, &certificate, Access::Public).map_err(at(&certificate_path))?;
        Ok(Self { directory: directory.to_owned(), certificate, issuer: Issuer::new(parameters, key) })
    }

    /// Makes sure that the identity `name` has a leaf with more than half of its life left.
    pub fn ensure_leaf(&self, name: &str) -> Result<(), PkiError> {
        let leaf = self.directory.join(name).join("tls.crt");
        let fresh = fs::read_to_string(&leaf)
            .ok()
            .and_then(|text| not_after(&leaf, &text).ok())
            .is_some_and(|end| end - OffsetDateTime::now_utc() > LEAF_LIFE / 2);
        if fresh { Ok(()) } else { self.issue(name) }
    }

    /// Issues a leaf: `spiffe://holdfast.internal/<name>`, and the DNS names `<name>` and `localhost`.
    pub fn issue(&self, name: &str) -> Result<(), PkiError> {
        let (certificate, key) = self.leaf(name, LEAF_LIFE)?;
        let directory = self.directory.join(name);
        fs::create_dir_all(&directory).map_err(at(&directory))?;
        // The three are not replaced as one: a reader that sees a key without its certificate keeps what it has.
        for (file, content, access) in [
            ("ca.crt", &self.certificate, Access::Public),
            ("tls.key", &key, Access::Private),
            ("tls.crt", &certificate, Access::Public),
        ] {
            let path = directory.join(file);
            files::write(&path, content, access).map_err(at(&path))?;
        }
        Ok(())
    }

    /// A leaf and its key as PEM, for tests that need one in other hands.
    pub fn leaf(&self, name: &str, life: Duration) -> Result<(String, String), PkiError> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(vec![name.to_owned(), "localhost".to_owned()])?;
        let id = format!("spiffe://{TRUST_DOMAIN}/{name}");
        parameters.subject_alt_names.push(SanType::URI(id.try_into()?));
        parameters.distinguished_name.push(DnType::CommonName, name);
        let now = OffsetDateTime::now_utc();
        parameters.not_before = now - BACKDATE;
        parameters.not_after = now + life;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.use_authority_key_identifier_extension = true;
        Ok((parameters.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    /// The authority's certificate as PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }
}

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    // Signs leaves only.
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    parameters.not_before = now - BACKDATE;
    parameters.not_after = now + AUTHORITY_LIFE;
    parameters
}

fn parse<T>(
    path: &Path,
    pem: &str,
    read: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> Option<T>,
) -> Result<T, PkiError> {
    let refuse = || PkiError::Parse { path: path.to_owned() };
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| refuse())?;
    let certificate = pem.parse_x509().map_err(|_| refuse())?;
    read(&certificate).ok_or_else(refuse)
}

fn common_name(path: &Path, pem: &str) -> Result<String, PkiError> {
    parse(path, pem, |certificate| {
        Some(certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned())
    })
}

fn not_after(path: &Path, pem: &str) -> Result<OffsetDateTime, PkiError> {
    parse(path, pem, |certificate| {
        OffsetDateTime::from_unix_timestamp(certificate.validity().not_after.timestamp()).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The authority is made once, and leaves that are fresh are left alone.
    #[test]
    fn the_authority_is_made_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = Authority::load_or_create(directory.path()).expect("made");
        first.ensure_leaf("order").expect("issued");
        let leaf = directory.path().join("order/tls.crt");
        let before = fs::read_to_string(&leaf).expect("there");
        let second = Authority::load_or_create(directory.path()).expect("read");
        assert_eq!(first.certificate(), second.certificate());
        second.ensure_leaf("order").expect("fresh");
        assert_eq!(fs::read_to_string(&leaf).expect("there"), before);
        second.issue("order").expect("issued");
        assert_ne!(fs::read_to_string(&leaf).expect("there"), before);
    }

    /// Nobody but the owner reads a private key.
    #[test]
    fn private_keys_are_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().expect("a directory");
        Authority::load_or_create(directory.path()).expect("made").issue("order").expect("issued");
        for file in ["ca.key", "order/tls.key"] {
            let mode = fs::metadata(directory.path().join(file)).expect("there").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{file}");
        }
    }
}
