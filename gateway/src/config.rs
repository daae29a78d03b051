//! Settings of the gateway.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    time::Duration,
};

use holdfast_common::{
    config::{IdentityConfig, ServiceConfig, duration},
    database::ACQUIRE_TIME_MAX,
    service::Configuration,
};
use ipnet::IpNet;
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
    /// How much a client may send.
    #[serde(default)]
    pub limits: LimitsConfig,
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
    pub jwks_file: Option<PathBuf>,
    /// Where to fetch that set, instead: `https`, or `http` to this machine.
    pub jwks_url: Option<String>,
    /// Certificates of the authorities that the server of `jwks_url` may have its certificate from, as PEM. Default those of
    /// the machine.
    pub jwks_trust_bundle: Option<PathBuf>,
    /// How often it is fetched. A token with an unknown key makes it be fetched at once, at most every 10 s. Default 5 min.
    #[serde(default = "default_jwks_refresh", deserialize_with = "duration")]
    pub jwks_refresh: Duration,
    /// `iss` that tokens must have. Default `https://auth.holdfast.internal`.
    #[serde(default = "default_issuer")]
    pub issuer: String,
    /// `aud` that tokens must have. Default `holdfast-api`.
    #[serde(default = "default_audience")]
    pub audience: String,
    /// From a token's `iat` to its `exp`, at most. Default 24 h.
    #[serde(default = "default_lifetime_max", deserialize_with = "duration")]
    pub lifetime_max: Duration,
    /// Further issuers, each under a name for logs and `/readyz`.
    #[serde(default)]
    pub others: BTreeMap<String, IssuerConfig>,
}

/// An issuer and its keys; the settings mean what they do in [`AuthConfig`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// `iss`.
    pub issuer: String,
    /// A file with the keys.
    pub jwks_file: Option<PathBuf>,
    /// Where to fetch them, instead.
    pub jwks_url: Option<String>,
    /// Authorities of that server.
    pub jwks_trust_bundle: Option<PathBuf>,
    /// How often they are fetched.
    #[serde(default = "default_jwks_refresh", deserialize_with = "duration")]
    pub jwks_refresh: Duration,
}

impl AuthConfig {
    /// The first issuer, which has no name, and the others.
    pub(crate) fn issuers(&self) -> impl Iterator<Item = (Option<&str>, IssuerConfig)> {
        let first = IssuerConfig {
            issuer: self.issuer.clone(),
            jwks_file: self.jwks_file.clone(),
            jwks_url: self.jwks_url.clone(),
            jwks_trust_bundle: self.jwks_trust_bundle.clone(),
            jwks_refresh: self.jwks_refresh,
        };
        let others = self.others.iter().map(|(name, issuer)| (Some(name.as_str()), issuer.clone()));
        std::iter::once((None, first)).chain(others)
    }
}

const fn default_jwks_refresh() -> Duration {
    Duration::from_secs(300)
}

const fn default_lifetime_max() -> Duration {
    Duration::from_secs(24 * 3600)
}

fn default_issuer() -> String {
    "https://auth.holdfast.internal".to_owned()
}

fn default_audience() -> String {
    "holdfast-api".to_owned()
}

/// How much a client may send.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Whether anything is limited at all; off where something in front of the gateway does it.
    pub enabled: bool,
    /// Requests of one client address, before its token is looked at. All users behind one address share them. Default 100
    /// a second, 200 at once.
    #[serde(deserialize_with = "quota::<_, 100, 200>")]
    pub address: QuotaConfig,
    /// `GET` and `HEAD` requests of one subject. Default 50 a second, 100 at once.
    #[serde(deserialize_with = "quota::<_, 50, 100>")]
    pub reads: QuotaConfig,
    /// All other requests of one subject. Default 50 a second, 100 at once.
    #[serde(deserialize_with = "quota::<_, 50, 100>")]
    pub writes: QuotaConfig,
    /// Networks whose addresses are not limited; their subjects are. Default this machine: behind a proxy that is not in
    /// `proxies.trusted`, or a sidecar, all clients have its address, and a limit for all of them together is an outage.
    pub exempt: Vec<IpNet>,
    /// Requests of one client address that may be in progress at a time. Default 256.
    pub in_flight_per_address: usize,
    /// Requests of one subject that may be in progress at a time. Default 16.
    pub in_flight_per_subject: usize,
    /// Who may say on whose behalf it sends a request.
    pub proxies: ProxyConfig,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            address: QuotaConfig::new(100, 200),
            reads: QuotaConfig::new(50, 100),
            writes: QuotaConfig::new(50, 100),
            in_flight_per_address: 256,
            in_flight_per_subject: 16,
            exempt: [(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)]
                .map(|(address, length)| IpNet::new_assert(address, length))
                .into(),
            proxies: ProxyConfig::default(),
        }
    }
}

/// A token bucket.
#[derive(Debug, Clone, Copy)]
pub struct QuotaConfig {
    /// Requests per second in the long run.
    pub per_second: NonZeroU32,
    /// Requests at once, after a while without any.
    pub burst: NonZeroU32,
}

impl QuotaConfig {
    const fn new(per_second: u32, burst: u32) -> Self {
        Self {
            per_second: NonZeroU32::new(per_second).expect("not 0"),
            burst: NonZeroU32::new(burst).expect("not 0"),
        }
    }
}

/// A quota of which one value may be absent; that has its default, which differs from quota to quota.
fn quota<'de, D, const PER_SECOND: u32, const BURST: u32>(deserializer: D) -> Result<QuotaConfig, D::Error>
where
    D: serde::Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Given {
        per_second: Option<NonZeroU32>,
        burst: Option<NonZeroU32>,
    }
    let Given { per_second, burst } = Given::deserialize(deserializer)?;
    let default = QuotaConfig::new(PER_SECOND, BURST);
    Ok(QuotaConfig {
        per_second: per_second.unwrap_or(default.per_second),
        burst: burst.unwrap_or(default.burst),
    })
}

/// Proxies in front of the gateway.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyConfig {
    /// Their addresses, as networks: `10.0.0.0/8`. Default none.
    pub trusted: Vec<IpNet>,
    /// Which header field they add. Default none.
    pub forwarded: ForwardedBy,
}

/// The header field in which a proxy names its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedBy {
    /// No field is looked at.
    #[default]
    None,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
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
