//! The REST edge: authenticates and checks requests, turns them into gRPC calls, and turns every failure into
//! `application/problem+json`.
//!
//! From top to bottom; a module imports only from below:
//!
//! - [`router`]: the routes of all resources, and the layers that every request goes through;
//! - [`openapi`]: the document that describes all of them, and a page to try them;
//! - [`api`]: the operations, one file each, and the routes of each resource;
//! - [`state`]: what handlers share;
//! - [`auth`]: tokens and scopes;
//! - [`limit`]: how much a client may send;
//! - [`cache`]: what is known of orders;
//! - [`live`]: changes of orders, pushed to the clients that watch them;
//! - [`redis`]: what gateways share, while it is there;
//! - [`upstream`]: the services that are called, and what their status codes mean here;
//! - [`settings`]: those settings that are followed while the gateway runs;
//! - [`http`]: request context, limits of a request, strict JSON; connections are [`holdfast_common::http`];
//! - [`problem`]: failures as a client sees them.

mod api;
mod auth;
mod cache;
mod config;
mod http;
mod limit;
mod live;
mod openapi;
mod problem;
mod redis;
mod router;
mod settings;
mod state;
mod upstream;

use std::process::ExitCode;

use holdfast_common::{
    client::Replicas,
    error::BoxError,
    http::{Server, Tls},
    identity::Identity,
    participant::finished,
    reload,
    service::{Context, bind, run_service},
};

pub use crate::config::Config;
use crate::{
    auth::Authenticator,
    cache::OrderCache,
    limit::Limits,
    live::Live,
    redis::Redis,
    settings::Followed,
    state::{Gateway, Parts},
    upstream::{Upstream, UpstreamAddresses},
};

/// Runs the gateway to its end. Not in `main`, because what is asynchronous is compiled where it is run, and so would be compiled
/// a second time.
pub fn run() -> ExitCode {
    run_service("gateway", start)
}

async fn start(context: &mut Context, config: Config) -> Result<(), BoxError> {
    let identity = Identity::load(config.identity)?;
    let authenticator = Authenticator::load(&config.auth)?;
    let addresses = UpstreamAddresses::of(&config.upstream)?;
    let upstream = Upstream::new(&addresses, &config.upstream, &identity)?;
    let redis = config.redis.as_ref().map(Redis::new).transpose()?;
    let limits = Limits::new(&config.limits, redis.as_ref());
    let listener = bind(config.gateway.listen).await?;
    let stop = context.stop.clone();
    let cache = OrderCache::new(&config.cache, redis.as_ref());
    let live = Live::new(&config.gateway.streams, upstream.clone(), cache.clone(), stop.clone());
    let replicas = Replicas::new(&addresses.order, &config.upstream.order, &identity)?;
    if let Some(file) = context.config_file.clone() {
        let followed = Followed { addresses, cache: cache.clone() };
        let reload = context.health.periodic(settings::RELOAD, reload::SUCCESS_EVERY_MAX);
        context.spawn("settings", finished(followed.reload_on_change(file, reload, stop.clone())));
    }
    let component = context.health.component("order-changes");
    context.spawn("order changes", finished(live.clone().follow(replicas, component)));

    let gateway = Gateway::new(Parts {
        authenticator: authenticator.clone(),
        upstream: upstream.clone(),
        limits: limits.clone(),
        cache,
        live,
        health: context.health.clone(),
    });
    let router = router::router(gateway, &config.gateway);
    let tls = config.gateway.tls.map(Tls::load).transpose()?;
    if let Some(tls) = tls.clone() {
        let reload = context.health.periodic("edge-certificate-reload", reload::SUCCESS_EVERY_MAX);
        context.spawn("edge-certificate", finished(tls.reload_on_change(reload, stop.clone())));
    }
    let proxies = config.limits.proxies.of_connections();
    let server = Server { name: "gateway", limits: config.gateway.sockets.connections(), tls, proxies };
    context.spawn("http", finished(server.serve(listener, router, stop.clone())));
    let reload = context.health.periodic("certificate-reload", reload::SUCCESS_EVERY_MAX);
    context.spawn("identity", finished(identity.reload_on_change(reload, stop.clone())));
    for issuer in authenticator.issuers() {
        context.spawn("jwks", finished(issuer.keep_up_to_date(&context.health, stop.clone())));
    }
    if let Some(redis) = redis {
        // Not required: without it each gateway has limits of its own.
        let component = context.health.component("redis");
        context.spawn("redis", finished(redis.keep_connected(component, stop.clone())));
    }
    let sweep = context.health.periodic("limit-sweep", limit::SWEEP_SUCCESS_EVERY_MAX);
    context.spawn("limit-sweep", finished(limits.sweep(sweep, stop.clone())));
    // The services are not required: without one of them the gateway still responds, with 503.
    for (name, service) in upstream.services() {
        let component = context.health.component(name);
        context.spawn(name, finished(upstream::probe(service, component, stop.clone())));
    }
    Ok(())
}
