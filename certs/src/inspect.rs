//! What is in a certificate.

use holdfast_proto::hexadecimal;
use std::path::Path;

use time::OffsetDateTime;
use x509_parser::{certificate::X509Certificate, pem::Pem, prelude::FromDer as _, x509::X509Name};

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
    Some(Summary {
        subject: common_name(certificate.subject())?,
        issuer: common_name(certificate.issuer())?,
        serial: hexadecimal(certificate.raw_serial()),
        not_after: OffsetDateTime::from_unix_timestamp(certificate.validity().not_after.timestamp()).ok()?,
    })
}

/// The serial of a certificate: lower-case hexadecimal.
#[must_use]
pub fn serial_of(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(hexadecimal(certificate.raw_serial()))
}

/// The name of an authority, as [`crate::LeafStatus`] has it, from its subject.
#[must_use]
pub fn authority_name(der: &[u8]) -> Option<String> {
    let (_, name) = X509Name::from_der(der).ok()?;
    common_name(&name)
}

fn common_name(name: &X509Name<'_>) -> Option<String> {
    Some(name.iter_common_name().next()?.as_str().ok()?.to_owned())
}

/// A serial of hexadecimal digits in decimal ones, as PostgreSQL writes it; `None` if a digit is none.
#[must_use]
pub fn decimal_serial(hexadecimal: &str) -> Option<String> {
    let mut digits = vec![0_u32];
    for nibble in hexadecimal.chars() {
        let mut carry = nibble.to_digit(16)?;
        for digit in &mut digits {
            let value = *digit * 16 + carry;
            (*digit, carry) = (value % 10, value / 10);
        }
        while carry > 0 {
            digits.push(carry % 10);
            carry /= 10;
        }
    }
    digits.iter().rev().map(|digit| char::from_digit(*digit, 10)).collect()
}

fn refuse(path: &Path) -> PkiError {
    PkiError::Parse { path: path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A serial is found as PostgreSQL writes it.
    #[test]
    fn serials_are_written_in_decimal() {
        for (hexadecimal, expected) in [
            ("0", "0"),
            ("00ff", "255"),
            ("428a2bb329132b8139494fe516e9f14c0ca36201", "379874700505207262980779098141507669760441278977"),
        ] {
            assert_eq!(decimal_serial(hexadecimal).as_deref(), Some(expected));
        }
        assert_eq!(decimal_serial("no serial"), None);
    }
}
