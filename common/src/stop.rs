//! Background loops sleep between their rounds, and end when their process does.

use std::{ops::ControlFlow, time::Duration};

use tokio_util::sync::CancellationToken;

/// Sleeps for `time`; `Break` if a stop is requested before.
pub async fn sleep_unless_stopped(stop: &CancellationToken, time: Duration) -> ControlFlow<()> {
    tokio::select! {
        () = stop.cancelled() => ControlFlow::Break(()),
        () = tokio::time::sleep(time) => ControlFlow::Continue(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pause lasts as long as it should, and ends at once with the process.
    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_with_the_process() {
        let stop = CancellationToken::new();
        assert!(sleep_unless_stopped(&stop, Duration::from_secs(1)).await.is_continue());
        stop.cancel();
        assert!(sleep_unless_stopped(&stop, Duration::from_secs(3600)).await.is_break());
    }
}
