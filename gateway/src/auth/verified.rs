//! Tokens whose signature was checked already.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};
use lru::LruCache;

use tokio::time::Instant;

use super::token::Caller;

/// Most tokens that are remembered; about 300 bytes each.
const TOKENS_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("not 0");

/// Remembers tokens by their hash until they expire. It belongs to one state of the keys: with other keys there is a new one,
/// so a key that was withdrawn takes its tokens with it.
pub(super) struct VerifiedTokens(Mutex<LruCache<[u8; 32], Arc<Caller>>>);

impl Default for VerifiedTokens {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(TOKENS_MAX)))
    }
}

impl VerifiedTokens {
    /// The caller of a token that was put in, if it has not expired.
    pub(super) fn get(&self, token: &str) -> Option<Arc<Caller>> {
        // Before the lock: hashing takes longer than looking.
        let key = hash(token);
        let mut tokens = self.lock();
        let caller = tokens.get(&key)?.clone();
        if caller.valid_until <= Instant::now() {
            tokens.pop(&key);
            return None;
        }
        Some(caller)
    }

    pub(super) fn put(&self, token: &str, caller: Arc<Caller>) {
        let key = hash(token);
        self.lock().put(key, caller);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<[u8; 32], Arc<Caller>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Only the hash is kept: who reads the memory of the gateway finds no token in it.
fn hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use holdfast_common::subject::Subject;
    use holdfast_proto::UserId;

    use super::*;

    fn caller() -> Arc<Caller> {
        let valid_until = Instant::now() + Duration::from_secs(60);
        let user_id = UserId::parse("alice").expect("a user");
        let subject = Subject::new(&user_id, &[]).expect("text");
        Arc::new(Caller { user_id, scopes: Vec::new(), subject, valid_until })
    }

    /// A token is known until it expires, and the oldest makes room for a new one.
    #[tokio::test(start_paused = true)]
    async fn a_token_is_known_until_it_expires() {
        let tokens = VerifiedTokens::default();
        tokens.put("a", caller());
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(tokens.get("a").is_some());
        assert!(tokens.get("b").is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(tokens.get("a").is_none());
        tokens.put("oldest", caller());
        for number in 0..TOKENS_MAX.get() {
            tokens.put(&number.to_string(), caller());
        }
        assert!(tokens.get("oldest").is_none());
    }
}
