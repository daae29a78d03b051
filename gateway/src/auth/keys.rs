//! The issuer's public keys, from a JSON Web Key Set.

use std::{
    collections::HashMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet},
};

/// Most keys of a set: the current ones and their successors, with room to spare.
const KEYS_MAX: usize = 32;

/// Why a key set is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeySetError {
    #[error("cannot read key set {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not a JSON Web Key Set")]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path} has no usable key: EdDSA or ES256 with a kid")]
    NoKey { path: PathBuf },
    #[error("{path} has more than {KEYS_MAX} keys")]
    TooMany { path: PathBuf },
}

/// A key and the only algorithm that it may be used with.
pub(super) struct Key {
    pub(super) key: DecodingKey,
    pub(super) algorithm: Algorithm,
}

/// Keys by `kid`.
pub(crate) struct KeySet {
    keys: HashMap<String, Key>,
    text: String,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}

impl KeySet {
    pub(crate) fn load(path: &Path) -> Result<Self, KeySetError> {
        let text =
            fs::read_to_string(path).map_err(|source| KeySetError::Read { path: path.to_owned(), source })?;
        let set: JwkSet = serde_json::from_str(&text)
            .map_err(|source| KeySetError::Parse { path: path.to_owned(), source })?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeySetError::TooMany { path: path.to_owned() });
        }
        let keys: HashMap<String, Key> = set.keys.iter().filter_map(usable).collect();
        if keys.is_empty() {
            return Err(KeySetError::NoKey { path: path.to_owned() });
        }
        Ok(Self { keys, text })
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.text == other.text
    }

    pub(super) fn find(&self, kid: &str) -> Option<&Key> {
        self.keys.get(kid)
    }
}

/// Returns a key with its `kid`, if it is one that we accept. Its algorithm follows from the key, never from a token.
fn usable(jwk: &Jwk) -> Option<(String, Key)> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
        _ => return None,
    };
    let kid = jwk.common.key_id.clone()?;
    Some((kid, Key { key: DecodingKey::from_jwk(jwk).ok()?, algorithm }))
}
