//! The REST edge: checks who asks and for what, and turns REST into gRPC and every failure into
//! `application/problem+json`.
//!
//! From the top; each imports only what stands below it:
//!
//! - [`router`]: the routes, and the layers that every request goes through;
//! - [`state`]: what handlers share;
//! - [`api`]: the operations: parse, call, respond;
//! - [`auth`]: tokens and scopes;
//! - [`upstream`]: the three services, and what their status codes mean here;
//! - [`http`]: connections, request context, strict JSON;
//! - [`problem`]: failures as a client sees them.

mod api;
mod auth;
mod config;
mod http;
mod problem;
mod router;
mod state;
mod upstream;

use holdfast_common::{
    error::BoxError,
    identity::{self, Identity},
    participant::finished,
    service::{Context, bind},
};

pub use crate::config::Config;
use crate::{auth::Authenticator, state::Gateway, upstream::Upstream};

/// Starts the gateway.
pub async fn start(context: &mut Context, config: Config) -> Result<(), BoxError> {
    let identity = Identity::load(config.identity)?;
    let authenticator = Authenticator::load(&config.auth)?;
    let upstream = Upstream::new(&config.upstream, &identity)?;
    let listener = bind(config.gateway.listen).await?;
    let stop = context.stop.clone();

    let gateway = Gateway {
        authenticator: authenticator.clone(),
        upstream: upstream.clone(),
        health: context.health.clone(),
    };
    let router = router::router(gateway, config.gateway.deadline);
    context.spawn("http", http::server::serve(listener, router, stop.clone()));
    let reload = context.health.periodic("certificate-reload", identity::RELOAD_SUCCESS_EVERY_MAX);
    context.spawn("identity", finished(identity.follow(reload, stop.clone())));
    let reload = context.health.periodic("key-set-reload", auth::RELOAD_SUCCESS_EVERY_MAX);
    context.spawn("jwks", finished(authenticator.follow(reload, stop.clone())));
    // Loaded above; reloads keep the last good keys. The services are not needed to answer, if only with 503.
    context.health.required("keys").ready();
    for (name, service) in upstream.services() {
        let component = context.health.component(name);
        context.spawn(name, finished(upstream::follow(service, component, stop.clone())));
    }
    Ok(())
}
