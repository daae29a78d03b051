//! Keeps the endpoints of a destination in step with what its names resolve to.
//!
//! Names are resolved again and again, because replicas come and go behind a name (a headless service in Kubernetes).
//! An endpoint that stays keeps its connection and its breaker; one that is gone finishes the calls in progress. A name
//! that can't be resolved changes nothing: the last known addresses are better than none.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{net::lookup_host, sync::watch};

use super::balance::{Endpoint, Endpoints};
use crate::backoff::Backoff;

/// How often names are resolved. Resolvers cache by themselves, so this is cheap.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);

/// Resolves `addresses` (`host:port`) until nobody holds the endpoints any more; others at once.
pub(super) async fn track_addresses<S: Send + Sync + 'static>(
    destination: String,
    mut addresses: watch::Receiver<Vec<String>>,
    endpoints: Weak<Endpoints<S>>,
    make: impl Fn(SocketAddr) -> Endpoint<S> + Send,
) {
    let mut backoff = Backoff::for_infrastructure();
    loop {
        let wanted = addresses.borrow_and_update().clone();
        let (found, pause) = look_up(&destination, &wanted, &mut backoff).await;
        let Some(endpoints) = endpoints.upgrade() else { return };
        if let Some(found) = found {
            update(&destination, &endpoints, &found, &make);
        }
        drop(endpoints);
        pause_until_others(&mut addresses, pause).await;
    }
}

/// The same, for whoever needs the addresses themselves; until nobody does.
pub(super) async fn publish_addresses(
    destination: String,
    mut addresses: watch::Receiver<Vec<String>>,
    known: watch::Sender<BTreeSet<SocketAddr>>,
) {
    let mut backoff = Backoff::for_infrastructure();
    loop {
        let wanted = addresses.borrow_and_update().clone();
        let (found, pause) = look_up(&destination, &wanted, &mut backoff).await;
        if let Some(found) = found.filter(|found| !found.is_empty()) {
            known.send_if_modified(|before| {
                let changed = *before != found;
                *before = found;
                changed
            });
        }
        tokio::select! {
            () = known.closed() => return,
            () = pause_until_others(&mut addresses, pause) => {}
        }
    }
}

/// Returns after the pause, or when there are other addresses.
async fn pause_until_others(addresses: &mut watch::Receiver<Vec<String>>, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        // Fails once nobody can change them any more; then the pause remains.
        Ok(()) = addresses.changed() => {}
    }
}

/// The addresses, if they can be resolved, and the pause before they are resolved again.
async fn look_up(
    destination: &str,
    addresses: &[String],
    backoff: &mut Backoff,
) -> (Option<BTreeSet<SocketAddr>>, Duration) {
    match resolve(addresses).await {
        Ok(found) => {
            backoff.reset();
            (Some(found), RESOLVE_EVERY)
        }
        Err(error) => {
            metrics::counter!(crate::metric::RESOLVE_FAILURES_TOTAL, "destination" => destination.to_owned())
                .increment(1);
            tracing::warn!(destination, %error, "name cannot be resolved, keeping the last addresses");
            (None, backoff.next_pause())
        }
    }
}

async fn resolve(addresses: &[String]) -> std::io::Result<BTreeSet<SocketAddr>> {
    let mut found = BTreeSet::new();
    for address in addresses {
        found.extend(lookup_host(address).await?);
    }
    Ok(found)
}

