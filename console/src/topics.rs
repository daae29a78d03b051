//! The readers of topics: a few at a time, each question with a deadline. Whoever comes when all are taken is told to come again.
//!
//! Readers block, so they work on threads of their own. One that has failed is not used again: librdkafka may have lost its brokers.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use holdfast_common::{
    health::Component,
    kafka::{
        Brokers,
        reader::{ReadError, Reader},
    },
    metric,
};
use tokio::sync::{Semaphore, oneshot, watch};

/// Pages that read at a time.
pub(crate) const READERS_MAX: usize = 4;
/// How often Kafka is asked, while it does not answer, whether it does again.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(10);
const ASK_TIME_MAX: Duration = Duration::from_secs(3);
/// How often readers that nobody uses are looked at: as soon as certificates are renewed.
const OUTDATED_END_EVERY: Duration = Duration::from_secs(2);
/// A reader ends in time by itself; this is for what it can't bound, as making a client.
const GRACE: Duration = Duration::from_secs(1);

/// Why nothing was read.
#[derive(Debug)]
pub(crate) enum NotRead {
    /// All readers are taken.
    Busy,
    /// There is no such thing at the brokers.
    NotThere(String),
    /// In words.
    Failed(String),
}

impl From<ReadError> for NotRead {
    fn from(error: ReadError) -> Self {
        Self::Failed(format!("Kafka: {error}"))
    }
}

/// How much time is left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn left(self) -> Duration {
        // With none, librdkafka would not even look at what has arrived.
        self.0.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }
}

/// See the module.
pub(crate) struct Topics {
    brokers: Result<Brokers, String>,
    places: Arc<Semaphore>,
    /// At most [`READERS_MAX`].
    idle: Arc<Mutex<Vec<Reader>>>,
    failing: watch::Sender<Option<String>>,
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").field("brokers", &self.brokers).finish_non_exhaustive()
    }
}

impl Topics {
    /// An error says why nothing can be read.
    pub(crate) fn new(brokers: Result<Brokers, String>) -> Self {
        Self {
            brokers,
            places: Arc::new(Semaphore::new(READERS_MAX)),
            idle: Arc::default(),
            failing: watch::Sender::new(None),
        }
    }

    /// `host:port` of the brokers, for commands.
    pub(crate) fn addresses(&self) -> Option<&str> {
        self.brokers.as_ref().ok().map(|brokers| brokers.config().brokers.as_str())
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.brokers.as_ref().is_ok_and(Brokers::has_tls)
    }

    /// Has a reader do `work`, which keeps its deadline.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        time_max: Duration,
        work: impl FnOnce(&Reader, Deadline) -> Result<T, NotRead> + Send + 'static,
    ) -> Result<T, NotRead> {
        let brokers = self.brokers.clone().map_err(NotRead::Failed)?;
        let place = self.places.clone().try_acquire_owned().map_err(|_| NotRead::Busy)?;
        let busy = Busy::new();
        let (idle, (answer, answered)) = (self.idle.clone(), oneshot::channel());
        let deadline = Deadline(Instant::now() + time_max);
        tokio::task::spawn_blocking(move || {
            let reader = match take(&idle) {
                Some(reader) => Ok(reader),
                None => brokers.reader(),
            };
            let (reader, done) = match reader {
                Ok(reader) => {
                    let done = work(&reader, deadline);
                    (Some(reader), done)
                }
                Err(error) => (None, Err(error.into())),
            };
            let is_well = matches!(done, Ok(_) | Err(NotRead::NotThere(_)));
            // Whoever asked may have gone.
            let _ = answer.send(done);
            if is_well {
                locked(&idle).extend(reader);
            }
            // One that has failed takes its time to end: its place is taken until then.
            drop((busy, place));
        });
        let answer = match tokio::time::timeout(time_max + GRACE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => {
                Err(NotRead::Failed(format!("Kafka did not answer within {} s", time_max.as_secs())))
            }
        };
        match &answer {
            Err(NotRead::Failed(why)) => self.note(Some(why.clone())),
            Ok(_) | Err(NotRead::NotThere(_)) => self.note(None),
            Err(NotRead::Busy) => {}
        }
        answer
    }

    fn note(&self, failing: Option<String>) {
        self.failing.send_if_modified(|now| {
            let is_other = *now != failing;
            *now = failing;
            is_other
        });
    }

    /// Keeps `health` up to date with whether topics can be read, and ends readers whose certificate is outdated, until `stop`. Asks nothing while all is well.
    pub(crate) async fn run(&self, health: &Component, stop: impl Future<Output = ()>) {
        let watched = async {
            let mut failing = self.failing.subscribe();
            if let Err(why) = &self.brokers {
                self.note(Some(why.clone()));
            }
            loop {
                let why = failing.borrow_and_update().clone();
                let can_recover = why.is_some() && self.brokers.is_ok();
                match why {
                    Some(why) if self.brokers.is_err() => health.degraded(why),
                    Some(why) => health.degraded(format!("topics can't be read: {why}")),
                    None => health.ready(),
                }
                tokio::select! {
                    changed = failing.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(ASK_AGAIN_EVERY), if can_recover => {
                        // What it says is noted.
                        let _ = self.read(ASK_TIME_MAX, |reader, deadline| Ok(reader.topics(deadline.left())?)).await;
                    }
                }
            }
        };
        tokio::select! {
            () = watched => {}
            () = self.end_outdated() => {}
            () = stop => {}
        }
    }

    /// Ends readers that show a certificate that was renewed: whoever renews it waits until nobody shows the one before, and the next page
    /// may be long in coming. Never returns.
    async fn end_outdated(&self) {
        loop {
            tokio::time::sleep(OUTDATED_END_EVERY).await;
            let outdated: Vec<Reader> =
                locked(&self.idle).extract_if(.., |reader| reader.is_outdated()).collect();
            if !outdated.is_empty() {
                // An end takes its time.
                tokio::task::spawn_blocking(move || drop(outdated));
            }
        }
    }
}

