//! The admin port: `/metrics` for Prometheus, `/healthz` and `/readyz` for supervisors. Plain HTTP; it listens on
//! loopback or a private network and shows nothing secret.

use std::{collections::BTreeMap, net::SocketAddr};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::{ComponentState, Health};

#[derive(Clone)]
struct Admin {
    health: Health,
    metrics: PrometheusHandle,
}

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(Admin { health, metrics });
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
}

async fn metrics_page(State(admin): State<Admin>) -> impl IntoResponse {
    admin.health.publish();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], admin.metrics.render())
}

async fn healthz(State(admin): State<Admin>) -> Response {
    liveness(&admin.health)
}

async fn readyz(State(admin): State<Admin>) -> Response {
    readiness(&admin.health)
}

/// 200, or 503 with the names of the loops that make no progress.
#[must_use]
pub fn liveness(health: &Health) -> Response {
    #[derive(Serialize)]
    struct Body {
        alive: bool,
        stalled: Vec<&'static str>,
    }
    let stalled = health.stalled();
    let body = Body { alive: stalled.is_empty(), stalled };
    json(if body.alive { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
}

/// 200, or 503 if a part that callers need is away; either way it lists each part with its state and the reason.
#[must_use]
pub fn readiness(health: &Health) -> Response {
    #[derive(Serialize)]
    struct Body {
        ready: bool,
        degraded: bool,
        components: BTreeMap<&'static str, ComponentState>,
    }
    let body =
        Body { ready: health.is_ready(), degraded: health.is_degraded(), components: health.components() };
    json(if body.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_string(body) {
        Ok(text) => (status, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
