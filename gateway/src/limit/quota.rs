//! A quota as a request meets it: counted by this gateway, and, with Redis, by all of them together.

use std::hash::Hash;

use axum::http::HeaderValue;

use super::{
    bucket::{Buckets, Standing, Terms},
    headers,
    shared::SharedBuckets,
};
use crate::{config::QuotaConfig, redis::Redis};

/// Most keys that this gateway counts. 17 to 34 bytes each.
const KEYS_MAX: usize = 262_144;

/// See the module.
#[derive(Debug)]
pub(super) struct Quota {
    own: Buckets,
    /// What answers say of it.
    pub(super) header: HeaderValue,
    shared: Option<SharedBuckets>,
}

impl Quota {
    pub(super) fn new(policy: &'static str, config: QuotaConfig, redis: Option<&Redis>) -> Self {
        let terms = Terms::new(policy, config);
        let shared = redis.map(|redis| SharedBuckets::new(terms, redis.clone()));
        let header = headers::policy(policy, terms.burst(), terms.window());
        Self { own: Buckets::new(terms, KEYS_MAX), header, shared }
    }

    /// Takes one request's worth from the key's bucket, or refuses.
    pub(super) async fn take(&self, key: impl Hash + ToString) -> Result<Standing, Standing> {
        // What is too much for one gateway is too much for all of them, so a flood does not reach Redis; and this gateway's count
        // is up to date when Redis goes away.
        let own = self.own.take(&key)?;
        match &self.shared {
            None => Ok(own),
            Some(shared) => Box::pin(shared.take(&key.to_string())).await.unwrap_or(Ok(own)),
        }
    }

    /// Drops the keys of this gateway whose bucket is full again, and returns their memory. Returns how many are left.
    pub(super) fn sweep(&self) -> usize {
        self.own.sweep()
    }

    pub(super) const fn policy(&self) -> &'static str {
        self.own.policy()
    }
}
