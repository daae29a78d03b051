//! The issuer of development tokens: RFC 9068 access tokens, signed with Ed25519.

use std::{fs, path::Path, time::Duration};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    PkiError,
    error::at,
    files::{self, Access},
};

/// `iss` of the tokens.
const ISSUER: &str = "https://auth.holdfast.internal";
/// `aud` of the tokens.
const AUDIENCE: &str = "holdfast-api";
/// Development tokens expire some day too.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The claims of an access token.
#[derive(Debug, Clone, Serialize)]
pub struct Claims {
    /// Issuer.
    pub iss: String,
    /// Audience.
    pub aud: String,
    /// User.
    pub sub: String,
    /// Unix time at which it expires.
    pub exp: i64,
    /// Unix time when it was issued.
    pub iat: i64,
    /// Its id.
    pub jti: String,
    /// Scopes, separated by spaces.
    pub scope: String,
}

impl Claims {
    /// Claims for `user` from now on, for at most a year.
    pub fn new(user: &str, scope: &str, life: Duration) -> Result<Self, PkiError> {
        let now = OffsetDateTime::now_utc();
        if life > TOKEN_LIFE_MAX {
            return Err(PkiError::TokenLife);
        }
        Ok(Self {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user.to_owned(),
            exp: (now + life).unix_timestamp(),
            iat: now.unix_timestamp(),
            jti: uuid::Uuid::now_v7().to_string(),
            scope: scope.to_owned(),
        })
    }
}

/// Signs tokens with the key of a directory.
pub struct TokenIssuer {
    key: EncodingKey,
    kid: String,
}

impl TokenIssuer {
    /// Reads the key of `directory`, or creates one together with the key set for the gateway.
    pub fn load_or_create(directory: &Path) -> Result<Self, PkiError> {
        let (key_path, kid_path) = (directory.join("token.key"), directory.join("token.kid"));
        if !key_path.exists() || !kid_path.exists() {
            create(directory, &key_path, &kid_path)?;
        }
        let encoded = fs::read_to_string(&key_path).map_err(at(&key_path))?;
        let der = URL_SAFE_NO_PAD
            .decode(encoded.trim())
            .map_err(|_| PkiError::TokenKey { path: key_path.clone() })?;
        let kid = fs::read_to_string(&kid_path).map_err(at(&kid_path))?;
        Ok(Self { key: EncodingKey::from_ed_der(&der), kid: kid.trim().to_owned() })
    }

    /// Puts a copy of the key set of `directory` into another folder: that of whoever checks tokens, and must not see the key
    /// that signs them.
    pub fn publish_keys(directory: &Path, folder: &Path) -> Result<(), PkiError> {
        let (from, to) = (directory.join("jwks.json"), folder.join("jwks.json"));
        let keys = fs::read_to_string(&from).map_err(at(&from))?;
        files::write(&to, &keys, Access::Public).map_err(at(&to))
    }

    /// A signed token.
    pub fn sign(&self, claims: &Claims) -> Result<String, PkiError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some("at+jwt".to_owned());
        header.kid = Some(self.kid.clone());
        Ok(jsonwebtoken::encode(&header, claims, &self.key)?)
    }
}

fn create(directory: &Path, key_path: &Path, kid_path: &Path) -> Result<(), PkiError> {
    let unusable = || PkiError::TokenKey { path: key_path.to_owned() };
    let pair = Ed25519KeyPair::generate().map_err(|_| unusable())?;
    let der = pair.to_pkcs8().map_err(|_| unusable())?;
    let kid = uuid::Uuid::now_v7().to_string();
    let jwks = serde_json::json!({"keys": [{
        "kty": "OKP",
        "crv": "Ed25519",
        "use": "sig",
        "alg": "EdDSA",
        "kid": kid,
        "x": URL_SAFE_NO_PAD.encode(pair.public_key().as_ref()),
    }]});
    fs::create_dir_all(directory).map_err(at(directory))?;
    files::write(key_path, &URL_SAFE_NO_PAD.encode(der.as_ref()), Access::Private).map_err(at(key_path))?;
    let jwks_path = directory.join("jwks.json");
    files::write(&jwks_path, &format!("{jwks:#}\n"), Access::Public).map_err(at(&jwks_path))?;
    // Written last: without it the rest is incomplete.
    files::write(kid_path, &kid, Access::Public).map_err(at(kid_path))
}
