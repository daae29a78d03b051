//! The private certificate authority of an installation, its leaf certificates and how they are replaced, and the keys
//! that sign development tokens.
//!
//! Everything lives in one folder, created at the first start and never committed:
//!
//! ```text
//! ca.crt ca.key                        the authority
//! ca.next.crt ca.next.key rotation     while the authority is replaced: the next one, and how far the rotation is
//! revoked                              serials of leaves that are refused
//! audit.jsonl audit.1.jsonl            what was done, by whom and why
//! <name>/tls.crt tls.key               one identity: gateway, order, payment, delivery, operator
//! <name>/ca.crt revoked                what this identity trusts, and what it refuses
//! <name>/ca.crl                        what it refuses, signed, for servers such as PostgreSQL that know no other list
//! <name>/addresses                     where a server answers, if its clients know it by an address
//! jwks.json token.key token.kid        public keys for the gateway, private key of the development issuer
//! gateway/jwks.json                    the public keys again, where the gateway sees nothing else
//! ```

mod audit;
mod authority;
mod deny_list;
mod error;
mod files;
mod inspect;
mod pki;
mod token;

pub use audit::{Action, Audit, AuditEntry, Author};
pub use authority::{AUTHORITY_LIFE, Authority, Kind, LEAF_LIFE_MAX, Leaf, LeafRequest, Usage};
pub use deny_list::Revoked;
pub use error::PkiError;
pub use inspect::{authority_name, decimal_serial, serial_of};
pub use pki::{LeafState, LeafStatus, Phase, Pki, check_name};
pub use token::{Claims, TokenIssuer};
