//! Settings of the payment service.

use std::collections::BTreeMap;

use holdfast_common::{
    config::{DatabaseConfig, GrpcConfig, IdentityConfig, KafkaConfig, ServiceConfig},
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
    /// Payments.
    #[serde(default)]
    pub payment: PaymentConfig,
}

/// Settings of payments.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaymentConfig {
    /// Accounts that a development stack starts with: user id and decimal amount. Opened once; later starts change
    /// nothing. Default: none.
    #[serde(default)]
    pub opening_balances: BTreeMap<String, String>,
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
        holdfast_common::config::check_sample::<Config>(
            include_str!("../../deploy/config/payment.toml"),
            &[],
        );
    }
}
