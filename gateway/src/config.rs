//! Settings of the gateway.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use axum::http::{HeaderValue, Uri, uri::Scheme};
use holdfast_common::{
    config::{IdentityConfig, ServiceConfig, duration},
    database::ACQUIRE_TIME_MAX,
    http::{Limits, TlsConfig},
    service::Configuration,
};
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

/// Limits of connections and bodies.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SocketsConfig {
    /// Connections at a time, as far as file descriptors allow. When there are more, silent ones are closed; if none is silent,
    /// new ones are refused with 503. Default 2,048.
    pub connections_max: usize,
    /// Connections of one address at a time, for IPv6 of one /64; further ones are refused with 503. Default 256.
    pub connections_per_address_max: usize,
    /// How long a connection may wait for its next request. Default 75 s.
    #[serde(deserialize_with = "duration")]
    pub idle_time: Duration,
    /// Time for a head, from its first byte, and for a TLS handshake. Default 5 s.
    #[serde(deserialize_with = "duration")]
    pub head_time: Duration,
    /// Time for a whole exchange: head, body and answer. Streams of events are exempt. Default 30 s.
    #[serde(deserialize_with = "duration")]
    pub exchange_time: Duration,
    /// How long a client may take in nothing of what is written to it. Default 10 s.
    #[serde(deserialize_with = "duration")]
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
            connections_max: self.connections_max,
            connections_per_address_max: self.connections_per_address_max,
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
            connections_max: Limits::CONNECTIONS_MAX,
            connections_per_address_max: Limits::CONNECTIONS_PER_ADDRESS_MAX,
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
}
