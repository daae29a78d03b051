//! Where a watcher reads for itself: the order service, by the calls that anybody may make for the user.

use std::sync::Arc;

use holdfast_proto::{OrderId, UserId, limits::PAGE_SIZE_MAX, order::v1 as pb};

use super::{change::Change, cursor::Track, hub::Topic};
use crate::{http::Call, problem::Problem, upstream::Upstream};

/// What a client watches, and whose it is.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// One order of a user.
    Order(OrderId, UserId),
    /// All orders of a user.
    User(UserId),
}

/// From where to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Since {
    /// What changed after this.
    pub(super) after: i64,
    /// For the pages of a first look: where it ends.
    until: i64,
    unfinished_only: bool,
}

impl Since {
    /// For a client that has seen everything up to `seen`. One that has seen nothing wants the current state: of all orders of a
    /// user, of those that can still change.
    pub(super) fn new(source: &Source, seen: Option<i64>) -> Self {
        let unfinished_only = matches!(source, Source::User(_)) && seen.is_none();
        Self { after: seen.unwrap_or_default(), until: 0, unfinished_only }
    }

    /// For a watcher that has covered everything up to here.
    pub(super) const fn covered(covered: i64) -> Self {
        Self { after: covered, until: 0, unfinished_only: false }
    }
}

/// What was read.
#[derive(Debug)]
pub(super) struct Page {
    /// In order.
    pub(super) changes: Vec<Arc<Change>>,
    /// Where to go on, if this is not everything.
    pub(super) next: Option<Since>,
    /// Up to where this is everything; with `next`, up to where it will be.
    pub(super) complete_to: i64,
    /// The last change that there was.
    last: i64,
}

impl Page {
    /// An order as it is.
    pub(super) fn of_order(state: Change) -> Self {
        let version = state.version();
        Self { changes: vec![Arc::new(state)], next: None, complete_to: version, last: version }
    }

    /// Whether there is no such change yet, so that nobody can have seen it.
    pub(super) fn is_behind(&self, seen: i64) -> bool {
        self.last < seen
    }
}

impl Source {
    pub(super) fn topic(&self) -> Topic {
        match self {
            Self::Order(order_id, _) => Topic::Order(*order_id),
            Self::User(user_id) => Topic::User(user_id.clone()),
        }
    }

    pub(super) const fn track(&self) -> Track {
        match self {
            Self::Order(..) => Track::Version,
            Self::User(_) => Track::Position,
        }
    }

    /// Whether the stream ends with this change: an order that has ended can't change, but its user can order again.
    pub(super) fn ends_with(&self, change: &Change) -> bool {
        matches!(self, Self::Order(..)) && change.order.is_terminal()
    }

    pub(super) async fn read(&self, upstream: &Upstream, since: Since, call: &Call) -> Result<Page, Problem> {
        match self {
            Self::Order(order_id, user_id) => read_order(upstream, *order_id, user_id, call).await,
            Self::User(user_id) => read_page(upstream, user_id, since, call).await,
        }
    }
}

async fn read_order(
    upstream: &Upstream,
    order_id: OrderId,
    user_id: &UserId,
    call: &Call,
) -> Result<Page, Problem> {
    let message = pb::GetOrderRequest { order_id: order_id.to_string(), user_id: user_id.to_string() };
    let answer = upstream.orders().get_order(call.request(message)?).await?.into_inner();
    let change = answer.order.and_then(|order| Change::read(order, 0)).ok_or_else(Problem::internal)?;
    Ok(Page::of_order(change))
}

async fn read_page(
    upstream: &Upstream,
    user_id: &UserId,
    since: Since,
    call: &Call,
) -> Result<Page, Problem> {
    let message = pb::ListChangedOrdersRequest {
        user_id: user_id.to_string(),
        after_position: since.after,
        until_position: since.until,
        unfinished_only: since.unfinished_only,
        page_size: PAGE_SIZE_MAX,
    };
    let answer = upstream.orders().list_changed_orders(call.request(message)?).await?.into_inner();
    page_of(answer, since).ok_or_else(Problem::internal)
}

/// `None` if the answer is not valid.
fn page_of(answer: pb::ListChangedOrdersResponse, since: Since) -> Option<Page> {
    let changes: Vec<Arc<Change>> = answer
        .changes
        .into_iter()
        .map(|change| Change::read(change.order?, change.position).map(Arc::new))
        .collect::<Option<_>>()?;
    let read_to = changes.last().map_or(since.after, |change| change.position);
    let last = answer.position.max(changes.last().map_or(0, |change| change.position));
    // The pages of a first look are of orders that can still change: one that ends between two pages must not fall between
    // them, so the look is of the moment of its first page, and what changes later is read or pushed as a change.
    let complete_to = if since.until > 0 { since.until } else { answer.position.max(read_to) };
    let until = if since.unfinished_only { complete_to } else { 0 };
    let next = answer.more.then_some(Since { after: read_to, until, ..since });
    Some(Page { changes, next, complete_to, last })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::snapshot::tests::pending;

    fn answer(positions: &[i64], position: i64, more: bool) -> pb::ListChangedOrdersResponse {
        let changes = positions
            .iter()
            .map(|position| pb::OrderChange {
                order: Some(pending(OrderId::generate(), 1)),
                position: *position,
                previous_version: 0,
            })
            .collect();
        pb::ListChangedOrdersResponse { changes, position, more }
    }

    /// All pages of a first look end where the first one did; a look after something was missed ends where the last one does.
    #[test]
    fn a_first_look_is_of_one_moment() {
        let source = Source::User(UserId::parse("alice").expect("a user"));
        let first = Since::new(&source, None);
        let page = page_of(answer(&[2, 5], 9, true), first).expect("valid");
        assert_eq!(page.complete_to, 9);
        let second = page.next.expect("more");
        assert_eq!(second, Since { after: 5, until: 9, unfinished_only: true });
        let page = page_of(answer(&[8], 12, false), second).expect("valid");
        assert_eq!((page.complete_to, page.next), (9, None), "10 to 12 are changes");

        let page = page_of(answer(&[4, 10], 9, true), Since::covered(3)).expect("valid");
        assert_eq!(page.next, Some(Since { after: 10, until: 0, unfinished_only: false }));
        let page = page_of(answer(&[], 12, false), Since::covered(10)).expect("valid");
        assert_eq!((page.complete_to, page.next), (12, None));
    }

    /// An id that is ahead of everything was not given out.
    #[test]
    fn an_id_from_the_future_says_nothing() {
        let page = page_of(answer(&[], 7, false), Since::covered(9)).expect("valid");
        assert!(page.is_behind(9) && !page.is_behind(7));
    }
}
