//! RFC 9068 access tokens, checked strictly.

use std::time::Duration;

use holdfast_common::subject::Subject;
use holdfast_proto::{UserId, scope};
use jsonwebtoken::{Validation, decode, decode_header};
use serde::Deserialize;
use tokio::time::Instant;

use super::keys::KeySet;

/// Longest token that is accepted, in bytes.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// How much clocks may differ, in seconds.
const LEEWAY_S: u64 = 5;
/// A token is not taken for valid for longer than this, whatever it says.
const VALID_TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// A client whose token was checked.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// `sub`.
    pub(super) user_id: UserId,
    /// The parts of `scope` that are ours.
    pub(super) scopes: Vec<&'static str>,
    /// The same, for the services.
    pub(super) subject: Subject,
    /// `exp`, without leeway.
    pub(super) valid_until: Instant,
}

/// What a token of one issuer must say.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// `iss`.
    pub(super) issuer: String,
    /// `aud`.
    pub(super) audience: String,
    /// From `iat` to `exp`, at most.
    pub(super) lifetime_max: Duration,
}

/// Why a token is refused: for logs and metrics, never for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Missing,
    TooLong,
    Header,
    Type,
    UnknownKey,
    Algorithm,
    SignatureOrClaims,
    IssuedInFuture,
    Lifetime,
    Id,
    Subject,
}

impl Refused {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TooLong => "too-long",
            Self::Header => "header",
            Self::Type => "type",
            Self::UnknownKey => "unknown-key",
            Self::Algorithm => "algorithm",
            Self::SignatureOrClaims => "signature-or-claims",
            Self::IssuedInFuture => "issued-in-future",
            Self::Lifetime => "lifetime",
            Self::Id => "id",
            Self::Subject => "subject",
        }
    }
}

/// All are required and have exactly these types: a claim of another type does not count as absent.
#[derive(Debug, Deserialize)]
struct Claims {
    /// The library takes a list too, in which ours is one of several.
    #[serde(rename = "iss")]
    _iss: String,
    sub: String,
    scope: String,
    iat: u64,
    exp: u64,
    jti: String,
    /// The library checks its value where it is present; this field checks its type.
    #[serde(rename = "nbf", default, deserialize_with = "present_number")]
    _nbf: Option<u64>,
}

/// A number, if the claim is present at all; `null` is not a number.
fn present_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    u64::deserialize(deserializer).map(Some)
}

/// Checks a token and returns its caller.
pub(super) fn check(token: &str, keys: &KeySet, rules: &Rules, now_s: u64) -> Result<Caller, Refused> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Refused::TooLong);
    }
    let header = decode_header(token).map_err(|_| Refused::Header)?;
    // RFC 9068, 2.1: an id token must not pass for an access token.
    let access_token = header.typ.as_deref().is_some_and(|typ| {
        typ.eq_ignore_ascii_case("at+jwt") || typ.eq_ignore_ascii_case("application/at+jwt")
    });
    if !access_token {
        return Err(Refused::Type);
    }
    // RFC 7515, 4.1.11: what is critical must be understood, and we understand no extension.
    if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
        return Err(Refused::Header);
    }
    // `jwk`, `jku` and `x5u` let the sender name its own key, so they are ignored.
    let key = header.kid.as_deref().and_then(|kid| keys.find(kid)).ok_or(Refused::UnknownKey)?;
    if header.alg != key.algorithm {
        return Err(Refused::Algorithm);
    }
    let mut validation = Validation::new(key.algorithm);
    validation.leeway = LEEWAY_S;
    validation.validate_nbf = true;
    validation.set_audience(&[&rules.audience]);
    validation.set_issuer(&[&rules.issuer]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let claims =
        decode::<Claims>(token, &key.key, &validation).map_err(|_| Refused::SignatureOrClaims)?.claims;
    if claims.iat > now_s + LEEWAY_S {
        return Err(Refused::IssuedInFuture);
    }
    if claims.exp.saturating_sub(claims.iat) > rules.lifetime_max.as_secs() {
        return Err(Refused::Lifetime);
    }
    if claims.jti.is_empty() {
        return Err(Refused::Id);
    }
    let user_id = UserId::parse(&claims.sub).map_err(|_| Refused::Subject)?;
    let granted = |scope: &&'static str| claims.scope.split(' ').any(|part| part == *scope);
    let scopes: Vec<_> = scope::ALL.into_iter().filter(granted).collect();
    let subject = Subject::new(&user_id, &scopes).ok_or(Refused::Subject)?;
    let valid = Duration::from_secs(claims.exp.saturating_sub(now_s)).min(VALID_TIME_MAX);
    Ok(Caller { user_id, scopes, subject, valid_until: Instant::now() + valid })
}

#[cfg(test)]
mod fuzz;
