//! What handlers share. Handlers and extractors take only the part that they need, such as `State<Upstream>`, so that they do
//! not depend on the whole.

use std::{ops::Deref, sync::Arc};

use axum::extract::FromRef;
use holdfast_common::health::Health;

use crate::{auth::Authenticator, cache::OrderCache, limit::Limits, live::Live, upstream::Upstream};

/// The state of the router. It is cloned several times for each request, so a clone is one count more.
#[derive(Debug, Clone)]
pub(crate) struct Gateway(Arc<Parts>);

impl Gateway {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for Gateway {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Each part is cheap to clone too: a request takes those that it needs.
#[derive(Debug)]
pub(crate) struct Parts {
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
