//! Settings of the gateway.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use holdfast_common::{
    config::{IdentityConfig, ServiceConfig, duration},
    database::ACQUIRE_TIME_MAX,
    service::Configuration,
};
use serde::Deserialize;

use crate::upstream::UpstreamConfig;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The process.
    pub service: ServiceConfig,
    /// Certificates towards the services.
    pub identity: IdentityConfig,
    /// The REST side.
    pub gateway: GatewayConfig,
    /// Which tokens are accepted.
    pub auth: AuthConfig,
    /// The services that are called.
    pub upstream: UpstreamConfig,
}

/// Settings of the REST side.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Time for a whole request; a request that takes longer ends with 504. Default 3 s.
    #[serde(default = "default_deadline", deserialize_with = "duration")]
    pub deadline: Duration,
    /// Streams of events.
    #[serde(default)]
    pub streams: StreamsConfig,
}

/// How many streams of events may be open.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamsConfig {
    /// Of all users; further ones are 503. Default 1,500: below the number of connections, so that requests find one.
    pub open_max: usize,
    /// Of one user; further ones are 429. Default 16.
    pub open_per_user_max: usize,
}

impl Default for StreamsConfig {
    fn default() -> Self {
        Self { open_max: 1_500, open_per_user_max: 16 }
    }
}

const DEADLINE: Duration = Duration::from_secs(3);
// A service whose pool is exhausted says so before the edge gives up.
const _: () = assert!(ACQUIRE_TIME_MAX.as_millis() < DEADLINE.as_millis());

const fn default_deadline() -> Duration {
    DEADLINE
}

/// Which tokens are accepted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// JSON Web Key Set with the public keys of the issuer. It is reloaded within 2 s of a change.
    pub jwks_file: PathBuf,
    /// `iss` that tokens must have. Default `https://auth.holdfast.internal`.
    #[serde(default = "default_issuer")]
    pub issuer: String,
    /// `aud` that tokens must have. Default `holdfast-api`.
    #[serde(default = "default_audience")]
    pub audience: String,
}

fn default_issuer() -> String {
    "https://auth.holdfast.internal".to_owned()
}

fn default_audience() -> String {
    "holdfast-api".to_owned()
}

impl Configuration for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shipped sample is a valid configuration, and shows the defaults.
    #[test]
    fn the_sample_says_the_defaults() {
        holdfast_common::config::check_sample::<Config>(
            include_str!("../../deploy/config/gateway.toml"),
            &["jwks_file", "address", "name"],
        );
    }
}
