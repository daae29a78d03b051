//! The server column of every service: accept (mTLS) > limits > who may call what > handlers.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, metadata::MetadataMap, service::Routes, transport::Server};
use tower::{Layer, Service};

use crate::{
    health::Health,
    identity::{Identity, Peer, acceptor},
    service::BoxError,
};

/// Streams that one connection may have open; the rest wait at the client.
const STREAMS_MAX: u32 = 256;
/// Answers to a silent peer: ping after 10 s, give up 5 s later (pitfalls P28).
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_WAIT_MAX: Duration = Duration::from_secs(5);
/// A connection lives this long, then the client is asked to make a new one: it comes back with the certificate of
/// today and spreads over new replicas.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(300);
/// Bytes of all header fields of one request.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// Who may call which gRPC service: package-qualified service name and the names of the callers.
pub type Permissions = &'static [(&'static str, &'static [&'static str])];

/// Serves `routes` until `stop`, then finishes the calls in hand.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    permissions: Permissions,
    routes: Routes,
    health: Health,
    stop: CancellationToken,
) -> Result<(), BoxError> {
    let (reporter, health_service) = tonic_health::server::health_reporter();
    tokio::spawn(async move {
        let mut ready = health.watch();
        loop {
            let status = if *ready.borrow_and_update() {
                tonic_health::ServingStatus::Serving
            } else {
                tonic_health::ServingStatus::NotServing
            };
            reporter.set_service_status("", status).await;
            if ready.changed().await.is_err() {
                return;
            }
        }
    });
    let incoming = acceptor::accept(listener, identity, stop.clone());
    Server::builder()
        .max_concurrent_streams(Some(STREAMS_MAX))
        .http2_max_header_list_size(Some(HEADER_BYTES_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_WAIT_MAX))
        .max_connection_age(CONNECTION_AGE_MAX)
        .layer(PermissionLayer { permissions })
        .add_routes(routes)
        .add_service(health_service)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await?;
    Ok(())
}

/// The W3C trace context of a call, for the events that it causes. What is not one is left out, never passed on.
#[must_use]
pub fn traceparent(metadata: &MetadataMap) -> Option<String> {
    let text = metadata.get("traceparent")?.to_str().ok()?;
    let plain = text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    (text.len() == 55 && plain).then(|| text.to_owned())
}

/// Lets a call pass if the table allows it to the peer; everything else is `PERMISSION_DENIED`.
#[derive(Debug, Clone)]
struct PermissionLayer {
    permissions: Permissions,
}

impl<S> Layer<S> for PermissionLayer {
    type Service = PermissionService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PermissionService { inner, permissions: self.permissions }
    }
}

/// See [`PermissionLayer`].
#[derive(Debug, Clone)]
struct PermissionService<S> {
    inner: S,
    permissions: Permissions,
}

/// Anyone with a certificate of ours may ask for health.
const HEALTH_SERVICE: &str = "grpc.health.v1.Health";

fn may_call(permissions: Permissions, path: &str, peer: Option<&Peer>) -> bool {
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
    let (Some(service), Some(peer)) = (service, peer) else { return false };
    service == HEALTH_SERVICE
        || permissions
            .iter()
            .any(|(allowed, callers)| *allowed == service && callers.contains(&peer.id.name()))
}

impl<S, B> Service<Request<B>> for PermissionService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        if may_call(self.permissions, request.uri().path(), peer) {
            return Either::Left(self.inner.call(request));
        }
        metrics::counter!("grpc_permission_denied_total").increment(1);
        tracing::warn!(
            peer = peer.map(|peer| peer.id.to_string()),
            method = request.uri().path(),
            "call refused"
        );
        let status = Status::permission_denied("this identity may not call this method");
        Either::Right(ready(Ok(status.into_http())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::identity::SpiffeId;

    const TABLE: Permissions = &[("holdfast.order.v1.OrderService", &["gateway"])];

    fn peer(name: &str) -> Peer {
        let id = SpiffeId::parse(&format!("spiffe://holdfast.internal/{name}")).expect("an id");
        Peer { id: Arc::new(id) }
    }

    /// Only the table opens a method, health apart; a peer without identity opens nothing.
    #[test]
    fn only_the_table_opens_a_method() {
        let create = "/holdfast.order.v1.OrderService/CreateOrder";
        let health = "/grpc.health.v1.Health/Check";
        for (path, caller, expected) in [
            (create, Some("gateway"), true),
            (create, Some("operator"), false),
            (create, Some("payment"), false),
            (create, None, false),
            (health, Some("payment"), true),
            (health, None, false),
            ("/holdfast.ops.v1.DeadLetterService/ListDeadLetters", Some("operator"), false),
            ("/holdfast.order.v1.OrderServiceX/CreateOrder", Some("gateway"), false),
            ("holdfast.order.v1.OrderService", Some("gateway"), false),
            ("/", Some("gateway"), false),
        ] {
            let peer = caller.map(peer);
            assert_eq!(may_call(TABLE, path, peer.as_ref()), expected, "{caller:?} {path}");
        }
    }
}
