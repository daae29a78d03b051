//! The HTTP side: one function shows everything that a request goes through.

mod body;
mod context;
pub(crate) mod json;
pub(crate) mod problem;
pub(crate) mod server;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use holdfast_common::admin;

pub(crate) use self::context::Call;
use self::problem::Problem;
use crate::{Gateway, api};

/// All routes, and around them what every request goes through, outermost last.
pub(crate) fn router(gateway: Arc<Gateway>, deadline: Duration) -> Router {
    let (live, ready) = (gateway.health.clone(), gateway.health.clone());
    Router::new()
        .merge(api::orders::routes())
        .merge(api::accounts::routes())
        .with_state(gateway)
        // `GET /api/orders/{id}/events`, `/openapi.json` and `/docs` come here.
        .route("/healthz", get(async move || admin::liveness(&live)))
        .route("/readyz", get(async move || admin::readiness(&ready)))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not-found", "no such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "the path does not have this method",
            )
        })
        // Authentication is the `Allowed` extractor of each handler (crate::auth), so that a route without it is seen
        // where it is written; the rate limit per subject comes behind it.
        .layer(middleware::from_fn(body::limit))
        .layer(middleware::from_fn(check_head))
        // The rate limit per client address comes here, before any work.
        .layer(middleware::from_fn(move |request, next| context::enter(deadline, request, next)))
}

/// Refuses heads that two parties could read in two ways.
async fn check_head(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Problem::malformed("more than one Host header").into_response();
    }
    if headers.contains_key(header::CONTENT_LENGTH) && headers.contains_key(header::TRANSFER_ENCODING) {
        return Problem::malformed("both Content-Length and Transfer-Encoding").into_response();
    }
    next.run(request).await
}
