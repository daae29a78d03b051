//! Connections that are open before somebody needs them.
//!
//! Over TLS a new one takes about 100 ms, of which 80 pass in waiting: version 0.9.0 of sqlx leaves Nagle's algorithm on, so two messages of
//! the login wait for an acknowledgement that the server delays (transact-rs/sqlx#4335; the fix, #4336, is not released). The pool opens
//! one when a call finds none idle, and the call waits for it. sqlx's own `min_connections` would open them at the first loss, not at the
//! start, and keep a place of the pool for up to five minutes while a server is silent.

use std::iter;

use futures_util::{future::join_all, poll};
use sqlx::PgPool;

/// As many as a service needs with little to do: several calls at once, and a batch of its consumer.
const CONNECTIONS_KEPT: u32 = 5;

/// Opens those that are missing; to be called when the database has just answered. Idle connections are kept from calls for a round trip, not until
/// the new ones are there.
pub(super) async fn open_missing(pool: &PgPool) {
    let kept = CONNECTIONS_KEPT.min(pool.options().get_max_connections());
    let missing = kept.saturating_sub(pool.size());
    if missing == 0 {
        return;
    }
    // The pool gives away what is idle first: it is taken out until the new ones are being opened, which is from the first poll on.
    let idle: Vec<_> = iter::from_fn(|| pool.try_acquire()).collect();
    let mut opening = Box::pin(join_all((0..missing).map(|_| pool.acquire())));
    if poll!(&mut opening).is_pending() {
        drop(idle);
        // One that can't be opened is tried again after the next probe; a call that needs it tries too, and fails with the reason.
        opening.await;
    }
}
