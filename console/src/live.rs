//! Pages that update by themselves: one look at the stack for the whole console, in the background, only while somebody watches.
//!
//! What is watched are [`Subject`]s. However many browsers watch them, the services are asked about one subject at a time and at most
//! once in [`LOOK_EVERY`]: about the one that was not looked at for longest. Who watches the same subject gets the same look, with its age.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use holdfast_common::{health::Component, metric};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};
use uuid::Uuid;

/// Between two looks, of whatever.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of one look: each question to a service has a shorter deadline.
const LOOK_TIME_MAX: Duration = Duration::from_secs(10);
/// Streams at a time; a page beyond that stays as it was loaded, and says so.
pub(crate) const STREAMS_MAX: usize = 128;
/// Then a stream ends, and its browser comes back through the guard: whose session has ended does not get another one.
pub(crate) const STREAM_TIME_MAX: Duration = Duration::from_secs(5 * 60);

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// The first page.
    Start,
    /// Parked letters by their cause.
    Letters,
    /// Consumer groups.
    Groups,
    /// Redrives of all services.
    Redrives,
    /// An order.
    Order(Uuid),
    /// Orders that are unfinished for longer than an age such as `5m`.
    Stuck(String),
    /// What this console has begun.
    Job(Uuid),
    /// The newest messages of a topic, or of one of its partitions.
    Topic(String, Option<i32>),
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) html: String,
    pub(crate) at: Instant,
}

#[derive(Debug)]
struct Watched {
    looks: watch::Sender<Option<Arc<Look>>>,
    /// When a look was begun.
    looked_at: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Live {
    /// `None` once the process stops.
    watched: Mutex<Option<HashMap<Subject, Watched>>>,
    /// Somebody has begun to watch.
    begun: Notify,
    places: Arc<Semaphore>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            watched: Mutex::new(Some(HashMap::new())),
            begun: Notify::new(),
            places: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }
}

/// Somebody who watches a subject.
#[derive(Debug)]
pub(crate) struct Watcher {
    looks: watch::Receiver<Option<Arc<Look>>>,
    ends_at: Instant,
    _place: OwnedSemaphorePermit,
}

impl Live {
    fn all(&self) -> MutexGuard<'_, Option<HashMap<Subject, Watched>>> {
        // Nothing that holds it can leave it half changed.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to watch. `None` if there are too many streams, or the process stops.
    pub(crate) fn watch(&self, subject: Subject) -> Option<Watcher> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let mut all = self.all();
        let watched = all.as_mut()?.entry(subject);
        let watched = watched.or_insert_with(|| Watched { looks: watch::Sender::new(None), looked_at: None });
        let mut looks = watched.looks.subscribe();
        // What was seen before is shown at once, with its age.
        looks.mark_changed();
        drop(all);
        self.begun.notify_one();
        Some(Watcher { looks, ends_at: Instant::now() + STREAM_TIME_MAX, _place: place })
    }

    /// What is to be looked at now; forgets what nobody watches any more.
    fn due(&self, now: Instant) -> Option<Subject> {
        let mut all = self.all();
        let all = all.as_mut()?;
        all.retain(|_, watched| watched.looks.receiver_count() > 0);
        let (subject, watched) = all.iter_mut().min_by_key(|(_, watched)| watched.looked_at)?;
        watched.looked_at = Some(now);
        Some(subject.clone())
    }

    fn publish(&self, subject: &Subject, look: Look) {
        if let Some(watched) = self.all().as_ref().and_then(|all| all.get(subject)) {
            watched.looks.send_replace(Some(Arc::new(look)));
        }
    }

    /// Ends all streams.
    fn stop(&self) {
        *self.all() = None;
    }

    fn streams(&self) -> usize {
        STREAMS_MAX - self.places.available_permits()
    }

    /// Looks until `stop`. What could not be looked at in time is left as it was: its age shows that.
    pub(crate) async fn run<L>(
        &self,
        look: impl Fn(Subject) -> L,
        health: &Component,
        stop: impl Future<Output = ()>,
    ) where
        L: Future<Output = Option<String>>,
    {
        let mut stop = pin!(stop);
        loop {
            let began = Instant::now();
            let subject = self.due(began);
            self.report(health);
            let Some(subject) = subject else {
                tokio::select! {
                    () = &mut stop => break,
                    () = self.begun.notified() => continue,
                }
            };
            let looked = tokio::select! {
                () = &mut stop => break,
                looked = timeout(LOOK_TIME_MAX, look(subject.clone())) => looked,
            };
            if let Ok(Some(html)) = looked {
                self.publish(&subject, Look { html, at: began });
            }
            tokio::select! {
                () = &mut stop => break,
                () = sleep_until(began + LOOK_EVERY) => {}
            }
        }
        self.stop();
    }

    fn report(&self, health: &Component) {
        let streams = self.streams();
        #[expect(clippy::cast_precision_loss, reason = "a few")]
        metrics::gauge!(metric::CONSOLE_STREAMS).set(streams as f64);
        if streams < STREAMS_MAX {
            health.ready();
        } else {
            health.degraded(format!(
                "all {STREAMS_MAX} streams are taken: further pages do not update by themselves"
            ));
        }
    }
}

