//! Serves HTTP/1.1 and HTTP/2, with or without TLS, to clients that may be slow, silent or hostile. The gateway's port and the
//! admin ports of all services are served by it.
//!
//! One file per concern, from the socket upwards:
//!
//! - [`proxy`]: whose connection it is, as a proxy in front says (the PROXY protocol);
//! - [`slots`]: caps per address and in all, and who goes when they are reached; [`descriptors`]: what they leave for files;
//! - [`socket`]: notes whether a client takes in what is written to it;
//! - [`tls`]: certificates that reload;
//! - [`guard`]: lets only heads pass that were checked ([`head`] says which, [`scanner`] where they are);
//! - [`line`]: the same bytes, when a connection rests between two requests;
//! - [`exchange`]: one request and its answer;
//! - [`watch`]: what a connection is doing and since when, from which its limits of time follow;
//! - [`connection`]: one connection from its first byte to its last.
//!
//! It knows nothing of routes, problems or tokens. What it refuses on its own it hands to the router as a request with a
//! [`Refusal`] in its extensions, so that the answer looks like every other; [`refuse`] is the layer for routers that have no form
//! of their own.

mod connection;
pub(crate) mod descriptors;
mod exchange;
mod guard;
mod head;
mod limits;
mod line;
mod proxy;
mod scanner;
mod slots;
mod socket;
mod tls;
mod watch;

#[cfg(test)]
mod messages;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, ops::ControlFlow, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use ipnet::IpNet;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    connection::Session,
    guard::Entry,
    slots::{Full, Slots},
    watch::Watch,
};
pub use self::{
    head::Refusal,
    limits::Limits,
    slots::network_of,
    tls::{Tls, TlsConfig},
};
use crate::{error::chain, metric, stop::sleep_unless_stopped};

/// So many connections at a time are told that there is no place; more are closed without an answer, later.
const TURNED_AWAY_MAX: usize = 64;
/// A connection that is closed without an answer is held so long: who is closed at once comes again at once.
const HELD_BACK_TIME: Duration = Duration::from_secs(2);
/// So many are held at a time, if there are descriptors for them.
const HELD_BACK_MAX: usize = 2_048;
/// A failure to accept is logged at most this often: it repeats for as long as its cause lasts.
const FAILURE_LOGGED_EVERY: Duration = Duration::from_secs(10);
/// After the process was told to stop: when no connection has come for this long, none waits in the kernel any more.
const LAST_CONNECTION_TIME: Duration = Duration::from_millis(20);
const LAST_CONNECTIONS_TIME_MAX: Duration = Duration::from_millis(500);
/// The pause after a failure to accept.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// Marks a response, in its extensions, whose body has no end of its own, such as a stream of events. It may last for as long as
/// the client reads it: the limit of an exchange does not apply, the one of writing without progress does.
#[derive(Debug, Clone, Copy)]
pub struct LongLived;

/// One port.
#[derive(Debug)]
pub struct Server {
    /// Its name in metrics.
    pub name: &'static str,
    /// Its limits.
    pub limits: Limits,
    /// Without it the port speaks plain HTTP.
    pub tls: Option<Tls>,
    /// Networks of the proxies whose connections begin with a header of the PROXY protocol. It is read from nobody else.
    pub proxies: Vec<IpNet>,
}

/// The layer for a router that has no form of its own for refusals: a status and a sentence.
pub async fn refuse(request: Request, next: Next) -> Response {
    match request.extensions().get::<Refusal>() {
        Some(refusal) => (refusal.status(), refusal.detail()).into_response(),
        None => next.run(request).await,
    }
}

/// What the connections of a port share.
#[derive(Debug)]
struct Port {
    name: &'static str,
    limits: Limits,
    tls: Option<Tls>,
    proxies: Vec<IpNet>,
    router: Router,
    stop: CancellationToken,
}

/// Connections without a place, each with a permit.
#[derive(Debug)]
struct TurnedAway {
    /// Those that are told so.
    told: Arc<Semaphore>,
    /// Those that are closed without an answer.
    held_back: Arc<Semaphore>,
}

