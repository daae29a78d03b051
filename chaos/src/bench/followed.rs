//! What the users' streams say of their orders, and when.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Result, bail};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    events::EventStream,
    rest::{Session, is_terminal},
};

/// When the streams said it first.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    paid: Option<Instant>,
    complete: Option<Instant>,
}

/// How far an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Milestone {
    /// Its payment has succeeded.
    Paid,
    /// Nothing more happens to it.
    Complete,
}

impl Seen {
    const fn at(self, milestone: Milestone) -> Option<Instant> {
        match milestone {
            Milestone::Paid => self.paid,
            Milestone::Complete => self.complete,
        }
    }
}

/// All orders of some users. Nothing is asked again and again, so watching costs what is watched next to nothing.
#[derive(Debug, Default)]
pub(super) struct FollowedOrders {
    seen: Mutex<HashMap<String, Seen>>,
    /// Why a stream has ended: what is still to come would not be seen.
    ended: Mutex<Option<String>>,
    changed: Notify,
}

impl FollowedOrders {
    /// Follows them until the answer is dropped.
    pub(super) async fn follow(self: &Arc<Self>, sessions: &[Session]) -> Result<JoinSet<()>> {
        let mut streams = JoinSet::new();
        for session in sessions {
            let stream = session.watch(None).await?;
            let followed = self.clone();
            streams.spawn(async move {
                let ended = followed.read(stream).await;
                let why = ended
                    .map_or_else(|error| format!("{error:#}"), |()| "the gateway has ended it".to_owned());
                *followed.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                followed.changed.notify_waiters();
            });
        }
        Ok(streams)
    }

    async fn read(&self, mut stream: EventStream) -> Result<()> {
        while let Some(order) = stream.next_order().await? {
            let Some(order_id) = order["order_id"].as_str() else { continue };
            let now = Instant::now();
            let mut all = self.lock();
            let seen = all.entry(order_id.to_owned()).or_default();
            if order["status"] == "PAID" {
                seen.paid.get_or_insert(now);
            }
            if is_terminal(&order) {
                seen.complete.get_or_insert(now);
            }
            drop(all);
            self.changed.notify_waiters();
        }
        Ok(())
    }

    /// How many of these orders have not come so far yet.
    pub(super) fn missing<'o>(&self, orders: impl Iterator<Item = &'o str>, milestone: Milestone) -> usize {
        let all = self.lock();
        orders.filter(|order| all.get(*order).and_then(|seen| seen.at(milestone)).is_none()).count()
    }

    /// When an order came so far; waits for it `patience` at most.
    pub(super) async fn when(
        &self,
        order_id: &str,
        milestone: Milestone,
        patience: Duration,
    ) -> Result<Instant> {
        let until = Instant::now() + patience;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let at = self.lock().get(order_id).and_then(|seen| seen.at(milestone));
            if let Some(at) = at {
                return Ok(at);
            }
            if let Some(why) = self.ended.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                bail!("a stream of events has ended: {why}");
            }
            if timeout_at(until, changed).await.is_err() {
                bail!("order {order_id} was not {milestone:?} within {} s", patience.as_secs())
            }
        }
    }

    /// Forgets what is over.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
