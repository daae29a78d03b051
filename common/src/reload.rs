//! Reloads files when they change: certificates, keys. Files that can't be used are refused, and the old ones stay in
//! use.

use std::{error::Error, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{error::chain, health::PeriodicTask};

/// How often the files are compared with what is in use. Content is compared rather than times or inode events,
/// because secret managers swap symbolic links, and a watcher misses the second swap (pitfalls P30).
const RELOAD_EVERY: Duration = Duration::from_secs(2);
/// Time that a writer may take between two files that belong together.
const TORN_TIME_MAX: Duration = Duration::from_millis(100);
/// The longest time without success: certificates are renewed hours before they expire, but a revocation, or the
/// withdrawal of a key, must take effect soon.
pub const SUCCESS_EVERY_MAX: Duration = Duration::from_secs(15);

/// What a reload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// The files are the ones in use.
    Unchanged,
    /// New files are in use from now on.
    Swapped,
}

/// Calls `reload` until `stop`. `what` is for the log, `failures` the counter of what was refused.
pub async fn reload_on_change<E: Error + 'static>(
    what: &'static str,
    failures: &'static str,
    mut reload: impl FnMut() -> Result<Reload, E>,
    task: PeriodicTask,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(RELOAD_EVERY);
    let mut refused = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let mut reloaded = reload();
        if reloaded.is_err() {
            // Perhaps read between the writes of two files that belong together.
            tokio::time::sleep(TORN_TIME_MAX).await;
            reloaded = reload();
        }
        match reloaded {
            Ok(done) => {
                task.succeeded();
                refused = None;
                if done == Reload::Swapped {
                    tracing::info!(what, "reloaded");
                }
            }
            Err(error) => {
                // Logged once per distinct error, counted every time.
                metrics::counter!(failures).increment(1);
                let text = chain(&error);
                task.failed(text.as_str());
                if refused.as_ref() != Some(&text) {
                    tracing::error!(what, error = text, "new files refused, the old ones stay in use");
                    refused = Some(text);
                }
            }
        }
    }
}
