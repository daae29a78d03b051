//! What is in a certificate.

use holdfast_proto::hexadecimal;
use std::path::Path;

use time::OffsetDateTime;
use x509_parser::{certificate::X509Certificate, pem::Pem};

use crate::PkiError;

/// What matters of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// Lower-case hexadecimal, as the deny list and the metrics of the services write it.
    pub(crate) serial: String,
    pub(crate) not_after: OffsetDateTime,
}

/// The first certificate of a PEM text; `path` is for the error.
pub(crate) fn certificate(path: &Path, pem: &str) -> Result<Summary, PkiError> {
    certificates(path, pem)?.into_iter().next().ok_or_else(|| refuse(path))
}

/// All certificates of a PEM text.
pub(crate) fn certificates(path: &Path, pem: &str) -> Result<Vec<Summary>, PkiError> {
    Pem::iter_from_buffer(pem.as_bytes())
        .map(|pem| {
            let pem = pem.map_err(|_| refuse(path))?;
            let certificate = pem.parse_x509().map_err(|_| refuse(path))?;
            summary(&certificate).ok_or_else(|| refuse(path))
        })
        .collect()
}

fn summary(certificate: &X509Certificate<'_>) -> Option<Summary> {
    let name = |name: &x509_parser::x509::X509Name<'_>| {
        Some(name.iter_common_name().next()?.as_str().ok()?.to_owned())
    };
    Some(Summary {
        subject: name(certificate.subject())?,
        issuer: name(certificate.issuer())?,
        serial: hexadecimal(certificate.raw_serial()),
        not_after: OffsetDateTime::from_unix_timestamp(certificate.validity().not_after.timestamp()).ok()?,
    })
}

fn refuse(path: &Path) -> PkiError {
    PkiError::Parse { path: path.to_owned() }
}
