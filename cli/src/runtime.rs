//! The runtime of commands that call services: one thread is enough, because they wait for one thing at a time.

use anyhow::Result;

use crate::output::Outcome;

/// Runs a command that calls services.
pub(crate) fn block_on(work: impl Future<Output = Result<Outcome>>) -> Result<Outcome> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
