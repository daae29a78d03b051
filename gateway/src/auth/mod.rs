//! Who sends a request, and what they may do. A handler declares the scope that it needs with an [`Allowed`] parameter.

mod issuer;
mod keys;
mod source;
mod token;
mod verified;

use std::{marker::PhantomData, sync::Arc};

use axum::{
    extract::{FromRef, FromRequestParts},
    http::{HeaderMap, header, request::Parts},
};
use holdfast_common::metric;
use holdfast_proto::UserId;
use tokio::time::Instant;

use self::{
    issuer::Issuer,
    source::SourceError,
    token::{Caller, Refused, Rules},
};
use crate::{
    config::AuthConfig,
    http::Call,
    limit::{Limits, Place},
    problem::{Problem, ProblemType},
};

/// Checks tokens; clones share the keys.
#[derive(Debug, Clone)]
pub(crate) struct Authenticator {
    issuers: Arc<[Arc<Issuer>]>,
}

impl Authenticator {
    /// Reads the keys that are in files. An error names the file.
    pub(crate) fn load(config: &AuthConfig) -> Result<Self, SourceError> {
        let issuers = config.issuers().map(|(name, issuer)| {
            let rules = Rules {
                issuer: issuer.issuer.clone(),
                audience: config.audience.clone(),
                lifetime_max: config.lifetime_max,
            };
            Issuer::new(name, &issuer, rules).map(Arc::new)
        });
        Ok(Self { issuers: issuers.collect::<Result<_, _>>()? })
    }

    /// The issuers, to be kept up to date.
    pub(crate) fn issuers(&self) -> impl Iterator<Item = Arc<Issuer>> {
        self.issuers.iter().cloned()
    }

    /// Returns the sender of a request with these headers, or 401.
    fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Caller>, Problem> {
        bearer(headers).ok_or(Refused::Missing).and_then(|text| self.check(text)).map_err(|refused| {
            // Only we see the cause: a client that guesses must learn nothing from the response.
            metrics::counter!(metric::TOKENS_REFUSED_TOTAL, "cause" => refused.as_str()).increment(1);
            tracing::debug!(cause = refused.as_str(), "token refused");
            Problem::new(ProblemType::InvalidToken, "a valid access token is required")
                .challenge("Bearer error=\"invalid_token\"")
        })
    }

    /// A token is valid if one of the issuers says so. If none does, the reason of the one that came furthest counts: the
    /// others do not even know its key.
    fn check(&self, text: &str) -> Result<Arc<Caller>, Refused> {
        let mut reason = Refused::UnknownKey;
        for issuer in &*self.issuers {
            match issuer.check(text) {
                Ok(caller) => return Ok(caller),
                Err(Refused::UnknownKey) => {}
                Err(refused) => reason = refused,
            }
        }
        Err(reason)
    }
}

/// What a token can allow. Each scope is a type, so that a handler's signature says what the handler needs.
pub(crate) trait Scope {
    /// Its name in the `scope` claim.
    const NAME: &'static str;
}

/// The scopes of the contract.
pub(crate) mod scope {
    macro_rules! scopes {
        ($($type:ident = $name:ident),* $(,)?) => {$(
            #[derive(Debug, Clone, Copy)]
            pub(crate) struct $type;
            impl super::Scope for $type {
                const NAME: &'static str = holdfast_proto::scope::$name;
            }
        )*};
    }
    scopes! {
        OrdersRead = ORDERS_READ,
        OrdersWrite = ORDERS_WRITE,
        AccountsRead = ACCOUNTS_READ,
        AccountsCredit = ACCOUNTS_CREDIT,
    }
}

/// A caller with the scope `S` who is within its limits, checked before the body is read: 401 without a valid token, 429 over
/// a limit, 403 without the scope. The [`Call`] that a handler takes after it says to the services for whom it is.
#[derive(Debug)]
pub(crate) struct Allowed<S> {
    /// The token's `sub`.
    pub(crate) user_id: UserId,
    /// When the token expires: what goes on for longer ends then.
    pub(crate) valid_until: Instant,
    /// Counts as a request in progress for as long as the handler holds it.
    _place: Option<Place>,
    scope: PhantomData<S>,
}

impl<S, G> FromRequestParts<G> for Allowed<S>
where
    S: Scope,
    G: Send + Sync,
    Authenticator: FromRef<G>,
    Limits: FromRef<G>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &G) -> Result<Self, Problem> {
        let caller = Authenticator::from_ref(gateway).authenticate(&parts.headers)?;
        let place = Limits::from_ref(gateway).enter_subject(&caller.user_id, parts).await?;
        if caller.scopes.contains(&S::NAME) {
            if let Some(call) = parts.extensions.get_mut::<Call>() {
                call.subject = Some(caller.subject.clone());
            }
            let Caller { ref user_id, valid_until, .. } = *caller;
            return Ok(Self { user_id: user_id.clone(), valid_until, _place: place, scope: PhantomData });
        }
        let detail = format!("the token lacks the scope {}", S::NAME);
        Err(Problem::new(ProblemType::InsufficientScope, detail)
            .challenge("Bearer error=\"insufficient_scope\""))
    }
}

/// Returns the token of an `Authorization: Bearer` header; none if that header is repeated.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}
