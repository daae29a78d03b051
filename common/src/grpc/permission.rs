//! Who may call what, by the identity that the handshake proved.

use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{HEALTH_SERVICE, Permissions, service_of};
use crate::identity::Peer;

/// Lets a call pass if the table allows it to the peer; everything else is `PERMISSION_DENIED`.
#[derive(Debug, Clone)]
pub(super) struct PermissionLayer {
    pub(super) permissions: Permissions,
}

impl<S> Layer<S> for PermissionLayer {
    type Service = PermissionService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PermissionService { inner, permissions: self.permissions }
    }
}

/// See [`PermissionLayer`].
#[derive(Debug, Clone)]
pub(super) struct PermissionService<S> {
    inner: S,
    permissions: Permissions,
}

fn may_call(permissions: Permissions, path: &str, peer: Option<&Peer>) -> bool {
    let (Some(service), Some(peer)) = (service_of(path), peer) else { return false };
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
        metrics::counter!(crate::metric::GRPC_PERMISSION_DENIED_TOTAL).increment(1);
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
        Peer { id: Arc::new(id), serial: "01".into(), not_after: i64::MAX }
    }

    /// Except for health, only the table allows a method; a peer without an identity may call nothing.
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