impl Server {
    /// Serves `router` until `stop`, then finishes the requests that are in progress. Each request carries the address of its
    /// client, as `ConnectInfo<SocketAddr>`.
    pub async fn serve(self, listener: TcpListener, router: Router, stop: CancellationToken) {
        let Self { name, mut limits, tls, proxies } = self;
        let wanted = limits.connections_max;
        let descriptors = descriptors::limit();
        limits.connections_max = descriptors::affordable(wanted, descriptors);
        let spare = descriptors::affordable(wanted + HELD_BACK_MAX, descriptors) - limits.connections_max;
        if limits.connections_max < wanted {
            let allowed = limits.connections_max;
            tracing::warn!(port = name, wanted, allowed, "too few file descriptors for all connections");
        }
        let slots = Slots::new(&limits);
        let turned_away = TurnedAway {
            told: Arc::new(Semaphore::new(TURNED_AWAY_MAX)),
            held_back: Arc::new(Semaphore::new(spare)),
        };
        let port = Arc::new(Port { name, limits, tls, proxies, router, stop: stop.clone() });
        let connections = TaskTracker::new();
        let mut failures = Failures::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, client)) => port.admit(tcp, client, &slots, &turned_away, &connections),
                Err(error) => {
                    // Most likely there are no file descriptors left. Closing connections return theirs.
                    metrics::counter!(metric::HTTP_ACCEPT_FAILURES_TOTAL, "port" => name).increment(1);
                    if failures.is_worth_a_line(Instant::now()) {
                        tracing::warn!(port = name, error = chain(&error), "cannot accept a connection");
                    }
                    tokio::time::sleep(FAILURE_PAUSE).await;
                }
            }
        }
        // Whose connection the kernel has taken already would see it reset.
        let until = Instant::now() + LAST_CONNECTIONS_TIME_MAX;
        while let Ok(accepted) = tokio::time::timeout(LAST_CONNECTION_TIME, listener.accept()).await
            && Instant::now() < until
        {
            if let Ok((tcp, client)) = accepted {
                port.admit(tcp, client, &slots, &turned_away, &connections);
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }
}

impl Port {
    /// Gives a connection a place, or tells it that there is none.
    fn admit(
        self: &Arc<Self>,
        mut tcp: TcpStream,
        client: SocketAddr,
        slots: &Slots,
        turned_away: &TurnedAway,
        connections: &TaskTracker,
    ) {
        let watch = Arc::new(Watch::new(self.limits.clone(), Instant::now()));
        let open = metrics::gauge!(metric::HTTP_CONNECTIONS, "port" => self.name);
        let session =
            |entry, evicted| Session { port: self.clone(), client, watch: watch.clone(), entry, evicted };
        let is_proxy = self.is_proxy(client);
        match slots.take(Some(client).filter(|_| !is_proxy), watch.clone()) {
            Ok((slot, evicted)) => {
                if evicted.is_some() {
                    self.count_end("evicted");
                }
                let mut session = session(Entry::Admitted, slot.evicted.clone());
                let slots = slots.clone();
                connections.spawn(async move {
                    open.increment(1.0);
                    if !is_proxy || session.introduce(&mut tcp, Some((&slots, &slot))).await.is_continue() {
                        connection::serve(session, tcp).await;
                    }
                    open.decrement(1.0);
                    drop(slot);
                });
            }
            Err(full) => {
                self.count_refusal(full);
                if let Ok(place) = turned_away.told.clone().try_acquire_owned() {
                    let mut session = session(Entry::TurnedAway, CancellationToken::new());
                    connections.spawn(async move {
                        if !is_proxy || session.introduce(&mut tcp, None).await.is_continue() {
                            connection::serve(session, tcp).await;
                        }
                        drop(place);
                    });
                } else if let Ok(place) = turned_away.held_back.clone().try_acquire_owned() {
                    let stop = self.stop.clone();
                    connections.spawn(async move {
                        let _: ControlFlow<()> = sleep_unless_stopped(&stop, HELD_BACK_TIME).await;
                        drop((tcp, place));
                    });
                }
            }
        }
    }

    fn is_proxy(&self, peer: SocketAddr) -> bool {
        let address = peer.ip().to_canonical();
        self.proxies.iter().any(|network| network.contains(&address))
    }

    fn count_refusal(&self, full: Full) {
        metrics::counter!(
            metric::HTTP_CONNECTIONS_REFUSED_TOTAL, "port" => self.name, "reason" => full.reason()
        )
        .increment(1);
    }

    fn count_end(&self, reason: &'static str) {
        metrics::counter!(metric::HTTP_CONNECTIONS_ENDED_TOTAL, "port" => self.name, "reason" => reason)
            .increment(1);
    }
}

/// When a failure was last logged.
#[derive(Debug, Default)]
struct Failures(Option<Instant>);

impl Failures {
    fn is_worth_a_line(&mut self, now: Instant) -> bool {
        let is_due = self.0.is_none_or(|logged| now.duration_since(logged) >= FAILURE_LOGGED_EVERY);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}
