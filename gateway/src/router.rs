//! The routes of all resources, and the layers that every request goes through. This is the top of the crate: only its
//! `start` imports it.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    middleware::{Next, from_fn},
    response::Response,
};

use crate::{
    api::{accounts, orders, probes},
    config::GatewayConfig,
    http::{
        body::{self, Bodies},
        context, head,
        headers::{self, Transport},
    },
    limit::{
        self, Limits,
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
    let passage = Arc::new(Passage {
        deadline: config.deadline,
        transport: if config.tls.is_some() { Transport::Tls } else { Transport::Plain },
        bodies: Bodies::new(config.sockets.bodies_bytes_max, config.sockets.body_bytes_per_second_min),
        gates: limits.are_enabled().then(Gates::default),
        limits,
    });
    let outside = passage.clone();
    match config.cors_origins.as_slice() {
        [] => routes.layer(from_fn(move |request, next: Next| {
            let passage = passage.clone();
            async move {
                passage.outside(request, |request| passage.inside(request, |request| next.run(request))).await
            }
        })),
        // The answer to a preflight request has our headers, and a page of these origins may read every refusal.
        origins => routes
            .layer(from_fn(move |request, next: Next| {
                let passage = passage.clone();
                async move { passage.inside(request, |request| next.run(request)).await }
            }))
            .layer(headers::cors(origins))
            .layer(from_fn(move |request, next: Next| {
                let passage = outside.clone();
                async move { passage.outside(request, |request| next.run(request)).await }
            })),
    }
}

/// What the steps on the way to a handler need. They are one layer together: each layer of a router costs every request a clone of all
/// layers within it.
#[derive(Debug)]
struct Passage {
    deadline: Duration,
    transport: Transport,
    bodies: Bodies,
    limits: Limits,
    gates: Option<Gates>,
}

impl Passage {
    /// The outermost steps. In both functions the last step comes first on the way in, and last on the way out.
    async fn outside<F: Future<Output = Response>>(
        &self,
        request: Request,
        next: impl FnOnce(Request) -> F,
    ) -> Response {
        let next = |request| headers::add(self.transport, request, next);
        context::enter(self.transport, self.deadline, request, next).await
    }

    /// The steps next to the handler. Authentication is not one of them but the `Allowed` parameter of each handler
    /// ([`crate::auth`]), so that a handler without it is easy to see. The limits per subject are applied there too.
    async fn inside<F: Future<Output = Response>>(
        &self,
        request: Request,
        next: impl FnOnce(Request) -> F,
    ) -> Response {
        // After the limits per address: what they refuse is no load.
        let next = |request| overload::shed(self.gates.as_ref(), request, next);
        // Within the step that drains bodies: a 429 would get lost if the connection were reset for an unread body.
        let next = |request| limit::limit(&self.limits, request, next);
        let next = |request| body::limit(&self.bodies, request, next);
        head::refuse(request, next).await
    }
}

async fn no_such_path() -> Problem {
    Problem::new(ProblemType::NotFound, "no such path")
}

async fn no_such_method() -> Problem {
    Problem::new(ProblemType::MethodNotAllowed, "the path does not support this method")
}

#[cfg(test)]
mod tests;
