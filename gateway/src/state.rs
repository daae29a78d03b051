//! What handlers share. Each handler and extractor takes the part that it needs, as in `State<Upstream>`, so that none
//! depends on the whole.

use axum::extract::FromRef;
use holdfast_common::health::Health;

use crate::{auth::Authenticator, upstream::Upstream};

/// The state of the router. It is cloned for every request, so each part is a handle.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    pub(crate) authenticator: Authenticator,
    pub(crate) upstream: Upstream,
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

impl FromRef<Gateway> for Health {
    fn from_ref(gateway: &Gateway) -> Self {
        gateway.health.clone()
    }
}
