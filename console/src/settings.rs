//! Settings that are followed while the console runs: where the services are, which changes when replicas come and go. All others are read
//! at the start.

use std::path::PathBuf;

use holdfast_common::{
    config::{self, ConfigError},
    error::BoxError,
    health::PeriodicTask,
    metric,
    reload::{self, Reload},
};
use tokio_util::sync::CancellationToken;

use crate::{config::Config, state::Console};

/// The periodic task that looks at the file.
pub(crate) const RELOAD: &str = "settings-reload";

/// Why a file changes nothing.
#[derive(Debug, thiserror::Error)]
enum SettingsError {
    #[error(transparent)]
    Unreadable(#[from] ConfigError),
    #[error("an address cannot be used")]
    Address(#[source] BoxError),
}

/// Looks at the file again and again, until `stop`.
pub(crate) async fn reload_on_change(
    console: Console,
    file: PathBuf,
    task: PeriodicTask,
    stop: CancellationToken,
) {
    let reload = || -> Result<Reload, SettingsError> {
        let config: Config = config::load(Some(&file))?;
        console.take(&config).map_err(SettingsError::Address)
    };
    reload::reload_on_change("settings", metric::SETTINGS_RELOAD_FAILURES_TOTAL, reload, task, stop).await;
}
