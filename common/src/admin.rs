//! The admin port: `/metrics` for Prometheus, `/healthz` and `/readyz` for supervisors. Plain HTTP; it listens on
//! loopback or a private network and shows nothing secret.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    error::BoxError,
    health::{ComponentState, Health},
    http::{self, Limits, Server},
};

/// Connections at a time: probes, Prometheus and an operator. When all are taken, silent ones go first, so that a port scanner
/// locks nobody out.
const CONNECTIONS_MAX: usize = 64;

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
) {
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .layer(middleware::from_fn(http::refuse))
        .with_state(Admin { health, metrics });
    let limits = Limits {
        connections_max: CONNECTIONS_MAX,
        // Probes, and proxies of an orchestrator, all come from one address.
        connections_per_address_max: CONNECTIONS_MAX + 1,
        ..Limits::default()
    };
    let server = Server { name: "admin", limits, tls: None, proxies: Vec::new() };
    server.serve(listener, router, stop).await;
}

/// How long a process may take to say whether it is ready.
const ASK_TIME_MAX: Duration = Duration::from_secs(2);
/// Far more than it says.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Asks the process that listens on this address whether it is ready. An error says what it said instead.
pub fn ask_ready(listen: SocketAddr) -> Result<(), BoxError> {
    let mut address = listen;
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let answer = ask(address).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("{address} does not answer within {} s", ASK_TIME_MAX.as_secs())
        }
        _ => format!("cannot ask {address}: {error}"),
    })?;
    if answer.starts_with("HTTP/1.1 200 ") {
        return Ok(());
    }
    let body = answer.split_once("\r\n\r\n").map_or(answer.as_str(), |(_, body)| body);
    Err(format!("not ready: {body}").into())
}

/// What the process at this address says, head and body.
fn ask(address: SocketAddr) -> io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&address, ASK_TIME_MAX)?;
    connection.set_read_timeout(Some(ASK_TIME_MAX))?;
    connection.set_write_timeout(Some(ASK_TIME_MAX))?;
    write!(connection, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    connection.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
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

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::select_all};
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    /// Whoever opens connections to the admin port and says nothing locks nobody out.
    #[tokio::test]
    async fn silent_connections_lock_nobody_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, Health::default(), metrics, stop.clone()));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.expect("connected"));
        }
        let mut probe = TcpStream::connect(address).await.expect("connected");
        probe
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .expect("sent");
        let mut answer = String::new();
        probe.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        // In the place of one of them, whose time for a head has not passed yet.
        let ends = silent.iter_mut().map(|connection| connection.read_u8().boxed());
        let gone = tokio::time::timeout(Duration::from_secs(2), select_all(ends)).await;
        gone.expect("there is no end of connections").0.expect_err("it says nothing");
        stop.cancel();
        server.await.expect("ended in order");
    }

    /// Whoever asks a process learns whether it is ready, and otherwise why not in words that name the address.
    #[tokio::test]
    async fn a_process_says_whether_it_is_ready() {
        let ask = async |address: SocketAddr| {
            let asked =
                tokio::task::spawn_blocking(move || ask_ready(address).map_err(|error| error.to_string()));
            asked.await.expect("no panic")
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let (health, stop) = (Health::default(), CancellationToken::new());
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let server = tokio::spawn(serve(listener, health.clone(), metrics, stop.clone()));
        let database = health.required("database");
        database.ready();
        assert_eq!(ask(address).await, Ok(()));
        database.waiting("it is away");
        let refused = ask(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()))).await;
        assert!(refused.expect_err("not ready").contains("it is away"));
        stop.cancel();
        server.await.expect("ended in order");
        assert!(ask(address).await.expect_err("nobody").contains(&address.to_string()));

        let silent = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = silent.local_addr().expect("bound");
        assert_eq!(ask(address).await, Err(format!("{address} does not answer within 2 s")));
    }
}
