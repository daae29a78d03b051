//! The stream of one client: what is pushed, put in order; what may have been missed, read; and its end.

use std::{future::pending, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use holdfast_common::{backoff::Backoff, clock, metric};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    change::Change,
    cursor::{Cursor, Offered, Track},
    hub::Subscription,
    source::{Page, Since, Source},
};
use crate::problem::Problem;

/// How long a change waits for one before it, which was pushed by another replica or announced a little later: far longer than
/// these differ even on a busy machine, because looking for it is more work for order.
const GAP_TIME_MAX: Duration = Duration::from_millis(250);
/// Pauses between attempts to read while order is away: as many streams as there are must not be a load of their own.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(100);
const READ_AGAIN_AFTER_MAX: Duration = Duration::from_secs(5);

/// Reads what a watcher may have missed.
pub(super) type Read = Arc<dyn Fn(Since) -> BoxFuture<'static, Result<Page, Problem>> + Send + Sync>;

/// What a watcher needs of the others.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) read: Read,
    /// Places for those that read at a time.
    pub(super) places: Arc<Semaphore>,
    /// The process stops.
    pub(super) stop: CancellationToken,
}

/// What a client gets next.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// An order has changed, or this is how it is.
    Order(Arc<Change>),
    /// The current state is complete; changes follow. What the client would resume from.
    Current(i64),
    /// The token has expired.
    Expired,
    /// This process stops.
    Stopping,
}

/// Why a watcher reads for itself; the label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// A stream of changes broke or was opened.
    Feed,
    /// Changes did not fit into the queue of a slow client.
    Slow,
    /// A change did not arrive, although a later one did.
    Gap,
    /// There is more than a page.
    More,
}

impl Reason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Slow => "slow",
            Self::Gap => "gap",
            Self::More => "more",
        }
    }
}

/// What woke a watcher up.
enum Woken {
    Stop,
    Expired,
    Change(Arc<Change>),
    Look(Reason),
    Page(Page),
}

/// See the module.
pub(crate) struct Watcher {
    access: Access,
    source: Source,
    subscription: Subscription,
    cursor: Cursor,
    /// When the token expires.
    until: Instant,
    /// A look that is under way.
    look: Option<BoxFuture<'static, Page>>,
    /// Where the next page of the last look begins.
    rest: Option<Since>,
    /// Why another look must begin when the one under way has come to its end.
    due: Option<Reason>,
    /// Since when a change waits for one before it.
    gap_since: Option<Instant>,
    /// The client does not know yet that it has the current state.
    announce: bool,
    ended: bool,
}

impl Watcher {
    /// After its first look, whose page is `first`.
    pub(super) fn new(
        access: Access,
        source: Source,
        subscription: Subscription,
        cursor: Cursor,
        first: Page,
        until: Instant,
    ) -> Self {
        let announce = cursor.track() == Track::Position;
        let mut watcher = Self {
            access,
            source,
            subscription,
            cursor,
            until,
            look: None,
            rest: None,
            due: None,
            gap_since: None,
            announce,
            ended: false,
        };
        watcher.ended = watcher.turn(first);
        watcher
    }

    /// What its events are counted by.
    pub(crate) const fn track(&self) -> Track {
        self.cursor.track()
    }

    /// Whether the client knows the end already: nothing will follow.
    pub(crate) const fn is_over(&self) -> bool {
        self.ended
    }

    /// What the client gets next; `None` after the last one. Nothing is lost if this is dropped while it waits.
    pub(crate) async fn next(&mut self) -> Option<Step> {
        loop {
            if self.ended {
                return None;
            }
            if self.access.stop.is_cancelled() {
                return Some(self.end(Step::Stopping));
            }
            if let Some(change) = self.cursor.next() {
                self.ended = self.source.ends_with(&change);
                record_delay(&change);
                return Some(Step::Order(change));
            }
            if self.subscription.take_missed() {
                self.due = Some(Reason::Slow);
            }
            self.begin_look();
            if self.announce && self.look.is_none() {
                self.announce = false;
                return Some(Step::Current(self.cursor.covered()));
            }
            match self.wait().await {
                Woken::Stop => {}
                Woken::Expired => return Some(self.end(Step::Expired)),
                Woken::Change(change) => self.offer(change),
                Woken::Look(reason) => self.due = Some(reason),
                Woken::Page(page) => {
                    self.look = None;
                    self.ended = self.turn(page);
                }
            }
        }
    }

