//! Settings of the console.

use std::{net::SocketAddr, path::PathBuf};

use holdfast_common::{
    config::{IdentityConfig, KafkaTlsConfig, ServiceConfig},
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
    /// Folder in which `holdfast console` leaves tickets: who may write there is let in.
    pub tickets: PathBuf,
    /// Whether those may change things (redrive, edit, discard) whose address was made with `--allow-write`; otherwise nobody may.
    /// Default false.
    #[serde(default)]
    pub allow_write: bool,
    /// How much of keys, headers and values of records is shown: `full`, `masked` or `off`. Default `full`.
    #[serde(default)]
    pub payloads: Payloads,
    /// A proxy that signs people in. Default: none, only tickets let in.
    #[serde(default)]
    pub proxy: Option<ProxyConfig>,
    /// Options that the commands need that are shown on the pages, such as ` --data-dir DIR`. Default none.
    #[serde(default)]
    pub command_options: String,
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
}
