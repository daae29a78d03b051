//! What happens outside of the database once a transaction is committed, such as the announcement of a change.
//!
//! The work of a transaction may run several times, be rolled back, and outlive its caller. So it has no effect of its
//! own outside of its connection: it leaves one here, which [`super::Database::transaction`] runs when the outcome is known.

use std::cell::{Cell, RefCell};

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is committed.
    Committed,
    /// It may be committed, now or in a moment (`DatabaseError::CommitUnknown`).
    Unknown,
}

type Effect = Box<dyn FnOnce(Fate) + Send>;

tokio::task_local! {
    static EFFECTS: RefCell<Vec<Effect>>;
    static WRITES_EVENTS: Cell<bool>;
}

/// For the work of a transaction: runs `effect` after the commit, whether or not the caller is still there. It is dropped
/// if the transaction is rolled back. It must be quick and must not fail.
///
/// An effect survives the rollback of a savepoint, unless it is undone with it ([`undo_since`]).
///
/// # Panics
///
/// Outside of [`super::Database::transaction`], where it would never run.
pub fn after_commit(effect: impl FnOnce(Fate) + Send + 'static) {
    EFFECTS.with(|effects| effects.borrow_mut().push(Box::new(effect)));
}

/// For the work of a transaction that writes events: the relay is woken after the commit.
pub(crate) fn wake_relay_after_commit() {
    // Whoever has no transaction of ours has its events found by the relay's next look.
    let _ = WRITES_EVENTS.try_with(|writes| writes.set(true));
}

/// Whether the work of this attempt has written events. Those of a savepoint that was rolled back count too, which costs the relay a look.
pub(super) fn writes_events() -> bool {
    WRITES_EVENTS.with(Cell::get)
}

/// What effects there are, for [`undo_since`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark(usize);

/// Before a savepoint; outside of a transaction there are none.
pub(crate) fn mark() -> Mark {
    Mark(EFFECTS.try_with(|effects| effects.borrow().len()).unwrap_or_default())
}

/// After its rollback: what was left since then stands for what never happened.
pub(crate) fn undo_since(mark: Mark) {
    // Outside of a transaction there is nothing to undo.
    let _ = EFFECTS.try_with(|effects| effects.borrow_mut().truncate(mark.0));
}

/// Runs one attempt of a transaction, and then its effects. `attempt` says how far it came.
pub(super) async fn with_effects<T>(attempt: impl Future<Output = (Option<Fate>, T)>) -> T {
    let scoped = async {
        let (fate, outcome) = attempt.await;
        (fate, EFFECTS.with(RefCell::take), outcome)
    };
    let scoped = WRITES_EVENTS.scope(Cell::default(), scoped);
    let (fate, effects, outcome) = EFFECTS.scope(RefCell::default(), scoped).await;
    if let Some(fate) = fate {
        for effect in effects {
            effect(fate);
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// What was left in a savepoint is undone with it, and nothing else.
    #[tokio::test]
    async fn effects_are_undone_with_a_savepoint() {
        let (sender, told) = mpsc::channel();
        let leave = |effect| {
            let sender = sender.clone();
            after_commit(move |_| sender.send(effect).expect("received"));
        };
        with_effects(async {
            leave(1);
            let before = mark();
            leave(2);
            leave(3);
            undo_since(before);
            leave(4);
            (Some(Fate::Committed), ())
        })
        .await;
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [1, 4]);
    }

    /// Effects run after a commit, in order, and learn of an unknown one; those of a rollback never run.
    #[tokio::test]
    async fn effects_run_after_the_commit() {
        let (sender, told) = mpsc::channel();
        for (attempt, fate) in [None, Some(Fate::Committed), Some(Fate::Unknown)].into_iter().enumerate() {
            let sender = sender.clone();
            with_effects(async move {
                for effect in [1, 2] {
                    let sender = sender.clone();
                    after_commit(move |fate| sender.send((attempt, effect, fate)).expect("received"));
                    tokio::task::yield_now().await;
                }
                (fate, ())
            })
            .await;
        }
        let told: Vec<_> = told.try_iter().collect();
        let (committed, unknown) = (Fate::Committed, Fate::Unknown);
        assert_eq!(told, [(1, 1, committed), (1, 2, committed), (2, 1, unknown), (2, 2, unknown)]);
    }
}
