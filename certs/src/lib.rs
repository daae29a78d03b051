//! The private certificate authority of an installation, its leaf certificates, and the keys that sign development
//! tokens.
//!
//! Everything lives in one directory, made at the first start and never committed:
//!
//! ```text
//! ca.crt ca.key                    the authority
//! <name>/tls.crt tls.key ca.crt    one identity: gateway, order, payment, delivery, operator
//! jwks.json token.key token.kid    public keys for the gateway, private key of the development issuer
//! ```

mod authority;
mod files;
mod token;

pub use authority::{Authority, LEAF_LIFE, PkiError, TRUST_DOMAIN};
pub use token::{Claims, TokenIssuer};
