//! The routes of all resources, and the layers that every request goes through. This is the top of the crate: only its
//! `start` imports it.

use axum::{Router, middleware};

use crate::{
    api::{accounts, orders, probes},
    config::GatewayConfig,
    http::{
        body::{self, Bodies},
        context, head,
        headers::{self, Transport},
    },
    limit::{
        self, Limits, hold_back,
        overload::{self, Gates},
    },
    openapi,
    problem::{Problem, ProblemType},
    state::Gateway,
};

/// Puts routes and layers together. The last layer is the outermost.
pub(crate) fn router(gateway: Gateway, config: &GatewayConfig) -> Router {
    let limits = gateway.limits.clone();
    let routes =
        api().merge(openapi::routes()).fallback(no_such_path).method_not_allowed_fallback(no_such_method);
    layered(routes.with_state(gateway), limits, config)
}

/// The operations; [`openapi`] describes all of them.
fn api() -> Router<Gateway> {
    Router::new().merge(orders::routes()).merge(accounts::routes()).merge(probes::routes())
}

/// What every request goes through, whatever its path.
fn layered(routes: Router, limits: Limits, config: &GatewayConfig) -> Router {
    let deadline = config.deadline;
    let bodies = Bodies::new(config.sockets.bodies_bytes_max, config.sockets.body_bytes_per_second_min);
    let transport = if config.tls.is_some() { Transport::Tls } else { Transport::Plain };
    let gates = limits.are_enabled().then(Gates::default);
    let router = routes
        // Authentication is not a layer but the `Allowed` parameter of each handler (crate::auth), so that a handler
        // without it is easy to see. The limits per subject are applied there too.
        //
        // After the limits per address: what they refuse is no load.
        .layer(middleware::from_fn(move |request, next| overload::shed(gates.clone(), request, next)))
        // Within the layer that drains bodies: a 429 would get lost if the connection were reset for an unread body.
        .layer(middleware::from_fn_with_state(limits, limit::limit))
        .layer(middleware::from_fn(hold_back::hold_back))
        .layer(middleware::from_fn(move |request, next| body::limit(bodies.clone(), request, next)))
        .layer(middleware::from_fn(head::refuse));
    let router = match config.cors_origins.as_slice() {
        [] => router,
        origins => router.layer(headers::cors(origins)),
    };
    router
        .layer(middleware::from_fn(move |request, next| headers::add(transport, request, next)))
        .layer(middleware::from_fn(move |request, next| context::enter(deadline, request, next)))
}

async fn no_such_path() -> Problem {
    Problem::new(ProblemType::NotFound, "no such path")
}

async fn no_such_method() -> Problem {
    Problem::new(ProblemType::MethodNotAllowed, "the path does not support this method")
}

#[cfg(test)]
mod tests;
