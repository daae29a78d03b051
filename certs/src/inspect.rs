//! What is in a certificate.

use holdfast_proto::hexadecimal;
use std::{fs, io::ErrorKind, path::Path};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{KeyPair, PublicKeyData as _};
use time::OffsetDateTime;
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, pem::Pem, prelude::FromDer as _,
    revocation_list::CertificateRevocationList, x509::X509Name,
};

use crate::{PkiError, error::at};

/// What matters of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// Lower-case hexadecimal, as the deny list and the metrics of the services write it.
    pub(crate) serial: String,
    pub(crate) not_after: OffsetDateTime,
    /// The URIs that it says it is.
    pub(crate) uris: Vec<String>,
    /// Of the subject: algorithm and key, as DER.
    pub(crate) public_key: Vec<u8>,
    /// The bits of that key.
    key_bits: Vec<u8>,
    /// What was signed, and the signature.
    signed: (Vec<u8>, Vec<u8>),
}

impl Summary {
    /// Whether an authority has signed it. Ours all have keys for ECDSA on P-256.
    pub(crate) fn is_signed_by(&self, authority: &Self) -> bool {
        let (content, signature) = &self.signed;
        self.issuer == authority.subject
            && UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &authority.key_bits)
                .verify(content, signature)
                .is_ok()
    }
}

/// The public key of a private one, as [`Summary::public_key`] has it; `None` if it is no key.
pub(crate) fn public_key_of(key_pem: &str) -> Option<Vec<u8>> {
    Some(KeyPair::from_pem(key_pem).ok()?.subject_public_key_info())
}

/// The lists of revoked certificates that an authority has signed, of those in a file; none if there is no such file.
pub(crate) fn list_of(authority: &str, path: &Path) -> Result<String, PkiError> {
    const END: &str = "-----END X509 CRL-----\n";
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(at(path)(error)),
    };
    let is_of = |list: &&str| {
        let pem = Pem::iter_from_buffer(list.as_bytes()).next().and_then(Result::ok);
        pem.is_some_and(|pem| {
            CertificateRevocationList::from_der(&pem.contents)
                .is_ok_and(|(_, list)| common_name(list.issuer()).as_deref() == Some(authority))
        })
    };
    Ok(text.split_inclusive(END).filter(is_of).collect())
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
        uris: uris(certificate),
        public_key: certificate.public_key().raw.to_vec(),
        key_bits: certificate.public_key().subject_public_key.data.to_vec(),
        signed: (certificate.tbs_certificate.as_ref().to_vec(), certificate.signature_value.data.to_vec()),
    })
}

fn uris(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    uris.collect()
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
