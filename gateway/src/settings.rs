//! Settings that are followed while the gateway runs, because they change when replicas come and go: where the services are
//! (`upstream.*.address`), and how long an order is known that can still change (`cache.unfinished_time`), which depends on whether there
//! are other gateways. All others are read at the start.

use std::path::PathBuf;

use holdfast_common::{config, error::BoxError, health::PeriodicTask, metric, reload};
use tokio_util::sync::CancellationToken;

use crate::{cache::OrderCache, config::Config, upstream::UpstreamAddresses};

/// The periodic task that looks at the file. `holdfast scale` sees by its metric when a gateway has read what was written.
pub(crate) const RELOAD: &str = "settings-reload";

/// What is changed by the file.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) addresses: UpstreamAddresses,
    pub(crate) cache: OrderCache,
}

/// Why a file changes nothing.
#[derive(Debug, thiserror::Error)]
enum SettingsError {
    #[error(transparent)]
    Unreadable(#[from] config::ConfigError),
    #[error("an address cannot be used")]
    Address(#[source] BoxError),
}

impl Followed {
    /// Looks at the file again and again, until `stop`. One that would be refused at the start changes nothing.
    pub(crate) async fn reload_on_change(self, file: PathBuf, task: PeriodicTask, stop: CancellationToken) {
        let reload = || {
            let config: Config = config::load(Some(&file))?;
            self.take(&config)
        };
        reload::reload_on_change("settings", metric::SETTINGS_RELOAD_FAILURES_TOTAL, reload, task, stop)
            .await;
    }

    fn take(&self, config: &Config) -> Result<reload::Reload, SettingsError> {
        let wanted = UpstreamAddresses::of(&config.upstream).map_err(SettingsError::Address)?;
        // Before anybody can be asked who has shown something newer.
        let cache_changed = self.cache.set_unfinished_time(config.cache.unfinished_time);
        let addresses_changed = self.addresses.become_those_of(&wanted);
        Ok(if cache_changed || addresses_changed {
            reload::Reload::Swapped
        } else {
            reload::Reload::Unchanged
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample() -> Config {
        toml::from_str(include_str!("../../deploy/config/gateway.toml")).expect("valid")
    }

    /// What is followed is taken as soon as it is other than before; a wrong address changes nothing at all.
    #[test]
    fn only_what_has_changed_is_taken() {
        let mut config = sample();
        let addresses = UpstreamAddresses::of(&config.upstream).expect("addresses");
        let followed = Followed { addresses, cache: OrderCache::new(&config.cache, None) };
        let take = |config: &Config| followed.take(config).expect("taken");
        assert_eq!(take(&config), reload::Reload::Unchanged);
        config.upstream.payment.address = "127.0.0.1:1,127.0.0.1:2".to_owned();
        assert_eq!(take(&config), reload::Reload::Swapped);
        assert_eq!(take(&config), reload::Reload::Unchanged);
        config.cache.unfinished_time = Duration::ZERO;
        assert_eq!(take(&config), reload::Reload::Swapped);
        config.upstream.order.address = "order".to_owned();
        config.upstream.payment.address = "127.0.0.1:3".to_owned();
        config.cache.unfinished_time = Duration::from_secs(1);
        assert!(followed.take(&config).is_err());
        config.upstream.payment.address = "127.0.0.1:1,127.0.0.1:2".to_owned();
        config.upstream.order.address = sample().upstream.order.address;
        config.cache.unfinished_time = Duration::ZERO;
        assert_eq!(take(&config), reload::Reload::Unchanged, "nothing was taken of the wrong one");
    }
}