/// Counts a page that reads.
struct Busy;

impl Busy {
    fn new() -> Self {
        metrics::gauge!(metric::CONSOLE_READERS).increment(1.0);
        Self
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        metrics::gauge!(metric::CONSOLE_READERS).decrement(1.0);
    }
}

fn locked(idle: &Mutex<Vec<Reader>>) -> MutexGuard<'_, Vec<Reader>> {
    // Nothing that holds it can leave it half changed.
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One that shows what it should show. Others end here.
fn take(idle: &Mutex<Vec<Reader>>) -> Option<Reader> {
    loop {
        let reader = locked(idle).pop()?;
        if !reader.is_outdated() {
            return Some(reader);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use holdfast_common::{
        config::{KafkaConfig, KafkaTlsConfig},
        health::Health,
    };

    use super::*;

    /// At brokers that are not there; nothing connects until it must.
    fn away() -> Topics {
        let config = KafkaConfig::of_a_reader("127.0.0.1:1".to_owned(), KafkaTlsConfig::default());
        Topics::new(Ok(Brokers::without_tls(&config)))
    }

    /// So many read at a time, a further one is told to come again, and a place is free again when its reader has ended.
    #[tokio::test]
    async fn a_few_read_at_a_time() {
        let topics = Arc::new(away());
        let (free, wait) = (watch::Sender::new(false), Duration::from_secs(60));
        let with_reader = Arc::new(AtomicUsize::new(0));
        let reading: Vec<_> = (0..READERS_MAX)
            .map(|_| {
                let (topics, mut freed) = (topics.clone(), free.subscribe());
                let with_reader = with_reader.clone();
                tokio::spawn(async move {
                    let hold = move |_: &Reader, _: Deadline| {
                        with_reader.fetch_add(1, Ordering::SeqCst);
                        let waited = tokio::runtime::Handle::current().block_on(freed.wait_for(|free| *free));
                        waited.map(drop).map_err(|error| NotRead::Failed(error.to_string()))
                    };
                    topics.read(wait, hold).await
                })
            })
            .collect();
        // A place is taken before its reader is: one that begins late would find that of another.
        while with_reader.load(Ordering::SeqCst) < READERS_MAX {
            tokio::task::yield_now().await;
        }
        assert!(matches!(topics.read(wait, |_, _| Ok(())).await, Err(NotRead::Busy)));
        free.send_replace(true);
        for read in reading {
            read.await.expect("no panic").expect("read");
        }
        while topics.places.available_permits() < READERS_MAX {
            tokio::task::yield_now().await;
        }
        assert_eq!(locked(&topics.idle).len(), READERS_MAX, "they are used again");
        topics.read(wait, |_, _| Ok(())).await.expect("a place");
    }

    /// What fails is said in readiness until something was read, and its reader is not used again.
    #[tokio::test]
    async fn what_fails_is_said_until_it_is_well() {
        let (topics, health) = (Arc::new(away()), Health::default());
        let component = health.component("topics");
        let (watching, stop) = (topics.clone(), Arc::new(tokio::sync::Notify::new()));
        let stopped = stop.clone();
        let task = tokio::spawn(async move { watching.run(&component, stopped.notified()).await });
        let detail = |expected: &'static str| {
            let health = health.clone();
            async move {
                while !health.components()["topics"].detail.contains(expected) {
                    tokio::task::yield_now().await;
                }
            }
        };
        let fail = |_: &Reader, _: Deadline| Err::<(), _>(NotRead::Failed("no leader".to_owned()));
        topics.read(Duration::from_secs(60), fail).await.expect_err("as it says");
        detail("topics can't be read: no leader").await;
        assert!(locked(&topics.idle).is_empty());
        topics.read(Duration::from_secs(60), |_, _| Ok(())).await.expect("read");
        while !health.components()["topics"].detail.is_empty() {
            tokio::task::yield_now().await;
        }
        stop.notify_one();
        task.await.expect("it ends");
    }

    /// Brokers that are not there are said to be away within the time, and hold up nobody.
    #[tokio::test]
    async fn brokers_that_are_away_are_said_to_be() {
        let topics = away();
        let asked =
            topics.read(Duration::from_millis(200), |reader, deadline| Ok(reader.topics(deadline.left())?));
        let Err(NotRead::Failed(why)) = asked.await else { unreachable!("nobody is there") };
        assert!(why.starts_with("Kafka"), "{why}");
        let unknown = Topics::new(Err("no brokers are configured".to_owned()));
        let asked = unknown.read(Duration::from_secs(60), |_, _| Ok(())).await;
        assert!(matches!(asked, Err(NotRead::Failed(why)) if why == "no brokers are configured"));
    }
}
