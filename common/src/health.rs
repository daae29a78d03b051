//! What a process reports about itself: ready (give me work), degraded (something is wrong, but I can serve) and alive
//! (don't restart me).
//!
//! Each part that can be away registers a [`Component`] and keeps it up to date; `/readyz` shows them all. It fails
//! only for those that callers need now ([`Health::required`]): behind a balancer, a process that counted the others
//! too would be taken out of service although it could serve (pitfalls P42). A loop that must never stall registers a
//! [`Heartbeat`]; `/healthz` fails when one is older than its limit. A loop that does the same thing again and again
//! registers a [`PeriodicTask`]: the process is degraded when it has not succeeded for too long, whatever the reason.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use tokio::sync::watch;

/// What a part says before it has said anything.
const STARTING: &str = "starting";

/// The state of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentState {
    /// Whether the part can be used.
    pub ready: bool,
    /// Whether the process can't serve its callers without it.
    pub required: bool,
    /// What is wrong with it, or empty.
    pub detail: String,
}

#[derive(Debug, Default)]
struct Parts {
    components: BTreeMap<&'static str, ComponentState>,
    heartbeats: BTreeMap<&'static str, (Instant, Duration)>,
    tasks: BTreeMap<&'static str, Runs>,
}

/// The state of a periodic task.
#[derive(Debug)]
struct Runs {
    last_success: Instant,
    success_every_max: Duration,
    /// Why the last run failed, or empty.
    failure: String,
}

impl Runs {
    fn state(&self) -> ComponentState {
        let age = self.last_success.elapsed();
        let ready = age <= self.success_every_max;
        let detail = match (ready, self.failure.as_str()) {
            (true, _) => String::new(),
            (false, "") => format!("has not come to an end for {} s", age.as_secs()),
            (false, failure) => format!("has not succeeded for {} s: {failure}", age.as_secs()),
        };
        ComponentState { ready, required: false, detail }
    }
}

/// The registry of a process; clones share it.
#[derive(Debug, Clone)]
pub struct Health {
    parts: Arc<Mutex<Parts>>,
    ready: Arc<watch::Sender<bool>>,
}

impl Default for Health {
    fn default() -> Self {
        Self { parts: Arc::default(), ready: Arc::new(watch::Sender::new(false)) }
    }
}

impl Health {
    /// Adds a part that is not ready yet, and without which the process can serve: it is degraded while the part is away.
    #[must_use]
    pub fn component(&self, name: &'static str) -> Component {
        self.add(name, Need::Background)
    }

    /// Adds a part that is not ready yet, and without which the process can't serve.
    #[must_use]
    pub fn required(&self, name: &'static str) -> Component {
        self.add(name, Need::Serving)
    }

    fn add(&self, name: &'static str, need: Need) -> Component {
        let component = Component { health: self.clone(), name, need };
        component.waiting(STARTING);
        component
    }

    /// Adds a loop that must beat at least every `limit`.
    #[must_use]
    pub fn heartbeat(&self, name: &'static str, limit: Duration) -> Heartbeat {
        let heartbeat = Heartbeat { health: self.clone(), name, limit };
        heartbeat.beat();
        heartbeat
    }

    /// Adds a task that must succeed at least every `success_every_max`, or the process is degraded. If a run does not
    /// end within twice that time, and at least a minute, the process is not alive.
    #[must_use]
    pub fn periodic(&self, name: &'static str, success_every_max: Duration) -> PeriodicTask {
        let runs = Runs { last_success: Instant::now(), success_every_max, failure: String::new() };
        self.lock().tasks.insert(name, runs);
        let heartbeat = self.heartbeat(name, (success_every_max * 2).max(PERIODIC_HEARTBEAT_MIN));
        PeriodicTask { heartbeat }
    }

