//! What a user may ask for in large pieces is made for that user a few pieces at a time. More would not come sooner, and everybody
//! else's small requests would wait behind all of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use holdfast_proto::UserId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Pieces of one user that are made at a time.
const AT_A_TIME: usize = 2;

/// The users for whom something is made. As many as there are requests in progress, so it is bounded by the limits of those.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<UserId, Waiting>>>);

#[derive(Debug)]
struct Waiting {
    turns: Arc<Semaphore>,
    requests: usize,
}

impl Turns {
    /// Waits until it is the turn of this request.
    pub(super) async fn take(&self, user_id: &UserId) -> Turn {
        let turns = {
            let mut waiting = lock(&self.0);
            let new = || Waiting { turns: Arc::new(Semaphore::new(AT_A_TIME)), requests: 0 };
            let waiting = waiting.entry(user_id.clone()).or_insert_with(new);
            waiting.requests += 1;
            waiting.turns.clone()
        };
        let mut turn = Turn { permit: None, user_id: user_id.clone(), waiting: self.0.clone() };
        // The semaphore is never closed.
        turn.permit = turns.acquire_owned().await.ok();
        turn
    }
}

/// A request's turn, until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    permit: Option<OwnedSemaphorePermit>,
    user_id: UserId,
    waiting: Arc<Mutex<HashMap<UserId, Waiting>>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permit = None;
        let mut waiting = lock(&self.waiting);
        if let Some(of_user) = waiting.get_mut(&self.user_id) {
            of_user.requests -= 1;
            if of_user.requests == 0 {
                waiting.remove(&self.user_id);
            }
        }
    }
}

fn lock(waiting: &Mutex<HashMap<UserId, Waiting>>) -> MutexGuard<'_, HashMap<UserId, Waiting>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// A user has two turns at a time, whoever gives up waiting, and others do not wait for them.
    #[tokio::test(start_paused = true)]
    async fn a_user_has_two_turns_at_a_time() {
        let turns = Turns::default();
        let [alice, bob] = ["alice", "bob"].map(|name| UserId::parse(name).expect("a user"));
        let soon = Duration::from_secs(1);
        let first = turns.take(&alice).await;
        let second = turns.take(&alice).await;
        assert!(timeout(soon, turns.take(&alice)).await.is_err());
        drop(timeout(soon, turns.take(&bob)).await.expect("his own"));
        drop(first);
        let third = timeout(soon, turns.take(&alice)).await.expect("free again");
        assert!(timeout(soon, turns.take(&alice)).await.is_err());
        drop((second, third));
        assert!(lock(&turns.0).is_empty());
    }
}
