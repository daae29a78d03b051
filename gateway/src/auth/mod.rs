//! Who sends a request, and what they may do. A handler declares the scope that it needs with an [`Allowed`] parameter.

mod keys;
mod token;

use std::{marker::PhantomData, sync::Arc};

use arc_swap::ArcSwap;
use axum::{
    extract::{FromRef, FromRequestParts},
    http::{HeaderMap, header, request::Parts},
};
use holdfast_common::{
    error::BoxError,
    health::PeriodicTask,
    metric,
    reload::{self, Reload},
};
use holdfast_proto::UserId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    keys::{KeySet, KeySetError},
    token::{Caller, Refused},
};
use crate::{
    config::AuthConfig,
    problem::{Problem, ProblemType},
};

/// Checks tokens; clones share the keys.
#[derive(Debug, Clone)]
pub(crate) struct Authenticator {
    config: Arc<AuthConfig>,
    keys: Arc<ArcSwap<KeySet>>,
}

impl Authenticator {
    /// Reads the keys. An error names the file.
    pub(crate) fn load(config: &AuthConfig) -> Result<Self, BoxError> {
        let keys = KeySet::load(&config.jwks_file)?;
        Ok(Self { config: Arc::new(config.clone()), keys: Arc::new(ArcSwap::from_pointee(keys)) })
    }

    /// Reloads the keys when the file changes, until `stop`. A file that can't be used is refused, and the old keys stay.
    pub(crate) async fn reload_on_change(self, task: PeriodicTask, stop: CancellationToken) {
        let failures = metric::JWKS_RELOAD_FAILURES_TOTAL;
        reload::reload_on_change("token keys", failures, || self.reload(), task, stop).await;
    }

    fn reload(&self) -> Result<Reload, KeySetError> {
        let keys = KeySet::load(&self.config.jwks_file)?;
        if keys.is_same(&self.keys.load()) {
            return Ok(Reload::Unchanged);
        }
        self.keys.store(Arc::new(keys));
        Ok(Reload::Swapped)
    }

    /// Returns the sender of a request with these headers, or 401.
    fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        bearer(headers)
            .ok_or(Refused::Missing)
            .and_then(|text| token::check(text, &self.keys.load(), &self.config))
            .map_err(|refused| {
                // Only we see the cause: a client that guesses must learn nothing from the response.
                metrics::counter!(metric::TOKENS_REFUSED_TOTAL, "cause" => refused.as_str()).increment(1);
                tracing::debug!(cause = refused.as_str(), "token refused");
                Problem::new(ProblemType::InvalidToken, "a valid access token is required")
                    .challenge("Bearer error=\"invalid_token\"")
            })
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
        ($($type:ident = $name:literal),* $(,)?) => {$(
            #[derive(Debug, Clone, Copy)]
            pub(crate) struct $type;
            impl super::Scope for $type {
                const NAME: &'static str = $name;
            }
        )*};
    }
    scopes! {
        OrdersRead = "orders:read",
        OrdersWrite = "orders:write",
        AccountsRead = "accounts:read",
        AccountsCredit = "accounts:credit",
    }
}

/// A caller with the scope `S`, checked before the body is read: 401 without a valid token, 403 without the scope.
#[derive(Debug, Clone)]
pub(crate) struct Allowed<S> {
    /// The token's `sub`.
    pub(crate) user_id: UserId,
    /// When the token expires: what goes on for longer ends then.
    pub(crate) valid_until: Instant,
    scope: PhantomData<S>,
}

impl<S, G> FromRequestParts<G> for Allowed<S>
where
    S: Scope,
    G: Send + Sync,
    Authenticator: FromRef<G>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, gateway: &G) -> Result<Self, Problem> {
        let caller = Authenticator::from_ref(gateway).authenticate(&parts.headers)?;
        if caller.scopes.iter().any(|granted| granted == S::NAME) {
            return Ok(Self { user_id: caller.user_id, valid_until: caller.valid_until, scope: PhantomData });
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
