//! Settings of the order service.

use std::time::Duration;

use holdfast_common::{
    config::{DatabaseConfig, GrpcConfig, IdentityConfig, KafkaConfig, ServiceConfig, duration},
    database::Tables,
    service::Configuration,
};
use serde::Deserialize;

/// All sections.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Process.
    pub service: ServiceConfig,
    /// Certificates.
    pub identity: IdentityConfig,
    /// gRPC.
    pub grpc: GrpcConfig,
    /// PostgreSQL.
    pub database: DatabaseConfig,
    /// Kafka.
    pub kafka: KafkaConfig,
    /// Orders.
    #[serde(default)]
    pub order: OrderConfig,
}

/// Settings of orders.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderConfig {
    /// An order that is not terminal after this time is reported as stuck. Default 60 s.
    #[serde(default = "default_stuck_after", deserialize_with = "duration")]
    pub stuck_after: Duration,
}

impl Default for OrderConfig {
    fn default() -> Self {
        Self { stuck_after: default_stuck_after() }
    }
}

const fn default_stuck_after() -> Duration {
    Duration::from_secs(60)
}

impl Configuration for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }

    fn tables(&self) -> Option<Tables<'_>> {
        Some(Tables { database: &self.database, identity: &self.identity, migrations: &crate::MIGRATIONS })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shipped sample is a valid configuration, and shows the defaults.
    #[test]
    fn the_sample_says_the_defaults() {
        holdfast_common::config::check_sample::<Config>(include_str!("../../deploy/config/order.toml"), &[]);
    }
}