    /// All parts and periodic tasks by name.
    #[must_use]
    pub fn components(&self) -> BTreeMap<&'static str, ComponentState> {
        let parts = self.lock();
        let tasks = parts.tasks.iter().map(|(name, runs)| (*name, runs.state()));
        parts.components.clone().into_iter().chain(tasks).collect()
    }

    /// Brings `holdfast_component_degraded` of the periodic tasks up to date: a task that hangs reports nothing itself.
    pub(crate) fn publish(&self) {
        for (name, runs) in &self.lock().tasks {
            publish_component(name, &runs.state());
        }
    }

    /// Whether all required parts are ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Whether something is wrong with any part.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.components().values().any(|state| !state.ready || !state.detail.is_empty())
    }

    /// Watches [`Health::is_ready`].
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// The loops that make no progress.
    #[must_use]
    pub fn stalled(&self) -> Vec<&'static str> {
        let parts = self.lock();
        parts
            .heartbeats
            .iter()
            .filter(|(_, (last, limit))| last.elapsed() > *limit)
            .map(|(name, _)| *name)
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        // Plain data: a panic elsewhere can't leave it half changed.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, name: &'static str, state: ComponentState) {
        let mut parts = self.lock();
        match (parts.components.get(name), state.ready) {
            (Some(before), true) if before.ready => {}
            (_, true) => tracing::info!(component = name, "component is ready"),
            (Some(before), false) if before.ready => {
                tracing::warn!(component = name, detail = state.detail, "component is not ready");
            }
            // What every start says is no news; what it waits for then is, once.
            (Some(before), false) if before.detail == STARTING && state.detail != STARTING => {
                tracing::info!(component = name, detail = state.detail, "component waits");
            }
            (_, false) => {}
        }
        publish_component(name, &state);
        parts.components.insert(name, state);
        let all_ready = parts.components.values().all(|state| state.ready || !state.required);
        drop(parts);
        self.ready.send_if_modified(|ready| std::mem::replace(ready, all_ready) != all_ready);
    }
}

fn publish_component(name: &'static str, state: &ComponentState) {
    let degraded = !state.ready || !state.detail.is_empty();
    let required = if state.required { "true" } else { "false" };
    metrics::gauge!(crate::metric::COMPONENT_DEGRADED, "component" => name, "required" => required)
        .set(if degraded { 1.0 } else { 0.0 });
}

/// What a process needs a part for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// What its callers ask for now.
    Serving,
    /// What happens later, or what it can report as an error.
    Background,
}

/// One part that can be away.
#[derive(Debug, Clone)]
pub struct Component {
    health: Health,
    name: &'static str,
    need: Need,
}

impl Component {
    /// It can be used.
    pub fn ready(&self) {
        self.set(true, String::new());
    }

    /// It can be used, but something is wrong with it; `why` goes to `/readyz` and must not hold secrets.
    pub fn degraded(&self, why: impl Into<String>) {
        self.set(true, why.into());
    }

    /// It can't be used; `why` goes to `/readyz` and must not hold secrets.
    pub fn waiting(&self, why: impl Into<String>) {
        self.set(false, why.into());
    }

    fn set(&self, ready: bool, detail: String) {
        let required = self.need == Need::Serving;
        self.health.set(self.name, ComponentState { ready, required, detail });
    }
}

/// The sign of life of one loop.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    health: Health,
    name: &'static str,
    limit: Duration,
}

impl Heartbeat {
    /// The loop made a round.
    pub fn beat(&self) {
        self.health.lock().heartbeats.insert(self.name, (Instant::now(), self.limit));
    }
}

/// A run that takes as long as the limits on statements and calls allow is not hung yet.
const PERIODIC_HEARTBEAT_MIN: Duration = Duration::from_secs(60);

/// A loop that does the same thing again and again. Its owner reports how each run went.
#[derive(Debug, Clone)]
pub struct PeriodicTask {
    heartbeat: Heartbeat,
}

impl PeriodicTask {
    /// A run did what it should, which may be nothing.
    pub fn succeeded(&self) {
        self.ended(String::new());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        metrics::gauge!(crate::metric::PERIODIC_TASK_LAST_SUCCESS_TIMESTAMP_SECONDS, "task" => self.heartbeat.name)
            .set(now.as_secs_f64());
    }

    /// A run failed; `why` goes to `/readyz` and must not hold secrets.
    pub fn failed(&self, why: impl Into<String>) {
        self.ended(why.into());
        metrics::counter!(crate::metric::PERIODIC_TASK_FAILURES_TOTAL, "task" => self.heartbeat.name)
            .increment(1);
    }

