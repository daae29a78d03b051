//! The client column of every call, outermost first:
//!
//! ```text
//! trace            a span for the call, and for each attempt in vain     trace.rs
//! times            how long the whole call takes                         measure.rs
//! deadline         the whole call ends here                              total.rs
//! replay           reads the message once, so that it can be sent again  replay.rs
//! retry            idempotent calls, UNAVAILABLE, within a budget        retry.rs, budget.rs
//! balance          two at random, the one with less to do                balance.rs, resolve.rs
//! circuit breaker  one per endpoint                                      breaker/
//! attempt          a timeout for each, and every failure gets its code   attempt.rs, failure.rs
//! channel          HTTP/2 with keepalive over mutual TLS                 channel.rs
//! ```
//!
//! A [`Destination`] is created once per service and cloned into generated clients, which need no change. Callers look
//! at status codes only: a call that the service did not answer is `UNAVAILABLE` or `DEADLINE_EXCEEDED`. The reasons
//! for the order and the numbers are in `docs/adr/0006-client-column.md`. A stream that must come from every replica is not a
//! call in this sense: [`Replicas`] gives each of them by itself.

mod attempt;
mod balance;
pub mod breaker;
mod budget;
mod channel;
mod failure;
mod measure;
mod replay;
mod replicas;
mod resolve;
mod retry;
mod total;
mod trace;

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::sync::watch;
use tonic::{Status, body::Body};
use tower::{ServiceBuilder, retry::RetryLayer, util::BoxCloneSyncService};

pub(crate) use self::retry::{PREVIOUS_ATTEMPTS, PUSHBACK_MS};
use self::{
    attempt::Attempt,
    balance::{Balance, Endpoint, Endpoints},
    breaker::{Breaker, BreakerConfig, Rejected},
    budget::RetryBudget,
    measure::MeasureLayer,
    replay::ReplayLayer,
    retry::RetryPolicy,
    total::DeadlineLayer,
    trace::TraceLayer,
};
pub use self::{balance::Unguarded, replay::IsIdempotent, replicas::Replicas};
use crate::{
    config::duration,
    error::{BoxError, is_caused_by},
    grpc::shed::QUEUE_TIME_MAX,
    identity::{Identity, connector::CONNECTION_TIME_MAX},
};

/// Where a service is, and how it is called.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationConfig {
    /// `host:port`, or several of them separated by commas. Calls are spread over all addresses of all names.
    pub address: String,
    /// The DNS name in its certificate.
    pub name: String,
    /// How it is called.
    #[serde(default)]
    pub calls: CallsConfig,
}

impl DestinationConfig {
    /// Its addresses as `host:port`.
    fn addresses(&self) -> Result<Vec<String>, BoxError> {
        let addresses: Vec<String> =
            self.address.split(',').map(|address| address.trim().to_owned()).collect();
        match addresses.iter().find(|address| !has_port(address)) {
            Some(wrong) => Err(format!("{wrong:?} is not host:port, the address of {}", self.name).into()),
            None => Ok(addresses),
        }
    }

    /// What the server sees as scheme and host.
    fn origin(&self) -> Result<http::Uri, http::uri::InvalidUri> {
        format!("https://{}", self.name).parse()
    }
}

/// The addresses of a destination. They can be changed while it is called; clones are the same.
#[derive(Debug, Clone)]
pub struct Addresses(Arc<watch::Sender<Vec<String>>>);

impl Addresses {
    /// Those of its settings; an error if one is not `host:port`.
    pub fn of(config: &DestinationConfig) -> Result<Self, BoxError> {
        Ok(Self(Arc::new(watch::Sender::new(config.addresses()?))))
    }

    /// Takes the addresses of `other`. Returns whether these are others than before.
    #[must_use]
    pub fn become_those_of(&self, other: &Self) -> bool {
        let wanted = other.0.borrow().clone();
        self.0.send_if_modified(|addresses| {
            let changed = *addresses != wanted;
            *addresses = wanted;
            changed
        })
    }

    /// As they are written: separated by commas.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.borrow().join(",")
    }

    fn follow(&self) -> watch::Receiver<Vec<String>> {
        self.0.subscribe()
    }
}

