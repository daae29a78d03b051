//! How late the runtime wakes a task that sleeps. All others wait as long for their turn: a task that computes, or blocks, is seen here
//! before it is seen as slow calls.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::metric;

/// Ten times a second: nothing beside the rest, and often enough that the worst of a minute is seen.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Measures forever. The clock of the runtime has steps of a millisecond, so that much is normal.
pub(crate) async fn measure() {
    let lag = metrics::histogram!(metric::EVENT_LOOP_LAG_SECONDS);
    loop {
        let due = Instant::now() + LOOK_EVERY;
        sleep_until(due).await;
        lag.record(due.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// A task that blocks its runtime is seen.
    #[test]
    fn a_blocked_runtime_is_seen() {
        const BLOCKED: Duration = Duration::from_millis(50);
        let recorder = PrometheusBuilder::new().build_recorder();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        metrics::with_local_recorder(&recorder, || {
            runtime.block_on(async {
                let measuring = tokio::spawn(measure());
                // It begins to wait.
                tokio::task::yield_now().await;
                #[expect(clippy::disallowed_methods, reason = "blocking is what is to be seen")]
                std::thread::sleep(LOOK_EVERY + BLOCKED);
                while !recorder.handle().render().contains("holdfast_event_loop_lag_seconds_count 1") {
                    tokio::task::yield_now().await;
                }
                measuring.abort();
            });
        });
        let page = recorder.handle().render();
        let sum = page.lines().find_map(|line| line.strip_prefix("holdfast_event_loop_lag_seconds_sum "));
        let lag: f64 = sum.expect("measured").parse().expect("a number");
        assert!(lag >= BLOCKED.as_secs_f64(), "{lag}");
    }
}