impl Watcher {
    /// The next look; `None` once the time of the stream is over, or the process stops.
    pub(crate) async fn next(&mut self) -> Option<Arc<Look>> {
        loop {
            tokio::select! {
                biased;
                () = sleep_until(self.ends_at) => return None,
                changed = self.looks.changed() => changed.ok()?,
            }
            let look = self.looks.borrow_and_update().clone();
            if look.is_some() {
                return look;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use holdfast_common::health::Health;

    use super::*;

    /// A hub whose looks say when they were taken and of what, and the times at which they were.
    struct Lab {
        live: Arc<Live>,
        looks: Arc<Mutex<Vec<(u64, Subject)>>>,
        health: Health,
        stop: Arc<Notify>,
    }

    impl Lab {
        fn start() -> Self {
            let lab = Self {
                live: Arc::default(),
                looks: Arc::default(),
                health: Health::default(),
                stop: Arc::default(),
            };
            let (live, looks, stop) = (lab.live.clone(), lab.looks.clone(), lab.stop.clone());
            let (component, began) = (lab.health.component("live"), Instant::now());
            tokio::spawn(async move {
                let look = |subject: Subject| {
                    let seconds = began.elapsed().as_secs();
                    looks.lock().expect("whole").push((seconds, subject.clone()));
                    async move {
                        (subject != Subject::Job(Uuid::nil())).then(|| format!("{subject:?} at {seconds}"))
                    }
                };
                live.run(look, &component, stop.notified()).await;
            });
            lab
        }

        fn looks(&self) -> Vec<(u64, Subject)> {
            std::mem::take(&mut self.looks.lock().expect("whole"))
        }
    }

    /// Nobody watches, nothing is asked; many who watch the same cost one look a second, and all get it.
    #[tokio::test(start_paused = true)]
    async fn the_services_are_asked_once_a_second_for_all() {
        let lab = Lab::start();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(lab.looks(), []);
        let mut watchers: Vec<Watcher> =
            (0..20).map(|_| lab.live.watch(Subject::Groups).expect("a place")).collect();
        for seconds in 60..63 {
            for watcher in &mut watchers {
                assert_eq!(watcher.next().await.expect("open").html, format!("Groups at {seconds}"));
            }
        }
        assert_eq!(lab.looks(), (60..63).map(|at| (at, Subject::Groups)).collect::<Vec<_>>());
        drop(watchers);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(lab.looks().len() <= 1, "nobody watches any more");
    }

    /// Several subjects take turns, so that there is one look a second in all; one that can't be looked at keeps nobody waiting.
    #[tokio::test(start_paused = true)]
    async fn subjects_take_turns() {
        let lab = Lab::start();
        let subjects = [Subject::Start, Subject::Letters, Subject::Job(Uuid::nil())];
        let watchers = subjects.clone().map(|subject| lab.live.watch(subject).expect("a place"));
        tokio::time::sleep(Duration::from_millis(5_500)).await;
        let looks = lab.looks();
        assert_eq!(looks.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        for subject in &subjects {
            assert_eq!(looks.iter().filter(|(_, looked)| looked == subject).count(), 2, "{looks:?}");
        }
        drop(watchers);
    }

    /// There are so many streams at a time; each ends by itself, and all end when the process stops.
    #[tokio::test(start_paused = true)]
    async fn streams_have_an_end() {
        let lab = Lab::start();
        let mut watchers: Vec<Watcher> =
            (0..STREAMS_MAX).map(|_| lab.live.watch(Subject::Start).expect("a place")).collect();
        assert!(lab.live.watch(Subject::Start).is_none());
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(lab.health.components()["live"].detail.contains(&format!("all {STREAMS_MAX} streams")));
        let began = Instant::now();
        let mut first = watchers.remove(0);
        while first.next().await.is_some() {}
        assert!(began.elapsed() <= STREAM_TIME_MAX);
        drop(first);
        drop(watchers);
        let mut last = lab.live.watch(Subject::Start).expect("a place again");
        assert!(last.next().await.is_some());
        lab.stop.notify_one();
        while last.next().await.is_some() {}
        assert!(lab.live.watch(Subject::Start).is_none(), "it stops");
    }

    /// A look that hangs ends, and its subject is tried again after the others.
    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_ends() {
        let (live, health) = (Arc::new(Live::default()), Health::default().component("live"));
        let looks = |subject: Subject| async move {
            match subject {
                Subject::Start => pending().await,
                other => Some(format!("{other:?}")),
            }
        };
        let _hanging = live.watch(Subject::Start).expect("a place");
        let mut other = live.watch(Subject::Groups).expect("a place");
        let began = Instant::now();
        tokio::select! {
            () = live.run(looks, &health, pending()) => {}
            look = other.next() => assert_eq!(look.expect("open").html, "Groups"),
        }
        assert!(began.elapsed() <= LOOK_TIME_MAX + LOOK_EVERY);
    }
}
