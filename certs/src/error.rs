//! Why certificates can't be created, read or rotated.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why certificates can't be created, read or rotated. The text says what to do where there is something to do.
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
    /// A change was made, and could not be written into the audit.
    #[error("a change of certificates could not be written into {path}: {source}")]
    Audit {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key or certificate can't be created or read.
    #[error("cannot create or read a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A stored certificate can't be read.
    #[error("{path} is not a certificate")]
    Parse {
        /// The file.
        path: PathBuf,
    },
    /// There is no authority in this folder.
    #[error("there is no certificate authority in {path}")]
    NoAuthority {
        /// The folder.
        path: PathBuf,
    },
    /// An authority whose key was lost can't sign; what it has signed is still good.
    #[error("the key of the certificate authority ({path}) is missing: restore it, or replace the authority")]
    NoAuthorityKey {
        /// The file.
        path: PathBuf,
    },
    /// The certificate of the authority was lost, and not what it has signed.
    #[error(
        "the certificate of the authority ({path}) is missing: restore it; each identity's `ca.crt` beside it has it too"
    )]
    NoAuthorityCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Anything that the authority signed now would be invalid.
    #[error("the certificate authority expired on {since}: replace it")]
    AuthorityExpired {
        /// Its end.
        since: time::OffsetDateTime,
    },
    /// A name that no identity can have.
    #[error("{name:?} is not a name: 1 to 64 of a-z, 0-9 and -")]
    Name {
        /// The name.
        name: String,
    },
    /// A leaf would live too long or not at all.
    #[error("a certificate lives 1 minute to 24 hours")]
    LeafLife,
    /// No such identity was issued here.
    #[error("there is no certificate of {name}")]
    NoLeaf {
        /// Its name.
        name: String,
    },
    /// A step of a rotation that is not due.
    #[error("no rotation of the authority is at this step")]
    NotDue,
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

impl PkiError {
    /// The arguments of `holdfast` that mend it, where a command does. Whose folder it is, the caller knows.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::NoAuthority { .. } => Some("certs init"),
            Self::NoAuthorityKey { .. } | Self::AuthorityExpired { .. } => Some("certs rotate --ca"),
            _ => None,
        }
    }
}

/// Maps an I/O error to one that names the file.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> PkiError + '_ {
    move |source| PkiError::File { path: path.to_owned(), source }
}
