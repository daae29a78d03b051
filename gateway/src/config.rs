//! Settings of the gateway.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use axum::http::{HeaderValue, Uri, uri::Scheme};
use holdfast_common::{
    config::{IdentityConfig, ServiceConfig, duration},
    database::ACQUIRE_TIME_MAX,
    http::{Limits, TlsConfig},
    service::Configuration,
};
use ipnet::IpNet;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de::Error as _};

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
    /// What is kept of orders.
    #[serde(default)]
    pub cache: CacheConfig,
    /// Redis, which all gateways share. Default: none, each gateway limits its clients on its own.
    #[serde(default)]
    pub redis: Option<RedisConfig>,
    /// The services that are called.
    pub upstream: UpstreamConfig,
}

/// What is kept of orders, so that not every `GET` is a call.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Memory, about; 0 to keep nothing. Default 32 MiB.
    pub bytes_max: usize,
    /// How long an order is known that can't change any more. Default 1 h.
    #[serde(deserialize_with = "duration")]
    pub terminal_time: Duration,
    /// How long any other order is known, at most 1 s. 0 where several gateways share their clients without Redis: an order
    /// could go back from one to the other. Default 1 s.
    #[serde(deserialize_with = "at_most::<_, 1_000>")]
    pub unfinished_time: Duration,
    /// How old the last known state may be that is shown while order is away, at most 5 min. Default 5 min.
    #[serde(deserialize_with = "at_most::<_, 300_000>")]
    pub stale_time: Duration,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            bytes_max: 32 * 1024 * 1024,
            terminal_time: Duration::from_secs(3_600),
            unfinished_time: Duration::from_secs(1),
            stale_time: Duration::from_secs(300),
        }
    }
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
    /// Origins whose pages may call us from a browser (CORS), such as `https://shop.example`. Default: none.
    #[serde(default, deserialize_with = "origins")]
    pub cors_origins: Vec<HeaderValue>,
    /// Limits of connections and bodies.
    #[serde(default)]
    pub sockets: SocketsConfig,
    /// Certificate and key of the port. Default: none, it speaks plain HTTP.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
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

/// Limits of connections and bodies.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SocketsConfig {
    /// Connections at a time, as far as file descriptors allow. When there are more, silent ones are closed; if none is silent,
    /// new ones are refused with 503. Default 2,048.
    pub connections_max: NonZeroUsize,
    /// Connections of one address at a time, for IPv6 of one /64; further ones are refused with 503. Default 256.
    pub connections_per_address_max: NonZeroUsize,
    /// How long a connection may wait for its next request. Default 75 s.
    #[serde(deserialize_with = "at_least::<_, 1>")]
    pub idle_time: Duration,
    /// Time for a head, from its first byte, and for a TLS handshake. Default 5 s.
    #[serde(deserialize_with = "at_least::<_, 1>")]
    pub head_time: Duration,
    /// Time for a whole exchange: head, body and answer. Streams of events are exempt. Default 30 s.
    #[serde(deserialize_with = "at_least::<_, 1>")]
    pub exchange_time: Duration,
    /// How long a client may take in nothing of what is written to it. Default 10 s.
    #[serde(deserialize_with = "at_least::<_, 1>")]
    pub stall_time: Duration,
    /// Bytes per second at which a body must arrive; one that lags 2 s behind is 408. Default 16,384.
    pub body_bytes_per_second_min: u32,
    /// Bytes of all bodies that are held in memory at a time; a request that needs more is 503. Default 64 MiB.
    pub bodies_bytes_max: u32,
}

impl SocketsConfig {
    /// Those that concern connections.
    pub(crate) const fn connections(&self) -> Limits {
        Limits {
            connections_max: self.connections_max.get(),
            connections_per_address_max: self.connections_per_address_max.get(),
            idle_time: self.idle_time,
            head_time: self.head_time,
            exchange_time: self.exchange_time,
            stall_time: self.stall_time,
        }
    }
}

impl Default for SocketsConfig {
    fn default() -> Self {
        Self {
            connections_max: count(Limits::CONNECTIONS_MAX),
            connections_per_address_max: count(Limits::CONNECTIONS_PER_ADDRESS_MAX),
            idle_time: Limits::IDLE_TIME,
            head_time: Limits::HEAD_TIME,
            exchange_time: Limits::EXCHANGE_TIME,
            stall_time: Limits::STALL_TIME,
            body_bytes_per_second_min: 16 * 1024,
            bodies_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// Reads origins: scheme and host, perhaps a port, nothing else. `*` is none: who may call us is to be named.
fn origins<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HeaderValue>, D::Error> {
    let parse = |text: String| {
        let is_origin = text.parse::<Uri>().is_ok_and(|uri| {
            let is_http = uri.scheme().is_some_and(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme));
            is_http && uri.authority().is_some_and(|host| text.ends_with(&format!("://{host}")))
        });
        let value = HeaderValue::from_str(&text).ok().filter(|_| is_origin && !text.contains(['*', '@']));
        value.ok_or_else(|| {
            D::Error::custom(format!("{text:?} is not an origin such as https://shop.example"))
        })
    };
    Vec::<String>::deserialize(deserializer)?.into_iter().map(parse).collect()
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
    #[serde(default = "default_jwks_refresh", deserialize_with = "at_least::<_, JWKS_REFRESH_MIN_MS>")]
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
    #[serde(default = "default_jwks_refresh", deserialize_with = "at_least::<_, JWKS_REFRESH_MIN_MS>")]
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

/// Whoever asks a provider without a pause is taken for an attacker.
const JWKS_REFRESH_MIN_MS: u64 = 10_000;

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
    pub in_flight_per_address: NonZeroUsize,
    /// Requests of one subject that may be in progress at a time. Default 16.
    pub in_flight_per_subject: NonZeroUsize,
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
            in_flight_per_address: count(256),
            in_flight_per_subject: count(16),
            exempt: [(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)]
                .map(|(address, length)| IpNet::new_assert(address, length))
                .into(),
            proxies: ProxyConfig::default(),
        }
    }
}

