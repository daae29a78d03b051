//! What handlers share. Handlers and extractors take only the part that they need, such as `State<Upstream>`, so that they do
//! not depend on the whole.

use axum::extract::FromRef;
use holdfast_common::health::Health;

use crate::{auth::Authenticator, cache::OrderCache, limit::Limits, live::Live, upstream::Upstream};

/// The state of the router. It is cloned for each request, so every part is cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    pub(crate) authenticator: Authenticator,
    pub(crate) upstream: Upstream,
    pub(crate) limits: Limits,
    pub(crate) cache: OrderCache,
    pub(crate) live: Live,
    pub(crate) health: Health,
}

impl FromRef<Gateway> for Authenticator {
    fn from_ref(gateway: &Gateway) -> Self {
        gateway.authenticator.clone()
    }
}

impl FromRef<Gateway> for Upstream {
    fn from_ref(gateway: &Gateway) -> Self {
        gateway.upstream.clone()
    }
}

impl FromRef<Gateway> for Limits {
    fn from_ref(gateway: &Gateway) -> Self {
        gateway.limits.clone()
    }
}

impl FromRef<Gateway> for OrderCache {
    fn from_ref(gateway: &Gateway) -> Self {
        gateway.cache.clone()
    }
}

impl FromRef<Gateway> for Live {
    fn from_ref(gateway: &Gateway) -> Self {
        gateway.live.clone()
    }
}

impl FromRef<Gateway> for Health {
    fn from_ref(gateway: &Gateway) -> Self {
        gateway.health.clone()
    }
}
