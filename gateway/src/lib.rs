//! The REST edge: authenticates and checks requests, turns them into gRPC calls, and turns every failure into
//! `application/problem+json`.
//!
//! From top to bottom; a module imports only from below:
//!
//! - [`router`]: the routes of all resources, and the layers that every request goes through;
//! - [`api`]: the operations, one file each, and the routes of each resource;
//! - [`state`]: what handlers share;
//! - [`auth`]: tokens and scopes;
//! - [`upstream`]: the services that are called, and what their status codes mean here;
//! - [`http`]: request context, limits of a request, strict JSON; connections are [`holdfast_common::http`];
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
    http::{Server, Tls},
    identity::Identity,
    participant::finished,
    reload,
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
    let router = router::router(gateway, &config.gateway);
    let tls = config.gateway.tls.map(Tls::load).transpose()?;
    if let Some(tls) = tls.clone() {
        let reload = context.health.periodic("edge-certificate-reload", reload::SUCCESS_EVERY_MAX);
        context.spawn("edge-certificate", finished(tls.reload_on_change(reload, stop.clone())));
    }
    let server = Server { name: "gateway", limits: config.gateway.sockets.connections(), tls };
    context.spawn("http", finished(server.serve(listener, router, stop.clone())));
    let reload = context.health.periodic("certificate-reload", reload::SUCCESS_EVERY_MAX);
    context.spawn("identity", finished(identity.reload_on_change(reload, stop.clone())));
    let reload = context.health.periodic("key-set-reload", reload::SUCCESS_EVERY_MAX);
    context.spawn("jwks", finished(authenticator.reload_on_change(reload, stop.clone())));
    // The keys were loaded above, and a failed reload keeps them. The services are not required: without one of them the
    // gateway still responds, with 503.
    context.health.required("keys").ready();
    for (name, service) in upstream.services() {
        let component = context.health.component(name);
        context.spawn(name, finished(upstream::probe(service, component, stop.clone())));
    }
    Ok(())
}
