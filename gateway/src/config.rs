//! Settings of the gateway.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use holdfast_common::{
    client::DestinationConfig,
    config::{IdentityConfig, ServiceConfig, duration},
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
    /// REST.
    pub gateway: GatewayConfig,
    /// Tokens.
    pub auth: AuthConfig,
    /// The services behind.
    pub upstream: UpstreamConfig,
}

/// Settings of the REST side.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Time for a whole request; after it the answer is 504. Default 3 s.
    #[serde(default = "default_deadline", deserialize_with = "duration")]
    pub deadline: Duration,
}

const fn default_deadline() -> Duration {
    Duration::from_secs(3)
}

/// Which tokens are taken.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// JSON Web Key Set with the public keys of the issuer. Followed: a changed file is taken within 2 s.
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

/// Where the services are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Orders.
    pub order: DestinationConfig,
    /// Payments.
    pub payment: DestinationConfig,
    /// Deliveries.
    pub delivery: DestinationConfig,
}

impl Configuration for Config {
    fn service(&self) -> &ServiceConfig {
        &self.service
    }
}