    fn end(&mut self, step: Step) -> Step {
        self.ended = true;
        step
    }

    fn offer(&mut self, change: Arc<Change>) {
        if self.cursor.offer(change) == Offered::Dropped {
            self.due = Some(Reason::Gap);
        }
    }

    /// Takes a page. True if it shows an end that the client knows: nothing will follow.
    fn turn(&mut self, page: Page) -> bool {
        let known = self.cursor.covered();
        let track = self.cursor.track();
        let over = page
            .changes
            .last()
            .is_some_and(|last| self.source.ends_with(last) && track.number(last) <= known);
        let complete_to = page.next.is_none().then_some(page.complete_to);
        self.cursor.read(page.changes, complete_to);
        self.rest = page.next;
        over
    }

    fn begin_look(&mut self) {
        if self.look.is_some() {
            return;
        }
        // First the rest: a first look is of one moment, so it doesn't make up for what was missed later.
        let (reason, since) = match (self.rest.take(), self.due) {
            (Some(rest), _) => (Reason::More, rest),
            (None, Some(reason)) => {
                self.due = None;
                (reason, Since::covered(self.cursor.covered()))
            }
            (None, None) => return,
        };
        metrics::counter!(metric::EVENT_STREAM_LOOKS_TOTAL, "reason" => reason.as_str()).increment(1);
        self.look = Some(Box::pin(look(self.access.clone(), since)));
    }

