//! The routes of all resources, and the layers that every request goes through. This is the top of the crate: only its
//! `start` imports it.

use std::time::Duration;

use axum::{Router, extract::State, middleware, response::Response, routing::get};
use holdfast_common::{admin, health::Health};

use crate::{
    api::{accounts, orders},
    http::{body, context, head},
    limit,
    problem::{Problem, ProblemType},
    state::Gateway,
};

/// Puts routes and layers together. The last layer is the outermost.
pub(crate) fn router(gateway: Gateway, deadline: Duration) -> Router {
    Router::new()
        .merge(orders::routes())
        .merge(accounts::routes())
        // `/openapi.json` and `/docs` will come here.
        .route("/healthz", get(liveness))
        .route("/readyz", get(readiness))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        // Authentication is not a layer but the `Allowed` parameter of each handler (crate::auth), so that a handler
        // without it is easy to see. The limits per subject are applied there too.
        //
        // Within the layer that drains bodies: a 429 would get lost if the connection were reset for an unread body.
        .layer(middleware::from_fn_with_state(gateway.limits.clone(), limit::limit))
        .layer(middleware::from_fn(body::limit))
        .layer(middleware::from_fn(head::refuse_ambiguous))
        .layer(middleware::from_fn(move |request, next| context::enter(deadline, request, next)))
        .with_state(gateway)
}

async fn liveness(State(health): State<Health>) -> Response {
    admin::liveness(&health)
}

async fn readiness(State(health): State<Health>) -> Response {
    admin::readiness(&health)
}

async fn no_such_path() -> Problem {
    Problem::new(ProblemType::NotFound, "no such path")
}

async fn no_such_method() -> Problem {
    Problem::new(ProblemType::MethodNotAllowed, "the path does not support this method")
}
