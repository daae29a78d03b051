//! The admin ports of the services: readiness, breakers, certificates.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::{join, join_all};
use holdfast_common::metric::{
    CERTIFICATE_NOT_AFTER_TIMESTAMP_SECONDS, CIRCUIT_BREAKER_STATE, GRPC_CLIENT_RETRY_BUDGET_ALLOWED,
    GRPC_CLIENT_RETRY_BUDGET_LEFT,
};
use holdfast_operator::admin;
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::{net::lookup_host, time::timeout};

use crate::{ask::Asked, state::CALL_TIME_MAX};

/// Where the replicas of a service show themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ports {
    service: &'static str,
    addresses: Vec<String>,
}

/// One replica.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) readiness: Asked<Readiness>,
    pub(crate) metrics: Asked<Metrics>,
}

/// The body of `/readyz`.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    pub(crate) degraded: bool,
    pub(crate) components: BTreeMap<String, Part>,
}

/// A part of a process.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Part {
    pub(crate) ready: bool,
    pub(crate) required: bool,
    pub(crate) detail: String,
}

/// What of `/metrics` is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metrics {
    /// Destination, endpoint and state of each breaker.
    pub(crate) breakers: Vec<[String; 3]>,
    /// What is left of the retries to each destination; a service of an earlier version does not say it.
    pub(crate) budgets: BTreeMap<String, Budget>,
    pub(crate) certificate_ends: Option<OffsetDateTime>,
}

/// Retries to a destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Budget {
    /// That are allowed now.
    pub(crate) left: i64,
    /// Allowed by the calls of the last seconds.
    pub(crate) allowed: i64,
}

impl Ports {
    pub(crate) fn new(service: &'static str, addresses: &str) -> Self {
        Self { service, addresses: addresses.split(',').map(|address| address.trim().to_owned()).collect() }
    }

    /// Asks all replicas at once.
    async fn look(&self) -> Vec<Replica> {
        let addresses = join_all(self.addresses.iter().map(|address| replicas_at(address))).await;
        let replicas = addresses.iter().flatten().enumerate().map(|(number, address)| async move {
            let name = match number {
                0 => self.service.to_owned(),
                number => format!("{}-{}", self.service, number + 1),
            };
            let (readiness, metrics) = join(readiness(address), metrics(address)).await;
            Replica { name, readiness: readiness.into(), metrics: metrics.into() }
        });
        join_all(replicas).await
    }
}

/// Behind a name are all replicas: it stands for each of its addresses, in their order. One that can't be resolved stays, and whoever
/// asks it says why.
async fn replicas_at(name: &str) -> Vec<String> {
    let found = match timeout(CALL_TIME_MAX, lookup_host(name)).await {
        Ok(Ok(found)) => found.collect::<BTreeSet<_>>(),
        _ => BTreeSet::new(),
    };
    if found.is_empty() {
        return vec![name.to_owned()];
    }
    found.iter().map(ToString::to_string).collect()
}

/// All replicas of all services.
pub(crate) async fn look(ports: &[Ports]) -> Vec<Replica> {
    join_all(ports.iter().map(Ports::look)).await.into_iter().flatten().collect()
}

async fn readiness(address: &str) -> Result<Readiness> {
    let page = page(address, "/readyz").await?;
    serde_json::from_str(&page).context("its readiness is not what was expected")
}

async fn metrics(address: &str) -> Result<Metrics> {
    Ok(Metrics::parse(&page(address, "/metrics").await?))
}

async fn page(address: &str, path: &str) -> Result<String> {
    let page = admin::page(&format!("http://{address}{path}"), CALL_TIME_MAX).await?;
    ensure!(!page.is_empty(), "an empty response");
    Ok(page)
}

impl Metrics {
    fn parse(page: &str) -> Self {
        let mut metrics = Self::default();
        for line in page.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let name = series.split('{').next().unwrap_or_default();
            if name == CIRCUIT_BREAKER_STATE && value == "1" {
                let [destination, endpoint, state] =
                    ["destination", "endpoint", "state"].map(|label| label_of(series, label));
                metrics.breakers.push([destination, endpoint, state]);
            } else if name == CERTIFICATE_NOT_AFTER_TIMESTAMP_SECONDS {
                let seconds = whole(value);
                metrics.certificate_ends =
                    seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
            } else if [GRPC_CLIENT_RETRY_BUDGET_LEFT, GRPC_CLIENT_RETRY_BUDGET_ALLOWED].contains(&name) {
                let Some(retries) = whole(value) else { continue };
                let budget = metrics.budgets.entry(label_of(series, "destination")).or_default();
                if name == GRPC_CLIENT_RETRY_BUDGET_LEFT {
                    budget.left = retries;
                } else {
                    budget.allowed = retries;
                }
            }
        }
        metrics.breakers.sort();
        metrics
    }
}

/// A value without what is behind its point.
fn whole(value: &str) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "a cast of a float is bounded")]
    value.parse::<f64>().ok().map(|value| value as i64)
}

/// The value of a label; ours have no quotes in them.
fn label_of(series: &str, label: &str) -> String {
    let after = series.split_once(&format!("{label}=\"")).map_or("", |(_, after)| after);
    after.split('"').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address is one replica, and a name that leads nowhere is one that is asked in vain.
    #[tokio::test]
    async fn a_name_is_each_of_its_addresses() {
        for address in ["127.0.0.1:1", "[::1]:1", "nowhere", "nowhere.invalid:1"] {
            assert_eq!(replicas_at(address).await, [address]);
        }
        let found = replicas_at("localhost:1").await;
        assert!(found.contains(&"127.0.0.1:1".to_owned()), "{found:?}");
    }

    /// Of a breaker the state that it is in is shown, of a retry budget what is left, and of a certificate its end.
    #[test]
    fn breakers_budgets_and_certificates_are_found() {
        let page = "# TYPE holdfast_circuit_breaker_state gauge\n\
            holdfast_circuit_breaker_state{destination=\"order\",endpoint=\"127.0.0.1:1\",state=\"closed\"} 0\n\
            holdfast_circuit_breaker_state{destination=\"order\",endpoint=\"127.0.0.1:1\",state=\"open\"} 1\n\
            holdfast_grpc_client_retry_budget_allowed{destination=\"order\"} 31\n\
            holdfast_grpc_client_retry_budget_left{destination=\"order\"} 27\n\
            holdfast_certificate_not_after_timestamp_seconds 1769860800\n\
            nonsense\n";
        let metrics = Metrics::parse(page);
        assert_eq!(metrics.breakers, [["order", "127.0.0.1:1", "open"].map(str::to_owned)]);
        let budget = Budget { left: 27, allowed: 31 };
        assert_eq!(metrics.budgets, BTreeMap::from([("order".to_owned(), budget)]));
        assert_eq!(metrics.certificate_ends.map(OffsetDateTime::unix_timestamp), Some(1_769_860_800));
        assert_eq!(Metrics::parse(""), Metrics::default());
    }
}
