//! What a process says of itself: ready (give me work) and alive (don't restart me).
//!
//! Each part that can be away registers a [`Component`] and keeps it up to date; `/readyz` shows them all. A loop that
//! must never stand still registers a [`Heartbeat`]; `/healthz` fails when one is older than its limit.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::watch;

/// The state of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentState {
    /// Whether it can be used.
    pub ready: bool,
    /// Why not, or empty.
    pub detail: String,
}

#[derive(Debug, Default)]
struct Parts {
    components: BTreeMap<&'static str, ComponentState>,
    heartbeats: BTreeMap<&'static str, (Instant, Duration)>,
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
    /// Adds a part that is not ready yet.
    #[must_use]
    pub fn component(&self, name: &'static str) -> Component {
        let component = Component { health: self.clone(), name };
        component.waiting("starting");
        component
    }

    /// Adds a loop that must beat at least every `limit`.
    #[must_use]
    pub fn heartbeat(&self, name: &'static str, limit: Duration) -> Heartbeat {
        let heartbeat = Heartbeat { health: self.clone(), name, limit };
        heartbeat.beat();
        heartbeat
    }

    /// All parts by name.
    #[must_use]
    pub fn components(&self) -> BTreeMap<&'static str, ComponentState> {
        self.lock().components.clone()
    }

    /// Whether all parts are ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Follows [`Health::is_ready`].
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// The loops that stand still.
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
        if parts.components.get(name).map(|before| before.ready) != Some(state.ready) {
            if state.ready {
                tracing::info!(component = name, "component is ready");
            } else {
                tracing::warn!(component = name, detail = state.detail, "component is not ready");
            }
        }
        parts.components.insert(name, state);
        let all_ready = parts.components.values().all(|state| state.ready);
        drop(parts);
        self.ready.send_if_modified(|ready| std::mem::replace(ready, all_ready) != all_ready);
    }
}

/// One part that can be away.
#[derive(Debug, Clone)]
pub struct Component {
    health: Health,
    name: &'static str,
}

impl Component {
    /// It can be used.
    pub fn ready(&self) {
        self.health.set(self.name, ComponentState { ready: true, detail: String::new() });
    }

    /// It can be used, but something is wrong with it; `why` goes to `/readyz` and must not hold secrets.
    pub fn degraded(&self, why: impl Into<String>) {
        self.health.set(self.name, ComponentState { ready: true, detail: why.into() });
    }

    /// It can't be used; `why` goes to `/readyz` and must not hold secrets.
    pub fn waiting(&self, why: impl Into<String>) {
        self.health.set(self.name, ComponentState { ready: false, detail: why.into() });
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
    /// The loop went round.
    pub fn beat(&self) {
        self.health.lock().heartbeats.insert(self.name, (Instant::now(), self.limit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process is ready when all its parts are, and says which are not.
    #[test]
    fn ready_when_all_parts_are() {
        let health = Health::default();
        let database = health.component("database");
        let kafka = health.component("kafka");
        database.ready();
        assert!(!health.is_ready());
        kafka.ready();
        assert!(health.is_ready());
        database.waiting("connection refused");
        assert!(!health.is_ready());
        assert_eq!(health.components()["database"].detail, "connection refused");
    }

    /// A loop that stands still is named.
    #[test]
    fn a_stalled_loop_is_named() {
        let health = Health::default();
        let _slow = health.heartbeat("slow", Duration::ZERO);
        let _quick = health.heartbeat("quick", Duration::from_secs(60));
        let begin = Instant::now();
        while health.stalled().is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(5), "a limit of zero is over at once");
        }
        assert_eq!(health.stalled(), ["slow"]);
    }
}
