//! Open-loop load. Requests are due at fixed times, whether or not earlier ones have been answered, and their time counts
//! from when they were due: a server that stalls is seen as slow for all who would have come, not for one (no coordinated
//! omission).

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::Instant,
};

/// How much load.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Requests per second.
    pub rate: f64,
    /// How many requests.
    pub requests: u64,
    /// Requests in flight at a time; the next ones wait, and their waiting counts.
    pub clients: usize,
}

/// Runs `request` for each number from 0, each with the time when it is due. Returns the results in the order of
/// their ends.
pub async fn open_loop<T, F, W>(plan: Plan, request: W) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
    W: Fn(u64, Instant) -> F + Send + Sync + 'static,
{
    let clients = Arc::new(Semaphore::new(plan.clients));
    let request = Arc::new(request);
    let mut running = JoinSet::new();
    let mut results = Vec::new();
    let begin = Instant::now();
    for number in 0..plan.requests {
        #[expect(clippy::cast_precision_loss, reason = "a count of requests is far below 2^52")]
        let due = begin + Duration::from_secs_f64(number as f64 / plan.rate);
        wait_until(due).await;
        let (clients, request) = (clients.clone(), request.clone());
        running.spawn(async move {
            let permit = clients.acquire_owned().await;
            let result = request(number, due).await;
            drop(permit);
            result
        });
        while let Some(Ok(result)) = running.try_join_next() {
            results.push(result);
        }
    }
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(result) => results.push(result),
            Err(error) => {
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
    results
}

/// The runtime's timer ticks once in a millisecond, and wakes late rather than early.
const TIMER_ERROR_MAX: Duration = Duration::from_millis(2);

/// To some 50 us, because what the load is late counts as the stack's time: the last moments on a thread, which the kernel wakes in time.
async fn wait_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return;
    }
    tokio::time::sleep(left.saturating_sub(TIMER_ERROR_MAX)).await;
    let left = due.saturating_duration_since(Instant::now());
    #[expect(
        clippy::disallowed_methods,
        reason = "on a thread for what blocks, where the runtime's timer is too coarse"
    )]
    let rest = spawn_blocking(move || std::thread::sleep(left));
    // It fails only if the runtime ends.
    let _ = rest.await;
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep_until;

    use super::*;

    /// A server that stalls once is seen by every request that was due meanwhile, not by one.
    #[tokio::test(start_paused = true)]
    async fn a_stall_is_seen_by_all_who_would_have_come() {
        let plan = Plan { rate: 100.0, requests: 100, clients: 1 };
        let begin = Instant::now();
        let waits = open_loop(plan, move |_, due| async move {
            // The server is away for half a second.
            sleep_until(begin + Duration::from_millis(500)).await;
            due.elapsed()
        })
        .await;
        assert_eq!(waits.len(), 100);
        let slow = waits.iter().filter(|wait| **wait > Duration::from_millis(50)).count();
        assert!((44..=46).contains(&slow), "{slow}");
    }
}
