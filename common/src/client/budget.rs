//! How many retries a destination is allowed: some for each hundred calls of the last [`WINDOW`], and a few however few calls there are.
//!
//! As `tower::retry::budget::TpsBudget`, which can't be asked what is left, and goes on counting what is long past until it is used again.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tower::retry::budget::Budget;

use super::CallsConfig;

/// How many seconds a call and a retry count.
const SLOTS: usize = 10;
/// How long a call and a retry count.
const WINDOW: Duration = Duration::from_secs(SLOTS as u64);
/// What a retry costs; a call adds its percentage.
const RETRY: u64 = 100;
/// What a call adds at most: ten retries.
const PERCENT_MAX: u32 = 1_000;
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// See the module. All calls to a destination share it.
#[derive(Debug)]
pub(super) struct RetryBudget {
    of_call: u64,
    /// Allowed in a window, however few calls there are.
    reserve: u64,
    began_at: Instant,
    window: Mutex<Window>,
}

/// The last seconds, each in its slot.
#[derive(Debug, Default)]
struct Window {
    slots: [Slot; SLOTS],
    /// The latest one, counted from the beginning.
    second: u64,
}

/// In hundredths of a retry.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    earned: u64,
    spent: u64,
}

/// In retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Balance {
    /// That are allowed now.
    pub(super) left: u64,
    /// That were allowed in this window, those that were used included.
    pub(super) allowed: u64,
}

impl RetryBudget {
    pub(super) fn new(calls: &CallsConfig) -> Self {
        Self {
            of_call: calls.retry_budget_percent.min(PERCENT_MAX).into(),
            reserve: u64::from(calls.retry_budget_per_second) * WINDOW.as_secs() * RETRY,
            began_at: Instant::now(),
            window: Mutex::default(),
        }
    }

    /// What is left, and of how much.
    pub(super) fn balance(&self) -> Balance {
        let (earned, spent) = self.now().sum();
        let allowed = self.reserve + earned;
        Balance { left: allowed.saturating_sub(spent) / RETRY, allowed: allowed / RETRY }
    }

    /// The window as it is now.
    fn now(&self) -> MutexGuard<'_, Window> {
        // Nothing that holds it can leave it half changed.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.advance(self.began_at.elapsed().as_secs());
        window
    }
}

impl Budget for RetryBudget {
    fn deposit(&self) {
        self.now().latest().earned += self.of_call;
    }

    fn withdraw(&self) -> bool {
        let mut window = self.now();
        let (earned, spent) = window.sum();
        let is_allowed = spent + RETRY <= self.reserve + earned;
        if is_allowed {
            window.latest().spent += RETRY;
        }
        is_allowed
    }
}

impl Window {
    /// Forgets what is older than the window.
    fn advance(&mut self, second: u64) {
        let passed = second.saturating_sub(self.second);
        for step in 1..=passed.min(SLOTS as u64) {
            *self.slot(self.second + step) = Slot::default();
        }
        self.second += passed;
    }

    fn latest(&mut self) -> &mut Slot {
        self.slot(self.second)
    }

    fn slot(&mut self, second: u64) -> &mut Slot {
        #[expect(clippy::cast_possible_truncation, reason = "less than the number of slots")]
        let slot = (second % SLOTS as u64) as usize;
        &mut self.slots[slot]
    }

    fn sum(&self) -> (u64, u64) {
        self.slots.iter().fold((0, 0), |(earned, spent), slot| (earned + slot.earned, spent + slot.spent))
    }
}

/// Shows what is left until nobody holds the budget any more.
pub(super) async fn report(destination: String, budget: Weak<RetryBudget>) {
    let left = metrics::gauge!(
        crate::metric::GRPC_CLIENT_RETRY_BUDGET_LEFT, "destination" => destination.clone()
    );
    let allowed = metrics::gauge!(
        crate::metric::GRPC_CLIENT_RETRY_BUDGET_ALLOWED, "destination" => destination
    );
    while let Some(balance) = budget.upgrade().as_ref().map(Arc::as_ref).map(RetryBudget::balance) {
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
        let [of_left, of_allowed] = [balance.left, balance.allowed].map(|retries| retries as f64);
        left.set(of_left);
        allowed.set(of_allowed);
        sleep(REPORT_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn budget(retry_budget_percent: u32, retry_budget_per_second: u32) -> RetryBudget {
        RetryBudget::new(&CallsConfig {
            retry_budget_percent,
            retry_budget_per_second,
            ..CallsConfig::default()
        })
    }

    fn balance(budget: &RetryBudget) -> (u64, u64) {
        let Balance { left, allowed } = budget.balance();
        (left, allowed)
    }

    /// However few calls there are, a few retries are allowed; they come back once they are as old as the window.
    #[tokio::test(start_paused = true)]
    async fn a_few_are_always_allowed() {
        let budget = budget(20, 3);
        assert_eq!(balance(&budget), (30, 30));
        for _ in 0..30 {
            assert!(budget.withdraw());
        }
        assert!(!budget.withdraw());
        assert_eq!(balance(&budget), (0, 30));
        advance(Duration::from_secs(9)).await;
        assert!(!budget.withdraw());
        advance(Duration::from_secs(1)).await;
        assert_eq!(balance(&budget), (30, 30), "also if nobody has called meanwhile");
    }

    /// Each hundred calls allow so many retries, for as long as they count.
    #[tokio::test(start_paused = true)]
    async fn calls_allow_retries() {
        let budget = budget(20, 0);
        assert!(!budget.withdraw());
        for _ in 0..4 {
            budget.deposit();
        }
        assert_eq!(balance(&budget), (0, 0), "not a whole one");
        advance(Duration::from_secs(4)).await;
        budget.deposit();
        assert_eq!(balance(&budget), (1, 1));
        assert!(budget.withdraw() && !budget.withdraw());
        assert_eq!(balance(&budget), (0, 1));
        // What the calls have allowed is past before what was used of it.
        advance(Duration::from_secs(8)).await;
        assert_eq!(balance(&budget), (0, 0));
        for _ in 0..8 {
            budget.deposit();
        }
        assert!(!budget.withdraw(), "what was used still counts");
        advance(Duration::from_secs(2)).await;
        assert!(budget.withdraw() && !budget.withdraw());
        advance(Duration::from_secs(1_000)).await;
        assert_eq!(balance(&budget), (0, 0));
    }

    /// What is shown ends with its destination.
    #[tokio::test(start_paused = true)]
    async fn the_report_ends_with_its_budget() {
        let budget = Arc::new(budget(20, 3));
        let reported = tokio::spawn(report("payment".to_owned(), Arc::downgrade(&budget)));
        advance(Duration::from_secs(60)).await;
        assert!(!reported.is_finished());
        drop(budget);
        reported.await.expect("no panic");
    }
}
