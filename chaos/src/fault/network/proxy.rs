//! The proxy of one link.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::{Condition, Counters, connection, counters::Counting};

/// Connections of a link at a time; more than any client opens. Those that come meanwhile wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// When no connection can be accepted, as without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Stands between the clients of a server and the server. Dropping it ends its connections and stops listening.
#[derive(Debug)]
pub struct Proxy {
    listen: SocketAddr,
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

/// What a proxy and its connections share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) counting: Counting,
    pub(super) setting: watch::Sender<Setting>,
}

/// What the proxy was told last. The two counts let a connection know what it has missed, when one condition quickly follows another.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Setting {
    pub(super) condition: Condition,
    pub(super) resets: u64,
    pub(super) half_opens: u64,
}

impl Proxy {
    /// Listens on `listen` (port 0: any) and forwards each connection to `target`. An error if it can't listen; a server that can't be
    /// reached is seen by its clients as a reset.
    pub async fn bind(listen: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let listen = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let acceptor = tokio::spawn(accept_forever(listener, target, shared.clone()));
        Ok(Self { listen, shared, acceptor })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Changes the condition of all connections, existing and new, at once.
    pub fn set(&self, condition: Condition) {
        self.shared.setting.send_modify(|setting| {
            setting.condition = condition;
            setting.resets += u64::from(condition == Condition::Reset);
            setting.half_opens += u64::from(condition == Condition::HalfOpen);
        });
    }

    /// The condition that was set last.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.shared.setting.borrow().condition
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counting.read()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections are its tasks, and end with it.
        self.acceptor.abort();
    }
}

async fn accept_forever(listener: TcpListener, target: SocketAddr, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((client, _)) => {
                    connections.spawn(connection::serve(client, target, shared.clone()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