    /// Waits for whatever comes first.
    async fn wait(&mut self) -> Woken {
        let (until, gap_until) = (self.until, self.gap_until());
        let Self { access, subscription, look, .. } = self;
        let look = async {
            match look {
                Some(look) => look.await,
                None => pending().await,
            }
        };
        let gap = async {
            match gap_until {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = access.stop.cancelled() => Woken::Stop,
            () = sleep_until(until) => Woken::Expired,
            // The hub lives as long as `self`.
            Some(change) = subscription.changes.recv() => Woken::Change(change),
            page = look => Woken::Page(page),
            Ok(()) = subscription.looks.changed() => Woken::Look(Reason::Feed),
            () = gap => Woken::Look(Reason::Gap),
        }
    }

    /// When to stop waiting for a change that others wait for; none if a look is under way, which may bring it.
    fn gap_until(&mut self) -> Option<Instant> {
        if !self.cursor.has_gap() || self.look.is_some() {
            self.gap_since = None;
            return None;
        }
        Some(*self.gap_since.get_or_insert_with(Instant::now) + GAP_TIME_MAX)
    }
}

/// Reads until it succeeds: while order is away, its watchers wait.
async fn look(access: Access, since: Since) -> Page {
    let mut backoff = Backoff::new(READ_AGAIN_AFTER, READ_AGAIN_AFTER_MAX);
    loop {
        // Never closed. Whoever waits here keeps the order in which they came.
        let place = access.places.acquire().await;
        let page = (access.read)(since).await;
        drop(place);
        match page {
            Ok(page) => return page,
            Err(_) => tokio::time::sleep(backoff.next_pause()).await,
        }
    }
}

fn record_delay(change: &Change) {
    if let Some(committed_at) = change.committed_at {
        let delay = (clock::now() - committed_at).as_seconds_f64();
        // The clocks of two machines differ.
        metrics::histogram!(metric::EVENT_STREAM_DELAY_SECONDS).record(delay.max(0.0));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    };

    use futures_util::FutureExt as _;
    use holdfast_proto::{OrderId, UserId};

    use super::*;
    use crate::{
        cache::OrderCache,
        config::{CacheConfig, StreamsConfig},
        live::{
            change::tests::change,
            hub::{Hub, QUEUE_MAX},
        },
    };

    /// An order, the hub that its changes are pushed to, and an order service that can be away.
    struct World {
        hub: Arc<Hub>,
        order: OrderId,
        stored: Arc<Mutex<Change>>,
        failures: Arc<AtomicU32>,
        stop: CancellationToken,
    }

    impl World {
        fn new() -> Self {
            let order = OrderId::generate();
            Self {
                hub: Arc::new(Hub::new(
                    &StreamsConfig::default(),
                    OrderCache::new(&CacheConfig::default(), None),
                )),
                order,
                stored: Arc::new(Mutex::new(change(order, 1, 1))),
                failures: Arc::default(),
                stop: CancellationToken::new(),
            }
        }

        /// A commit that is not pushed.
        fn commit(&self, version: i64) -> Arc<Change> {
            let change = change(self.order, version, version);
            *self.stored.lock().expect("no panic") = change.clone();
            Arc::new(change)
        }

        fn push(&self, version: i64) {
            self.hub.publish(&self.commit(version));
        }

        fn watcher(&self) -> Watcher {
            let user = UserId::parse("alice").expect("a user");
            let source = Source::Order(self.order, user.clone());
            let subscription = self.hub.admit(&user, source.topic()).expect("a place");
            let (stored, failures) = (self.stored.clone(), self.failures.clone());
            let read = move |_| {
                let away =
                    failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                let state = stored.lock().expect("no panic").clone();
                let state = Change { previous_version: 0, ..state };
                async move { if away.is_ok() { Err(Problem::unavailable()) } else { Ok(Page::of_order(state)) } }.boxed()
            };
            let access =
                Access { read: Arc::new(read), places: Arc::new(Semaphore::new(1)), stop: self.stop.clone() };
            let first = Page::of_order(self.stored.lock().expect("no panic").clone());
            let until = Instant::now() + Duration::from_secs(3600);
            Watcher::new(access, source, subscription, Cursor::new(Track::Version, 0), first, until)
        }
    }

    async fn version(watcher: &mut Watcher) -> i64 {
        match watcher.next().await {
            Some(Step::Order(change)) => change.version(),
            other => panic!("{other:?} instead of an order"),
        }
    }

    fn nothing(watcher: &mut Watcher) -> bool {
        watcher.next().now_or_never().is_none()
    }

    /// The current state first, then what is pushed; one that is missing is waited for, and then read past.
    #[tokio::test(start_paused = true)]
    async fn a_change_that_does_not_arrive_is_read_past() {
        let world = World::new();
        let mut watcher = world.watcher();
        assert_eq!(version(&mut watcher).await, 1);
        assert!(nothing(&mut watcher));
        world.push(2);
        assert_eq!(version(&mut watcher).await, 2);

        let late = world.commit(3);
        world.push(4);
        assert!(nothing(&mut watcher), "3 may be on its way");
        world.hub.publish(&late);
        assert_eq!((version(&mut watcher).await, version(&mut watcher).await), (3, 4));

        world.commit(5);
        world.push(6);
        let begin = Instant::now();
        assert_eq!(version(&mut watcher).await, 6);
        assert!(begin.elapsed() >= GAP_TIME_MAX, "{:?}", begin.elapsed());
        assert!(nothing(&mut watcher));
    }

    /// A client that does not read gets the newest state when it reads again, and nothing twice.
    #[tokio::test(start_paused = true)]
    async fn a_slow_client_gets_the_newest_state() {
        let world = World::new();
        let mut watcher = world.watcher();
        assert_eq!(version(&mut watcher).await, 1);
        let last = i64::try_from(QUEUE_MAX).expect("a small number") * 3;
        for version in 2..=last {
            world.push(version);
        }
        assert_eq!(version(&mut watcher).await, last);
        assert!(nothing(&mut watcher));
        world.push(last + 1);
        assert_eq!(version(&mut watcher).await, last + 1);
    }

    /// What was committed while no feed was open is read as soon as order answers; until then what is pushed still arrives.
    #[tokio::test(start_paused = true)]
    async fn what_was_missed_is_read_when_order_is_back() {
        let world = World::new();
        let mut watcher = world.watcher();
        assert_eq!(version(&mut watcher).await, 1);
        world.failures.store(3, Ordering::Relaxed);
        world.hub.look_again();
        assert!(nothing(&mut watcher), "order is away");
        world.push(2);
        assert_eq!(version(&mut watcher).await, 2);
        world.commit(3);
        assert_eq!(version(&mut watcher).await, 3, "after three failures");
        assert_eq!(world.failures.load(Ordering::Relaxed), 0);
        assert!(nothing(&mut watcher));
    }

    /// A stream ends with its token, and with the process; the latter says so.
    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_with_token_and_process() {
        let world = World::new();
        let mut watcher = world.watcher();
        assert_eq!(version(&mut watcher).await, 1);
        let begin = Instant::now();
        assert!(matches!(watcher.next().await, Some(Step::Expired)));
        assert_eq!(begin.elapsed().as_secs(), 3600);
        assert!(watcher.next().await.is_none());

        let mut watcher = world.watcher();
        world.stop.cancel();
        assert!(matches!(watcher.next().await, Some(Step::Stopping)), "at once, whatever else is there");
        assert!(watcher.next().await.is_none());
    }
}
