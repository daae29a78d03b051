//! Live status: what the order service commits reaches the clients that watch it, without anybody asking again and again.
//!
//! ```text
//! order replica ── WatchOrders ──> feed ─┐
//! order replica ── WatchOrders ──> feed ─┴─> hub ── bounded queue ──> watcher ──> server-sent events
//!                                             └──── look again ─────> watcher ──> order: what has changed since?
//! ```
//!
//! - [`feed`] reads one stream of changes from **each** order replica, whatever the number of clients;
//! - [`hub`] hands each change to the clients that watch its order or its user, and never waits for one of them;
//! - [`watcher`] is the stream of one client: it puts changes in order ([`cursor`], pure), and reads from order itself when
//!   something may have been missed: a feed broke or opened, its own queue was full, or a change is not followed by the next.
//!
//! So a change can be late, but not lost: what is pushed is an optimisation of what can be read. Nothing here is durable.

mod change;
mod cursor;
mod feed;
mod hub;
mod source;
mod watcher;

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use holdfast_common::{client::Replicas, health::Component};
use holdfast_proto::UserId;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    change::Change,
    cursor::Track,
    source::Source,
    watcher::{Step, Watcher},
};
use self::{
    cursor::Cursor,
    hub::Hub,
    source::{Page, Since},
    watcher::{Access, Read},
};
use crate::{cache::OrderCache, config::StreamsConfig, http::Call, problem::Problem, upstream::Upstream};

/// Watchers that read from order at a time when they all have to look again, as after the restart of a replica: enough to be
/// done soon, few enough to leave room for other calls.
const READS_MAX: usize = 8;
/// For one attempt of a watcher to read what it may have missed.
const READ_TIME_MAX: Duration = Duration::from_secs(2);

/// Everything that watchers share; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    hub: Arc<Hub>,
    upstream: Upstream,
    cache: OrderCache,
    reads: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Live {
    pub(crate) fn new(
        config: &StreamsConfig,
        upstream: Upstream,
        cache: OrderCache,
        stop: CancellationToken,
    ) -> Self {
        let reads = Arc::new(Semaphore::new(READS_MAX));
        let hub = Arc::new(Hub::new(config, cache.clone()));
        Self { hub, upstream, cache, reads, stop }
    }

    /// Reads the changes of every replica of order, until the process stops.
    pub(crate) async fn follow(self, replicas: Replicas, component: Component) {
        feed::follow(self.hub, replicas, component, self.stop).await;
    }

    /// Opens the stream of one client, up to its current state: from here on a failure is no longer a problem document.
    /// `seen` is the id of the last event that the client got, `until` when its token expires.
    pub(crate) async fn open(
        &self,
        source: Source,
        user_id: &UserId,
        until: Instant,
        seen: Option<i64>,
        call: &Call,
    ) -> Result<Watcher, Problem> {
        // First the place in the hub, then the look: what changes in between is in the queue.
        let subscription = self.hub.admit(user_id, source.topic())?;
        let mut since = Since::new(&source, seen);
        let mut page = self.read(&source, since, call).await?;
        if seen.is_some_and(|seen| page.is_behind(seen)) {
            // Nobody got this id from us: it says nothing about what the client knows.
            since = Since::new(&source, None);
            page = self.read(&source, since, call).await?;
        }
        let cursor = Cursor::new(source.track(), since.after);
        let access =
            Access { read: self.reader(&source, call), places: self.reads.clone(), stop: self.stop.clone() };
        Ok(Watcher::new(access, source, subscription, cursor, page, until))
    }

    async fn read(&self, source: &Source, since: Since, call: &Call) -> Result<Page, Problem> {
        let page = source.read(&self.upstream, since, call).await?;
        self.cache.saw_all(page.changes.iter().map(|change| &change.order)).await;
        Ok(page)
    }

    fn reader(&self, source: &Source, call: &Call) -> Read {
        let (live, source, subject) = (self.clone(), source.clone(), call.subject.clone());
        Arc::new(move |since| {
            let (live, source) = (live.clone(), source.clone());
            let call = Call::in_background(READ_TIME_MAX).on_behalf_of(subject.clone());
            async move { live.read(&source, since, &call).await }.boxed()
        })
    }
}