/// A default that is not 0: that would lock everybody out.
const fn count(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).expect("not 0")
}

/// A duration of at least so many milliseconds.
fn at_least<'de, D: Deserializer<'de>, const MILLISECONDS: u64>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let least = Duration::from_millis(MILLISECONDS);
    let given = duration(deserializer)?;
    if given < least {
        return Err(D::Error::custom(format!("{given:?} is less than {least:?}")));
    }
    Ok(given)
}

/// A duration of at most so many milliseconds.
fn at_most<'de, D: Deserializer<'de>, const MILLISECONDS: u64>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let most = Duration::from_millis(MILLISECONDS);
    let given = duration(deserializer)?;
    if given > most {
        return Err(D::Error::custom(format!("{given:?} is more than {most:?}")));
    }
    Ok(given)
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
    D: Deserializer<'de>,
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
    /// How they name their clients. Default not at all.
    pub forwarded: ForwardedBy,
}

impl ProxyConfig {
    /// Those whose connections begin with a header of the PROXY protocol.
    pub(crate) fn of_connections(&self) -> Vec<IpNet> {
        match self.forwarded {
            ForwardedBy::ProxyProtocol => self.trusted.clone(),
            ForwardedBy::None | ForwardedBy::XForwardedFor | ForwardedBy::Forwarded => Vec::new(),
        }
    }
}

/// Where a proxy names its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedBy {
    /// Nowhere that is looked at.
    #[default]
    None,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// At the beginning of each connection, which is then its client's: the PROXY protocol, version 1 or 2.
    ProxyProtocol,
}

/// Redis, which all gateways share.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `host:port`. Without TLS: on this machine, or in a private network.
    pub address: String,
    /// Secret: environment only. Default: none.
    #[serde(default)]
    pub password: Option<SecretString>,
    /// Time for one call; a request whose call takes longer goes on without it. Default 10 ms.
    #[serde(default = "default_redis_call_time", deserialize_with = "at_least::<_, 1>")]
    pub call_time: Duration,
    /// Time for a connection, for which no request waits. Default 500 ms.
    #[serde(default = "default_redis_connect_time", deserialize_with = "at_least::<_, 1>")]
    pub connect_time: Duration,
}

const fn default_redis_call_time() -> Duration {
    Duration::from_millis(10)
}

const fn default_redis_connect_time() -> Duration {
    Duration::from_millis(500)
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

    /// Only origins are taken for origins.
    #[test]
    fn only_origins_are_taken_for_origins() {
        #[derive(Debug, Deserialize)]
        struct Sample {
            #[serde(deserialize_with = "origins")]
            list: Vec<HeaderValue>,
        }
        let read = |origin: &str| serde_json::from_value::<Sample>(serde_json::json!({"list": [origin]}));
        for good in ["https://shop.example", "http://localhost:3000"] {
            assert_eq!(read(good).expect(good).list, [good]);
        }
        for bad in [
            "*",
            "",
            "shop.example",
            "https://",
            "https://a/",
            "https://a/b",
            "https://*.a",
            "ftp://a",
            "null",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    /// What would lock everybody out, or ask a provider without a pause, is refused by its name.
    #[test]
    fn a_setting_that_serves_nobody_is_refused() {
        let sample = include_str!("../../deploy/config/gateway.toml");
        for (good, bad) in [
            ("in_flight_per_subject = 16", "in_flight_per_subject = 0"),
            ("in_flight_per_address = 256", "in_flight_per_address = 0"),
            ("connections_max = 2048", "connections_max = 0"),
            ("connections_per_address_max = 256", "connections_per_address_max = 0"),
            ("idle_time = \"75s\"", "idle_time = \"0s\""),
            ("jwks_refresh = \"5m\"", "jwks_refresh = \"9s\""),
            ("unfinished_time = \"1s\"", "unfinished_time = \"2s\""),
            ("stale_time = \"5m\"", "stale_time = \"6m\""),
            ("call_time = \"10ms\"", "call_time = \"0ms\""),
            ("connect_time = \"500ms\"", "connect_time = \"0ms\""),
            ("forwarded = \"none\"", "forwarded = \"proxy\""),
        ] {
            assert!(sample.contains(good), "{good}");
            let parsed = toml::from_str::<Config>(&sample.replacen(good, bad, 1));
            assert!(parsed.is_err(), "{bad}");
        }
        assert!(toml::from_str::<Config>(sample).is_ok());
    }
}
