//! Announces what this replica has committed to whoever watches orders.
//!
//! A change is left with the transaction ([`after_commit`]), so it is announced if, and only if, it is committed,
//! whatever becomes of the caller. It goes to the readers that are there at that moment, through a bounded channel: one that is
//! too slow loses its stream and looks for itself. Nothing here waits for a reader, and nothing is kept for one that is
//! away: a process that dies between commit and announcement reaches nobody, so readers look again whenever a stream ends.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use holdfast_common::{
    clock,
    database::{Fate, after_commit},
};
use holdfast_proto::{order::v1 as pb, to_timestamp};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{grpc::order_to_proto, store::ChangedOrder};

/// Commits that a reader may be behind. One that falls back further loses its stream.
const COMMITS_BEHIND_MAX: usize = 1024;
/// Readers at a time; a gateway has one stream, and for a moment two.
const READERS_MAX: usize = 64;
/// After a commit whose outcome is unknown, readers are asked to look again at these moments: it may still become visible
/// until its statements time out (`holdfast_common::deadline::CALL_TIME_MAX`).
const DOUBTS_AFTER: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(11)];

/// What readers get.
#[derive(Debug, Clone)]
enum News {
    Committed(Arc<pb::WatchOrdersResponse>),
    /// There may be changes that were not announced.
    Doubt,
}

/// The changes of this replica; clones share the readers.
#[derive(Debug, Clone)]
pub struct Changes {
    news: broadcast::Sender<News>,
}

impl Default for Changes {
    fn default() -> Self {
        Self { news: broadcast::Sender::new(COMMITS_BEHIND_MAX) }
    }
}

impl Changes {
    /// For the work of a transaction: announces `changed` once it is committed.
    pub(crate) fn announce_after_commit(&self, changed: Vec<ChangedOrder>) {
        if changed.is_empty() {
            return;
        }
        let changes = self.clone();
        after_commit(move |fate| match fate {
            Fate::Committed => changes.announce(&changed),
            Fate::Unknown => changes.doubt(),
        });
    }

    /// For the work of a transaction that does not know yet what it changes: if nobody knows whether it is committed, readers look.
    pub(crate) fn doubt_if_unknown(&self) {
        let changes = self.clone();
        after_commit(move |fate| {
            if fate == Fate::Unknown {
                changes.doubt();
            }
        });
    }

    fn announce(&self, changed: &[ChangedOrder]) {
        // Asked now, not before the commit: a reader that came meanwhile has perhaps looked before it.
        if self.news.receiver_count() == 0 {
            return;
        }
        let committed = pb::WatchOrdersResponse {
            changes: changed.iter().map(to_proto).collect(),
            committed_at: Some(to_timestamp(clock::now())),
        };
        // Fails if the last reader has just left.
        let _ = self.news.send(News::Committed(Arc::new(committed)));
    }

    fn doubt(&self) {
        let news = self.news.clone();
        tokio::spawn(async move {
            let begin = tokio::time::Instant::now();
            for after in DOUBTS_AFTER {
                tokio::time::sleep_until(begin + after).await;
                let _ = news.send(News::Doubt);
            }
        });
    }

    /// Everything that is committed from now on, until `stop`.
    pub(crate) fn watch(
        &self,
        stop: CancellationToken,
    ) -> Result<impl Stream<Item = Result<pb::WatchOrdersResponse, Status>> + Send + use<>, Status> {
        if self.news.receiver_count() >= READERS_MAX {
            return Err(Status::resource_exhausted("there are too many readers"));
        }
        let news = stream::unfold(Some(self.news.subscribe()), next);
        Ok(news.take_until(stop.cancelled_owned()))
    }
}

type Reader = broadcast::Receiver<News>;

/// What a reader gets next; after a failure nothing.
async fn next(reader: Option<Reader>) -> Option<(Result<pb::WatchOrdersResponse, Status>, Option<Reader>)> {
    let mut reader = reader?;
    match reader.recv().await {
        Ok(News::Committed(committed)) => Some((Ok(Arc::unwrap_or_clone(committed)), Some(reader))),
        Ok(News::Doubt) => Some((Err(Status::aborted("the outcome of a commit is unknown")), None)),
        Err(RecvError::Lagged(_)) => Some((Err(Status::aborted("the reader is too slow")), None)),
        // The sender lives as long as the service.
        Err(RecvError::Closed) => None,
    }
}

pub(crate) fn to_proto(changed: &ChangedOrder) -> pb::OrderChange {
    pb::OrderChange {
        order: Some(order_to_proto(&changed.order)),
        position: changed.position,
        previous_version: changed.previous_version,
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::{Currency, Money, OrderId, UserId};
    use tonic::Code;

    use super::*;
    use crate::domain::{Draft, Item, Order};

    fn changed(position: i64) -> ChangedOrder {
        let item = Item { product_id: "tea".to_owned(), quantity: 1, price: Money::new(1, Currency::EUR) };
        let user = UserId::parse("alice").expect("a user");
        let draft = Draft::new(user, "1 Quay Street".to_owned(), vec![item]).expect("valid");
        let order = Order::create(OrderId::generate(), draft, clock::now());
        ChangedOrder { order, position, previous_version: 0 }
    }

    /// Readers get what is announced after they came, in order, and nothing of before; the stop ends their streams.
    #[tokio::test]
    async fn readers_get_what_is_announced_from_then_on() {
        let (changes, stop) = (Changes::default(), CancellationToken::new());
        changes.announce(&[changed(1)]);
        let mut reader = Box::pin(changes.watch(stop.clone()).expect("a place"));
        changes.announce(&[changed(2), changed(3)]);
        changes.announce(&[changed(4)]);
        for expected in [vec![2, 3], vec![4]] {
            let announced = reader.next().await.expect("open").expect("no failure");
            let positions: Vec<_> = announced.changes.iter().map(|change| change.position).collect();
            assert_eq!(positions, expected);
        }
        stop.cancel();
        assert!(reader.next().await.is_none());
    }

    /// A reader that is too slow, and one that may miss something, lose their streams instead of missing it silently.
    #[tokio::test]
    async fn a_reader_never_misses_something_silently() {
        let changes = Changes::default();
        let mut slow = Box::pin(changes.watch(CancellationToken::new()).expect("a place"));
        for position in 0..=i64::try_from(COMMITS_BEHIND_MAX).expect("a small number") {
            changes.announce(&[changed(position)]);
        }
        assert_eq!(slow.next().await.expect("open").expect_err("lagged").code(), Code::Aborted);
        assert!(slow.next().await.is_none());

        let mut quick = Box::pin(changes.watch(CancellationToken::new()).expect("a place"));
        changes.doubt();
        assert_eq!(quick.next().await.expect("open").expect_err("doubt").code(), Code::Aborted);
        assert!(quick.next().await.is_none());
    }

    /// The number of readers is bounded, and one that leaves makes room.
    #[tokio::test]
    async fn the_number_of_readers_is_bounded() {
        let changes = Changes::default();
        let watch = || changes.watch(CancellationToken::new());
        let mut readers: Vec<_> = (0..READERS_MAX).map(|_| watch().expect("a place")).collect();
        assert_eq!(watch().err().map(|status| status.code()), Some(Code::ResourceExhausted));
        readers.pop();
        assert!(watch().is_ok());
    }
}
