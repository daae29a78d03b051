//! The issuer's public keys, from a JSON Web Key Set.

use std::{collections::HashMap, fmt};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{
        AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
    },
};
use serde::Deserialize;
use serde_json::Value;

/// Most keys of a set: the current ones and their successors, with room to spare.
const KEYS_MAX: usize = 32;

/// Why a key set is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeySetError {
    #[error("it is not a JSON Web Key Set")]
    Parse(#[from] serde_json::Error),
    #[error("it has no usable key: EdDSA or ES256 with a kid, for signatures")]
    NoKey,
    #[error("it has more than {KEYS_MAX} keys")]
    TooMany,
}

/// A key and the only algorithm that it may be used with.
pub(super) struct Key {
    pub(super) key: DecodingKey,
    pub(super) algorithm: Algorithm,
}

/// Keys by `kid`.
#[derive(Default)]
pub(super) struct KeySet {
    keys: HashMap<String, Key>,
    text: String,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}

impl KeySet {
    /// Parses a set. Keys that are not for us are skipped (RFC 7517, 5), so that an issuer may have others beside them.
    pub(super) fn parse(text: String) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let Document { keys } = serde_json::from_str(&text)?;
        if keys.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let jwks = keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let keys: HashMap<String, Key> = jwks.filter_map(|jwk| usable(&jwk)).collect();
        if keys.is_empty() {
            return Err(KeySetError::NoKey);
        }
        Ok(Self { keys, text })
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.text == other.text
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn find(&self, kid: &str) -> Option<&Key> {
        self.keys.get(kid)
    }
}

/// Returns a key with its `kid`, if it is one that we accept. Its algorithm follows from the key, never from a token.
fn usable(jwk: &Jwk) -> Option<(String, Key)> {
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        _ => return None,
    };
    if !is_for_signatures(&jwk.common)
        || jwk.common.key_algorithm.as_ref().is_some_and(|given| *given != name)
    {
        return None;
    }
    let kid = jwk.common.key_id.clone()?;
    Some((kid, Key { key: DecodingKey::from_jwk(jwk).ok()?, algorithm }))
}

/// Whether the key's owner meant it for checking signatures: what is not said is allowed (RFC 7517, 4.2 and 4.3).
fn is_for_signatures(common: &CommonParameters) -> bool {
    let used = common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
    let operations = common.key_operations.as_ref();
    used && operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A real Ed25519 public key, from RFC 8037.
    fn key(members: Value) -> Value {
        let mut key = json!({"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        if let (Value::Object(key), Value::Object(members)) = (&mut key, members) {
            key.extend(members);
        }
        key
    }

    fn parse(keys: &[Value]) -> Result<KeySet, KeySetError> {
        KeySet::parse(json!({ "keys": keys }).to_string())
    }

    /// A key is used only for what its owner says it is for.
    #[test]
    fn a_key_for_something_else_is_not_used() {
        for members in [
            json!({}),
            json!({"use": "sig"}),
            json!({"key_ops": ["verify"]}),
            json!({"alg": "EdDSA"}),
            json!({"use": "sig", "key_ops": ["sign", "verify"], "alg": "EdDSA"}),
        ] {
            assert!(parse(&[key(members.clone())]).is_ok(), "{members}");
        }
        for members in [
            json!({"use": "enc"}),
            json!({"use": "something"}),
            json!({"key_ops": ["encrypt"]}),
            json!({"key_ops": ["sign"]}),
            json!({"key_ops": []}),
            json!({"alg": "ES256"}),
            json!({"alg": "none"}),
            json!({"kid": null}),
            json!({"crv": "X25519"}),
        ] {
            assert!(matches!(parse(&[key(members.clone())]), Err(KeySetError::NoKey)), "{members}");
        }
    }

    /// A key of a kind that nobody here knows does not spoil those beside it.
    #[test]
    fn an_unknown_key_is_skipped() {
        let set =
            parse(&[json!({"kty": "AKP", "alg": "ML-DSA-44", "kid": "new", "pub": "…"}), key(json!({}))]);
        let set = set.expect("one is usable");
        assert!(set.find("a").is_some() && set.find("new").is_none());
        assert!(matches!(parse(&vec![key(json!({})); KEYS_MAX + 1]), Err(KeySetError::TooMany)));
        assert!(matches!(KeySet::parse("[]".to_owned()), Err(KeySetError::Parse(_))));
    }
}
