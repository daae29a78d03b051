//! What a process says of itself: ready (give me work), degraded (something is wrong, but I can serve) and alive (don't
//! restart me).
//!
//! Each part that can be away registers a [`Component`] and keeps it up to date; `/readyz` shows them all. It fails only
//! for those that callers need now ([`Health::required`]): behind a balancer, a process that counted the others too
//! would be taken out of service although it could serve (pitfalls P42). A loop that must never stand still registers a
//! [`Heartbeat`]; `/healthz` fails when one is older than its limit.

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
    /// Whether the process can't serve its callers without it.
    pub required: bool,
    /// What is wrong with it, or empty.
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

    /// Whether all required parts are ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Whether something is wrong with any part.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.lock().components.values().any(|state| !state.ready || !state.detail.is_empty())
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
        let wrong = !state.ready || !state.detail.is_empty();
        let required = if state.required { "true" } else { "false" };
        metrics::gauge!("component_degraded", "component" => name, "required" => required).set(if wrong {
            1.0
        } else {
            0.0
        });
        parts.components.insert(name, state);
        let all_ready = parts.components.values().all(|state| state.ready || !state.required);
        drop(parts);
        self.ready.send_if_modified(|ready| std::mem::replace(ready, all_ready) != all_ready);
    }
}

/// What a process needs a part for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// What its callers ask now.
    Serving,
    /// What happens later, or what it can answer for with an error of its own.
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
    /// The loop went round.
    pub fn beat(&self) {
        self.health.lock().heartbeats.insert(self.name, (Instant::now(), self.limit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process is ready when all parts are that it needs to serve, degraded while anything is wrong, and says what.
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
