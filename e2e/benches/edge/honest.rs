//! Those who behave: a few users who read and write at a steady pace, whatever else happens. What they see is the measure.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use holdfast_chaos::rest::sample_order;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, interval},
};

use crate::{
    edge::Edge,
    gateway::Server,
    http::{self, exchange},
};

/// How a user reaches the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Reads on a connection that is kept.
    Kept,
    /// Reads on a new connection each time.
    New,
    /// Writes on a connection that is kept.
    Write,
}

/// One request: when it was due, how long it took since then, and its status, 0 if there was no answer.
#[derive(Debug, Clone, Copy)]
struct Sample {
    kind: Kind,
    due: Instant,
    took: Duration,
    status: u16,
}

/// What they saw in some time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) count: usize,
    /// Without an answer, or with one of 429 or 5xx.
    pub(crate) failed: usize,
}

/// The users; they stop when this is dropped.
pub(crate) struct Honest {
    samples: Arc<Mutex<Vec<Sample>>>,
    _users: JoinSet<()>,
}

impl Honest {
    /// Two users of each kind that reads, at 25 requests a second each, and two that write 5 orders a second each. Each has an address
    /// of its own.
    pub(crate) async fn start(edge: &Edge, server: &Arc<Server>) -> Result<Self> {
        let samples = Arc::<Mutex<Vec<Sample>>>::default();
        let mut users = JoinSet::new();
        for (number, kind) in
            [Kind::Kept, Kind::Kept, Kind::New, Kind::New, Kind::Write, Kind::Write].into_iter().enumerate()
        {
            let user = edge.user(&format!("honest-{number}")).await?;
            let order = edge.order(&user).await?;
            let (request, every) = match kind {
                Kind::Kept | Kind::New => {
                    (http::get(&format!("/api/orders/{order}"), &user.token), Duration::from_millis(40))
                }
                Kind::Write => {
                    let body = sample_order("1 Quay Street", 1).to_string();
                    (http::post("/api/orders", &user.token, &body), Duration::from_millis(200))
                }
            };
            let address = Ipv4Addr::new(127, 0, 1, u8::try_from(number + 1).context("few")?);
            users.spawn(
                User { kind, address, request, every, server: server.clone(), samples: samples.clone() }
                    .run(),
            );
        }
        Ok(Self { samples, _users: users })
    }

    /// What those of a kind saw whose requests were due in this time.
    pub(crate) fn seen(&self, kind: Kind, from: Instant, to: Instant) -> Seen {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind = samples.iter().filter(|sample| sample.kind == kind && (from..to).contains(&sample.due));
        let (mut times, mut failed) = (Vec::new(), 0);
        for sample in of_kind {
            times.push(sample.took);
            failed += usize::from(sample.status == 0 || sample.status == 429 || sample.status >= 500);
        }
        summary(&mut times, failed)
    }
}

/// Percentiles of these times.
pub(crate) fn summary(times: &mut [Duration], failed: usize) -> Seen {
    times.sort_unstable();
    let at = |share: usize| {
        let index = (times.len() * share / 100).min(times.len().saturating_sub(1));
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
    };
    Seen { p50_ms: at(50), p99_ms: at(99), max_ms: at(100), count: times.len(), failed }
}

struct User {
    kind: Kind,
    address: Ipv4Addr,
    request: Bytes,
    every: Duration,
    server: Arc<Server>,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl User {
    async fn run(self) {
        // Requests are due whether or not earlier ones were answered.
        let mut due = interval(self.every);
        let mut kept = None;
        loop {
            let due = due.tick().await;
            let status = self.ask(&mut kept).await.unwrap_or(0);
            let sample = Sample { kind: self.kind, due, took: due.elapsed(), status };
            self.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
        }
    }

    async fn ask(&self, kept: &mut Option<TcpStream>) -> std::io::Result<u16> {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => self.server.connect(self.address).await?,
        };
        let reply = exchange(&mut stream, &self.request).await?;
        if self.kind != Kind::New && reply.is_open {
            *kept = Some(stream);
        }
        Ok(reply.status)
    }
}
