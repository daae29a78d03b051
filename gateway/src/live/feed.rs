//! Reads the changes of every replica of order: one stream each, opened again whenever it ends.
//!
//! A stream that broke may have lost a change, and one that was opened knows nothing of before: both times every watcher looks
//! again. While a replica can't be reached but may still commit, they look every few seconds. A stream is replaced before
//! the server ends its connection for its age, without a gap: the new one is open before the old one is left.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use holdfast_common::{backoff::Backoff, client::Replicas, health::Component, stop::sleep_unless_stopped};
use holdfast_proto::order::v1::{
    WatchOrdersRequest, WatchOrdersResponse, order_service_client::OrderServiceClient,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};

use super::{change::Change, hub::Hub};

/// For a stream to be opened, the connection included.
const OPEN_TIME_MAX: Duration = Duration::from_secs(2);
/// A stream is replaced at this age, or up to a fifth later: before the server ends its connection
/// (`holdfast_common::grpc`, 300 s).
const AGE_MAX: Duration = Duration::from_secs(200);
/// The next attempt to replace a stream that could not be replaced.
const RENEW_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// A stream that was replaced is read for this long: what was committed before the new one was open is on its way.
const LINGER: Duration = Duration::from_secs(2);
/// How often watchers look again while a replica can't be reached.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A stream that has lived this long was no failure of its replica: the next one is opened soon.
const STEADY_AFTER: Duration = Duration::from_secs(5);

/// Follows all replicas, as they come and go, until `stop`.
pub(super) async fn follow(hub: Arc<Hub>, replicas: Replicas, component: Component, stop: CancellationToken) {
    let mut addresses = replicas.addresses();
    let status = Arc::new(Feeds::new(component));
    let (mut tasks, mut running) = (JoinSet::new(), HashMap::<SocketAddr, CancellationToken>::new());
    loop {
        let known = addresses.borrow_and_update().clone();
        running.retain(|address, feed| {
            let stays = known.contains(address);
            if !stays {
                feed.cancel();
                status.forget(*address);
                // Its last changes may have been lost with it.
                hub.look_again();
            }
            stays
        });
        for address in known {
            running.entry(address).or_insert_with(|| {
                let stop = stop.child_token();
                let feed =
                    Feed { address, hub: hub.clone(), replicas: replicas.clone(), status: status.clone() };
                tasks.spawn(feed.run(stop.clone()));
                stop
            });
        }
        tokio::select! {
            () = stop.cancelled() => return,
            // Fails only if `replicas` is gone, and it is here.
            _ = addresses.changed() => {}
        }
    }
}

/// What readiness says about the streams.
#[derive(Debug)]
struct Feeds {
    component: Component,
    /// Why a stream is not there, or empty.
    states: Mutex<BTreeMap<SocketAddr, String>>,
}

impl Feeds {
    fn new(component: Component) -> Self {
        component.waiting("the replicas of order are not known yet");
        Self { component, states: Mutex::default() }
    }

    fn set(&self, address: SocketAddr, down: impl Into<String>) {
        self.update(|states| {
            states.insert(address, down.into());
        });
    }

    fn forget(&self, address: SocketAddr) {
        self.update(|states| {
            states.remove(&address);
        });
    }

    fn update(&self, change: impl FnOnce(&mut BTreeMap<SocketAddr, String>)) {
        // Plain data: a panic elsewhere can't leave it half changed.
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut states);
        let down: Vec<String> = states
            .iter()
            .filter(|(_, why)| !why.is_empty())
            .map(|(address, why)| format!("no changes from {address}: {why}"))
            .collect();
        if down.is_empty() && !states.is_empty() {
            self.component.ready();
        } else {
            self.component.waiting(down.join("; "));
        }
    }
}

/// The stream of one replica.
struct Feed {
    address: SocketAddr,
    hub: Arc<Hub>,
    replicas: Replicas,
    status: Arc<Feeds>,
}

/// An open stream, and the connection that it has for itself.
struct Open {
    changes: Streaming<WatchOrdersResponse>,
    _connection: OrderServiceClient<Channel>,
}

impl Feed {
    async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::for_infrastructure();
        let mut looked_at = Instant::now();
        loop {
            let begin = Instant::now();
            let opened = tokio::select! {
                () = stop.cancelled() => return,
                opened = self.open() => opened,
            };
            let was_open = opened.is_ok();
            let end = match opened {
                Ok(open) => {
                    self.status.set(self.address, "");
                    self.hub.look_again();
                    tokio::select! {
                        () = stop.cancelled() => return,
                        end = self.read(open) => end,
                    }
                }
                Err(status) => status,
            };
            self.status.set(self.address, format!("{:?}", end.code()));
            if was_open {
                tracing::warn!(address = %self.address, code = ?end.code(), error = end.message(), "stream of changes ended");
            }
            if was_open || looked_at.elapsed() >= LOOK_EVERY {
                looked_at = Instant::now();
                self.hub.look_again();
            }
            if was_open && begin.elapsed() >= STEADY_AFTER {
                backoff.reset();
            }
            if sleep_unless_stopped(&stop, backoff.next_pause()).await.is_break() {
                return;
            }
        }
    }

    async fn open(&self) -> Result<Open, Status> {
        let mut connection = OrderServiceClient::new(self.replicas.connect(self.address));
        let request = WatchOrdersRequest { reader: format!("gateway {}", std::process::id()) };
        let opened = timeout(OPEN_TIME_MAX, connection.watch_orders(request)).await;
        let opened = opened.map_err(|_| Status::unavailable("it is not opened in time"))?;
        Ok(Open { changes: opened?.into_inner(), _connection: connection })
    }

    /// Reads a stream, and those that replace it, until one ends.
    async fn read(&self, mut open: Open) -> Status {
        let mut renewed = Box::pin(self.renewed());
        loop {
            tokio::select! {
                message = open.changes.message() => match message {
                    Ok(Some(message)) => self.hub.publish_commit(message),
                    Ok(None) => return Status::unavailable("the replica has stopped"),
                    Err(status) => return status,
                },
                new = &mut renewed => {
                    let old = std::mem::replace(&mut open, new);
                    tokio::spawn(linger(self.hub.clone(), old));
                    renewed.set(self.renewed());
                }
            }
        }
    }

    /// A new stream, once the present one is old.
    async fn renewed(&self) -> Open {
        sleep(AGE_MAX + AGE_MAX.mul_f64(fastrand::f64() / 5.0)).await;
        loop {
            match self.open().await {
                Ok(open) => return open,
                Err(_) => sleep(RENEW_AGAIN_AFTER).await,
            }
        }
    }
}

/// Reads what is still on its way in a stream that was replaced. What comes twice is dropped by the watchers.
async fn linger(hub: Arc<Hub>, mut old: Open) {
    let rest = async {
        while let Ok(Some(message)) = old.changes.message().await {
            hub.publish_commit(message);
        }
    };
    // It ends by time: the replica goes on sending.
    let _ = timeout(LINGER, rest).await;
}

impl Hub {
    fn publish_commit(&self, message: WatchOrdersResponse) {
        for change in Change::of_commit(message) {
            if let Some(change) = change {
                self.publish(&Arc::new(change));
            } else {
                tracing::error!("a change of an order is not valid");
            }
        }
    }
}