/// The default time of an attempt. Connecting and the time in line at the service must fit into it, with enough left
/// for the work.
const ATTEMPT_TIME: Duration = Duration::from_secs(1);
const _: () = assert!(CONNECTION_TIME_MAX.as_millis() <= ATTEMPT_TIME.as_millis());
const _: () = assert!(QUEUE_TIME_MAX.as_millis() * 4 <= ATTEMPT_TIME.as_millis());

/// How a service is called.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallsConfig {
    /// Time for one attempt, the connection included. Default 1 s.
    #[serde(deserialize_with = "duration")]
    pub attempt_timeout: Duration,
    /// Attempts of one call, the first included; 1 turns retries off. Default 3.
    pub attempts_max: u32,
    /// Retries per hundred calls. Default 20.
    pub retry_budget_percent: u32,
    /// Retries per second that are allowed however few calls there are. Default 3.
    pub retry_budget_per_second: u32,
    /// The circuit breaker of each endpoint.
    pub breaker: BreakerConfig,
}

impl Default for CallsConfig {
    fn default() -> Self {
        Self {
            attempt_timeout: ATTEMPT_TIME,
            attempts_max: 3,
            retry_budget_percent: 20,
            retry_budget_per_second: 3,
            breaker: BreakerConfig::default(),
        }
    }
}

/// A service that can be called; clones share everything.
pub type Destination = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// Prepares a destination. Nothing is connected before the first call, so services can start in any order.
///
/// `is_idempotent` says which calls may be sent again; ours use `holdfast_proto::is_idempotent`.
pub fn destination(
    config: &DestinationConfig,
    identity: &Identity,
    is_idempotent: IsIdempotent,
) -> Result<Destination, BoxError> {
    destination_at(&Addresses::of(config)?, config, identity, is_idempotent)
}

/// The same at addresses that can change; those of `config` don't count.
pub fn destination_at(
    addresses: &Addresses,
    config: &DestinationConfig,
    identity: &Identity,
    is_idempotent: IsIdempotent,
) -> Result<Destination, BoxError> {
    let (addresses, origin) = (addresses.follow(), config.origin()?);
    let endpoints = Arc::new(Endpoints::unknown());
    let (calls, name, identity) = (config.calls.clone(), config.name.clone(), identity.clone());
    let make = move |address: std::net::SocketAddr| {
        let inner = channel::connect_lazily(address, &name, origin.clone(), &identity);
        let breaker = Breaker::new(&calls.breaker, &name, &address.to_string());
        Endpoint::new(
            address.to_string(),
            breaker,
            Attempt { inner, time_max: calls.attempt_timeout, address },
        )
    };
    tokio::spawn(resolve::track_addresses(config.name.clone(), addresses, Arc::downgrade(&endpoints), make));
    let known_within = config.calls.attempt_timeout;
    let budget = Arc::new(RetryBudget::new(&config.calls));
    tokio::spawn(budget::report(config.name.clone(), Arc::downgrade(&budget)));
    let retry = RetryPolicy::new(config.calls.attempts_max, budget, &config.name);
    Ok(column(Balance { endpoints, known_within }, retry, &config.name, is_idempotent))
}

/// The layers around a balancer; tests put other endpoints under them.
fn column<S>(balance: Balance<S>, retry: RetryPolicy, name: &str, is_idempotent: IsIdempotent) -> Destination
where
    Balance<S>: tower::Service<http::Request<replay::Message>, Response = http::Response<Body>, Error = Status>
        + Send
        + Sync
        + 'static,
    <Balance<S> as tower::Service<http::Request<replay::Message>>>::Future: Send,
{
    // Cloned with the service, for each call.
    let destination: Arc<str> = name.into();
    let stack = ServiceBuilder::new()
        .layer(TraceLayer { destination: destination.clone() })
        .layer(MeasureLayer { destination })
        .layer(DeadlineLayer)
        .layer(ReplayLayer { is_idempotent })
        .layer(RetryLayer::new(retry))
        .service(balance);
    BoxCloneSyncService::new(stack)
}

fn has_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Whether the breakers refused a call: nothing was sent, and trying again at once would end the same.
#[must_use]
pub fn is_breaker_open(status: &Status) -> bool {
    is_caused_by::<Rejected>(status)
}

#[cfg(test)]
mod tests;
