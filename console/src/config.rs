//! Settings of the console.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

use holdfast_common::{
    config::{IdentityConfig, KafkaTlsConfig, ServiceConfig},
    error::BoxError,
    service::Configuration,
};
use secrecy::SecretString;
use serde::Deserialize;

use crate::payloads::Payloads;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The process.
    pub service: ServiceConfig,
    /// The console's certificate, or an operator's.
    pub identity: IdentityConfig,
    /// The pages.
    pub console: ConsoleConfig,
    /// The brokers, whose topics are only read. Default: none, and pages say that topics can't be shown.
    #[serde(default)]
    pub kafka: Option<KafkaReaderConfig>,
    /// The gateway, of which only the admin port is asked.
    pub gateway: GatewayConfig,
    /// The order service.
    pub order: ParticipantConfig,
    /// The payment service.
    pub payment: ParticipantConfig,
    /// The delivery service.
    pub delivery: ParticipantConfig,
}

/// The pages.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleConfig {
    /// Address to listen on. It speaks plain HTTP and answers to the names of loopback only.
    pub listen: SocketAddr,
    /// Address of loopback at which browsers reach it, if that is not `listen`: within a container, whose port is published there.
    /// Default: `listen`, which must be one of loopback then.
    #[serde(default)]
    pub published: Option<SocketAddr>,
    /// Folder in which `holdfast console` or `holdfast-console ticket` leaves tickets: who may write there is let in.
    pub tickets: PathBuf,
    /// Whether those may change things (redrive, edit, discard) whose address was made with `--allow-write`; otherwise nobody may.
    /// Default false.
    #[serde(default)]
    pub allow_write: bool,
    /// How much of keys, headers and values of records is shown: `full`, `masked` or `off`. Default `full`.
    #[serde(default)]
    pub payloads: Payloads,
    /// Pages a second that one person may ask for, ten seconds' worth of them at once. Default 15.
    #[serde(default = "default_pages_per_second")]
    pub pages_per_second: NonZeroU32,
    /// A proxy that signs people in. Default: none, only tickets let in.
    #[serde(default)]
    pub proxy: Option<ProxyConfig>,
    /// How commands begin that are shown on the pages. Default `holdfast`.
    #[serde(default = "default_command")]
    pub command: String,
    /// Options that they need, such as ` --data-dir DIR`. Default none.
    #[serde(default)]
    pub command_options: String,
    /// The command that prints an address for one browser. Default: `command`, `console` and `command_options`.
    #[serde(default)]
    pub ticket_command: Option<String>,
}

/// What the services feel of it is 2 % of two cores.
fn default_pages_per_second() -> NonZeroU32 {
    NonZeroU32::new(15).unwrap_or(NonZeroU32::MIN)
}

fn default_command() -> String {
    "holdfast".to_owned()
}

impl ConsoleConfig {
    /// Where browsers reach it: on loopback, because it has no TLS. An error says which setting is wrong.
    pub(crate) fn published(&self) -> Result<SocketAddr, BoxError> {
        match self.published {
            Some(published) if published.ip().is_loopback() => Ok(published),
            Some(_) => Err("console.published must be an address of loopback, because the console has no TLS. A proxy \
                beside it has (console.proxy)"
                .into()),
            None if self.listen.ip().is_loopback() => Ok(self.listen),
            None => Err("console.listen must be an address of loopback, because the console has no TLS. A proxy beside it \
                has (console.proxy). Within a container it may be any, if console.published says where on loopback its \
                port is published"
                .into()),
        }
    }

    /// How a command begins, and with which options it ends.
    pub(crate) fn command_of(&self, words: &str) -> String {
        format!("{} {words}{}", self.command, self.command_options)
    }
}

/// The brokers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaReaderConfig {
    /// Comma-separated `host:port` of bootstrap brokers.
    pub brokers: String,
    /// How connections are encrypted, and who is at their other end.
    #[serde(default)]
    pub tls: KafkaTlsConfig,
}

/// A proxy in front of the console that signs people in and says in headers who they are, such as oauth2-proxy.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// What browsers see, such as `https://console.example.org`. Requests with that name as `Host` come by the proxy, all others don't.
    pub origin: String,
    /// The header by which the proxy proves that a request is one of its own.
    pub secret_header: String,
    /// What is in it: at least 32 characters that only the proxy and the console know. From the environment, or a file
    /// (`HOLDFAST__CONSOLE__PROXY__SECRET_FILE`).
    pub secret: SecretString,
    /// The header with the name of the person, for the audit.
    pub user_header: String,
    /// The header with their groups, separated by commas. Needed with `writers` only.
    #[serde(default)]
    pub groups_header: Option<String>,
    /// The groups that may change something, where `allow_write` lets anybody do so. Default: none, then everybody may who is let in.
    #[serde(default)]
    pub writers: Vec<String>,
}

/// The gateway.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Its admin ports: `host:port`, several separated by commas.
    pub admin: String,
}

/// A service with dead letters, an outbox and positions.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParticipantConfig {
    /// Where it answers gRPC: `host:port`, several separated by commas.
    pub address: String,
    /// Its admin ports, likewise.
    pub admin: String,
}

impl Config {
    /// The services with dead letters, in the order in which pages name them.
    pub(crate) const fn participants(&self) -> [&ParticipantConfig; 3] {
        [&self.order, &self.payment, &self.delivery]
    }
}

impl Configuration for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }
}

#[cfg(test)]
mod tests {
    use holdfast_common::config::check_sample;

    use super::*;

    /// The sample has every setting with its default value.
    #[test]
    fn the_sample_says_the_defaults() {
        let sample = include_str!("../../deploy/config/console.toml");
        check_sample::<Config>(sample, &["tickets", "address", "admin"]);
    }

    /// Browsers reach it on loopback, or not at all: it has no TLS. Within a container it listens more widely, if it is said where it is
    /// published.
    #[test]
    fn browsers_come_by_loopback() {
        let sample = include_str!("../../deploy/config/console.toml");
        let mut config: Config = toml::from_str(sample).expect("the sample");
        for (listen, published, expected) in [
            ("127.0.0.1:8090", None, Ok("127.0.0.1:8090")),
            ("[::1]:8090", None, Ok("[::1]:8090")),
            ("0.0.0.0:8090", None, Err("console.listen")),
            ("[::]:8090", None, Err("console.listen")),
            ("10.0.0.1:8090", None, Err("console.listen")),
            ("0.0.0.0:8090", Some("127.0.0.1:18090"), Ok("127.0.0.1:18090")),
            ("127.0.0.1:8090", Some("127.0.0.1:18090"), Ok("127.0.0.1:18090")),
            ("0.0.0.0:8090", Some("0.0.0.0:8090"), Err("console.published")),
            ("127.0.0.1:8090", Some("10.0.0.1:8090"), Err("console.published")),
        ] {
            let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
            config.console.listen = address(listen);
            config.console.published = published.map(address);
            match (config.console.published(), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, address(expected)),
                (Err(error), Err(named)) => assert!(error.to_string().starts_with(named), "{error}"),
                (found, _) => panic!("{listen}, {published:?}: {found:?}"),
            }
        }
    }
}