fn update<S>(
    destination: &str,
    endpoints: &Endpoints<S>,
    found: &BTreeSet<SocketAddr>,
    make: impl Fn(SocketAddr) -> Endpoint<S>,
) {
    let before = endpoints.all();
    let same = before.len() == found.len()
        && before.iter().zip(found).all(|(endpoint, address)| endpoint.address == address.to_string());
    if same && !found.is_empty() {
        return;
    }
    let after = found
        .iter()
        .map(|address| {
            let kept = before.iter().find(|endpoint| endpoint.address == address.to_string());
            kept.cloned().unwrap_or_else(|| Arc::new(make(*address)))
        })
        .collect();
    let endpoints_now = found.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    tracing::info!(destination, endpoints = endpoints_now, "endpoints changed");
    endpoints.set(after);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::breaker::{Breaker, BreakerConfig};

    fn make(address: SocketAddr) -> Endpoint<()> {
        let breaker = Breaker::new(&BreakerConfig::default(), "test", &address.to_string());
        Endpoint::new(address.to_string(), breaker, ())
    }

    fn addresses(last: &[u8]) -> BTreeSet<SocketAddr> {
        last.iter().map(|last| SocketAddr::from(([10, 0, 0, *last], 50051))).collect()
    }

    /// An endpoint that stays is the same one, with its connection and its breaker; others come and go.
    #[tokio::test]
    async fn endpoints_that_stay_are_kept() {
        let endpoints = Endpoints::unknown();
        update("test", &endpoints, &addresses(&[1, 2]), make);
        let before = endpoints.all();
        update("test", &endpoints, &addresses(&[1, 2]), make);
        assert!(Arc::ptr_eq(&before, &endpoints.all()), "nothing changed");
        update("test", &endpoints, &addresses(&[2, 3]), make);
        let after = endpoints.all();
        assert_eq!(after.len(), 2);
        assert!(Arc::ptr_eq(&before[1], &after[0]), "the second stays");
        assert_eq!(after[1].address, "10.0.0.3:50051");
    }

    /// Whoever needs the addresses learns them, and the task ends when nobody does any more.
    #[tokio::test]
    async fn addresses_are_published_while_somebody_listens() {
        let (known, mut addresses) = watch::channel(BTreeSet::new());
        let wanted = watch::Sender::new(vec!["127.0.0.1:1".to_owned()]);
        let task = tokio::spawn(publish_addresses("test".into(), wanted.subscribe(), known));
        addresses.wait_for(|found| found.len() == 1).await.expect("resolved");
        drop(addresses);
        task.await.expect("ended");
    }

    /// Other addresses are used at once, not after the next pause; whoever called one that stays goes on.
    #[tokio::test(start_paused = true)]
    async fn other_addresses_are_used_at_once() {
        let begin = tokio::time::Instant::now();
        let wanted = watch::Sender::new(vec!["127.0.0.1:1".to_owned()]);
        let endpoints = Arc::new(Endpoints::unknown());
        let task = tokio::spawn(track_addresses(
            "test".into(),
            wanted.subscribe(),
            Arc::downgrade(&endpoints),
            make,
        ));
        let has = async |count: usize| {
            while endpoints.all().len() != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            endpoints.all()
        };
        let first = has(1).await;
        wanted.send_replace(vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()]);
        let both = has(2).await;
        assert!(Arc::ptr_eq(&first[0], &both[0]), "the first stays");
        wanted.send_replace(vec!["127.0.0.1:2".to_owned()]);
        assert!(Arc::ptr_eq(&has(1).await[0], &both[1]), "the second stays");
        assert!(begin.elapsed() < RESOLVE_EVERY, "{:?}", begin.elapsed());
        // Nobody can change them any more, and they are still resolved.
        drop(wanted);
        tokio::time::sleep(RESOLVE_EVERY * 3).await;
        assert!(!task.is_finished());
        drop((endpoints, first, both));
        task.await.expect("ended");
    }

    /// Several addresses, several names, and the same address twice make one set.
    #[tokio::test]
    async fn names_and_addresses_make_one_set() {
        let names = ["127.0.0.1:1", "127.0.0.2:1", "127.0.0.1:1"].map(str::to_owned);
        assert_eq!(resolve(&names).await.expect("resolved").len(), 2);
        assert!(resolve(&["no-such-host.invalid:1".to_owned()]).await.is_err());
    }
}
