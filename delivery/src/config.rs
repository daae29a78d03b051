//! Settings of the delivery service.

use std::time::Duration;

use holdfast_common::{
    config::{DatabaseConfig, GrpcConfig, IdentityConfig, KafkaConfig, ServiceConfig, duration},
    database::Tables,
    error::BoxError,
    service::Configuration,
};
use serde::Deserialize;

use crate::domain::Plan;

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
    /// Deliveries.
    #[serde(default)]
    pub delivery: DeliveryConfig,
}

/// Settings of deliveries.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveryConfig {
    /// Time from one status to the next. Default 2 s.
    #[serde(default = "default_step", deserialize_with = "duration")]
    pub step: Duration,
    /// Deliveries to addresses that begin with this fail. Empty: none. Default empty.
    #[serde(default)]
    pub fail_prefix: String,
    /// Share of all deliveries that fail, 0 to 1. Default 0.
    #[serde(default)]
    pub fail_share: f64,
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self { step: default_step(), fail_prefix: String::new(), fail_share: 0.0 }
    }
}

const fn default_step() -> Duration {
    Duration::from_secs(2)
}

impl DeliveryConfig {
    /// The settings as the domain's type; an error names the one that is wrong.
    pub(crate) fn plan(&self) -> Result<Plan, BoxError> {
        if !(0.0..=1.0).contains(&self.fail_share) {
            return Err(format!("delivery.fail_share must be 0 to 1, not {}", self.fail_share).into());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 1,000,000, checked above"
        )]
        let fail_per_million = (self.fail_share * 1_000_000.0).round() as u64;
        Ok(Plan { step: self.step, fail_prefix: self.fail_prefix.clone(), fail_per_million })
    }
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
            include_str!("../../deploy/config/delivery.toml"),
            &[],
        );
    }
}
