//! Who asks, and what they may. A handler says what it needs by its first parameter, an [`Allowed`] with a scope.

mod keys;
mod token;

use std::{marker::PhantomData, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    extract::{FromRef, FromRequestParts},
    http::{HeaderMap, header, request::Parts},
};
use holdfast_common::{
    error::{BoxError, chain},
    health::PeriodicTask,
};
use holdfast_proto::UserId;
use tokio_util::sync::CancellationToken;

use self::{
    keys::KeySet,
    token::{Caller, Refused},
};
use crate::{
    config::AuthConfig,
    problem::{Problem, ProblemType},
};

/// How often the key file is compared with what is in use.
const RELOAD_EVERY: Duration = Duration::from_secs(2);
/// A key that the issuer has withdrawn must not be accepted for long.
pub(crate) const RELOAD_SUCCESS_EVERY_MAX: Duration = Duration::from_secs(15);

/// Checks tokens; clones share the keys.
#[derive(Debug, Clone)]
pub(crate) struct Authenticator {
    config: Arc<AuthConfig>,
    keys: Arc<ArcSwap<KeySet>>,
}

impl Authenticator {
    /// Reads the keys; an error names the file.
    pub(crate) fn load(config: &AuthConfig) -> Result<Self, BoxError> {
        let keys = KeySet::load(&config.jwks_file)?;
        Ok(Self { config: Arc::new(config.clone()), keys: Arc::new(ArcSwap::from_pointee(keys)) })
    }

    /// Keeps the keys in step with the file until `stop`. What can't be read is refused and the old stays.
    pub(crate) async fn follow(self, task: PeriodicTask, stop: CancellationToken) {
        let mut tick = tokio::time::interval(RELOAD_EVERY);
        let mut refused = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            match KeySet::load(&self.config.jwks_file) {
                Ok(keys) if keys.is_same(&self.keys.load()) => {
                    task.succeeded();
                    refused = None;
                }
                Ok(keys) => {
                    task.succeeded();
                    refused = None;
                    self.keys.store(Arc::new(keys));
                    tracing::info!("token keys reloaded");
                }
                Err(error) => {
                    metrics::counter!("jwks_reload_failures_total").increment(1);
                    // Said once per mistake, counted each time.
                    let text = chain(&error);
                    task.failed(text.as_str());
                    if refused.as_ref() != Some(&text) {
                        tracing::error!(error = text, "token keys refused, the old ones stay");
                        refused = Some(text);
                    }
                }
            }
        }
    }

    /// Returns who sent a request with these headers, or 401.
    fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        bearer(headers)
            .ok_or(Refused::Missing)
            .and_then(|text| token::check(text, &self.keys.load(), &self.config))
            .map_err(|refused| {
                // The cause is for us; a client that guesses learns nothing from the answer.
                metrics::counter!("tokens_refused_total", "cause" => refused.as_str()).increment(1);
                tracing::debug!(cause = refused.as_str(), "token refused");
                Problem::new(ProblemType::InvalidToken, "a valid access token is required")
                    .challenge("Bearer error=\"invalid_token\"")
            })
    }
}

/// What a token can allow, each a type of its own, so that a handler says in its signature what it needs.
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

/// A caller who may do `S`; checked before the body is read. 401 without a valid token, 403 without the scope.
#[derive(Debug, Clone)]
pub(crate) struct Allowed<S> {
    /// Who.
    pub(crate) user_id: UserId,
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
            return Ok(Self { user_id: caller.user_id, scope: PhantomData });
        }
        let detail = format!("the token lacks the scope {}", S::NAME);
        Err(Problem::new(ProblemType::InsufficientScope, detail)
            .challenge("Bearer error=\"insufficient_scope\""))
    }
}

/// The token of the one `Authorization: Bearer` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}