    fn ended(&self, failure: String) {
        if let Some(runs) = self.heartbeat.health.lock().tasks.get_mut(self.heartbeat.name) {
            if failure.is_empty() {
                runs.last_success = Instant::now();
            }
            runs.failure = failure;
        }
        // Also after a failure: a restarted process would find the same broken file or absent database.
        self.heartbeat.beat();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process is ready when all parts that it needs are, degraded while anything is wrong, and says what.
    #[test]
    fn ready_means_can_serve() {
        let health = Health::default();
        let database = health.required("database");
        let kafka = health.component("kafka");
        assert!(!health.is_ready() && health.is_degraded());
        database.ready();
        assert!(health.is_ready() && health.is_degraded(), "without its broker it can serve");
        kafka.ready();
        assert!(health.is_ready() && !health.is_degraded());
        kafka.degraded("one row can't be published");
        assert!(health.is_ready() && health.is_degraded());
        kafka.ready();
        database.waiting("connection refused");
        assert!(!health.is_ready() && health.is_degraded());
        assert_eq!(health.components()["database"].detail, "connection refused");
    }

    /// A start is no reason to warn; what was ready and is not any more is, and what a start waits for is told once.
    #[test]
    fn a_start_is_no_warning() {
        #[derive(Clone, Default)]
        struct Written(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Written {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().expect("whole").extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let written = Written::default();
        let make_writer = {
            let written = written.clone();
            move || written.clone()
        };
        let subscriber =
            tracing_subscriber::fmt().without_time().with_ansi(false).with_writer(make_writer).finish();
        tracing::subscriber::with_default(subscriber, || {
            let kafka = Health::default().component("kafka");
            kafka.waiting("the broker does not answer");
            kafka.waiting("it still does not");
            kafka.ready();
            kafka.degraded("slow");
            kafka.waiting("the broker does not answer");
            kafka.waiting("it still does not");
            kafka.ready();
        });
        let text = String::from_utf8(written.0.lock().expect("whole").clone()).expect("text");
        let levels: Vec<_> = text
            .lines()
            .filter_map(|line| {
                let level = line.split_whitespace().next()?;
                Some((level, line.split_once(": ")?.1.split(" component=").next()?))
            })
            .collect();
        let expected = [
            ("INFO", "component waits"),
            ("INFO", "component is ready"),
            ("WARN", "component is not ready"),
            ("INFO", "component is ready"),
        ];
        assert_eq!(levels, expected, "{text}");
    }

    /// A stalled loop is named.
    #[test]
    fn a_stalled_loop_is_named() {
        let health = Health::default();
        let _slow = health.heartbeat("slow", Duration::ZERO);
        let _quick = health.heartbeat("quick", Duration::from_secs(60));
        let begin = Instant::now();
        while health.stalled().is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(5), "a limit of zero passes at once");
        }
        assert_eq!(health.stalled(), ["slow"]);
    }

    /// A task that has not succeeded for too long degrades the process, and says why; its next success heals it.
    #[test]
    fn a_task_that_does_not_succeed_degrades() {
        let health = Health::default();
        health.required("database").ready();
        let task = health.periodic("janitor", Duration::from_secs(3600));
        assert!(!health.is_degraded(), "it has just begun");
        task.failed("disk full");
        assert!(!health.is_degraded(), "not yet for long");

        let short = health.periodic("janitor", Duration::from_millis(20));
        let degraded = || health.components()["janitor"].clone();
        let begin = Instant::now();
        while degraded().ready {
            assert!(begin.elapsed() < Duration::from_secs(5), "a limit of 20 ms passes");
        }
        assert!(degraded().detail.contains("has not come to an end"), "{:?}", degraded());
        short.failed("disk full");
        assert!(health.is_degraded() && health.is_ready(), "it can serve");
        assert!(degraded().detail.contains("disk full"), "{:?}", degraded());
        assert_eq!(health.stalled(), Vec::<&str>::new(), "a failure is a sign of life");
        let again = health.periodic("janitor", Duration::from_secs(60));
        again.succeeded();
        assert!(!health.is_degraded());
    }
}
