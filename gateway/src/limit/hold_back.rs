//! Answers those who are over a limit a moment later: a client that sends again as soon as it is refused would otherwise take all the
//! time of the processor with its refusals. Who waits as `Retry-After` says does not notice.

use std::{net::IpAddr, time::Duration};

use tokio::time::sleep;

use super::in_flight::{InFlight, Place};

/// With it a connection gets forty refusals a second instead of thousands, and each still comes soon.
const PAUSE: Duration = Duration::from_millis(25);
/// So many refusals of one address at a time wait for one pause only. More wait longer, so that an address gets 320 refusals a second
/// however many connections it has.
const TOGETHER: usize = 8;
/// Below the deadline of a request.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The refusals that wait, by the address that they are for.
#[derive(Debug)]
pub(super) struct HoldBack {
    waiting: InFlight,
}

impl Default for HoldBack {
    fn default() -> Self {
        Self { waiting: InFlight::new(usize::MAX) }
    }
}

impl HoldBack {
    /// Waits before a refusal for this address is sent; an address without limits waits for one pause.
    pub(super) async fn hold(&self, network: Option<IpAddr>) {
        let place = network.and_then(|network| self.waiting.enter(network));
        let waiting = place.as_ref().map_or(1, Place::number);
        let pauses = u32::try_from(waiting.div_ceil(TOGETHER)).unwrap_or(u32::MAX);
        sleep(PAUSE.saturating_mul(pauses).min(PAUSE_MAX)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{task::JoinSet, time::Instant};

    use super::*;

    /// An address gets so many refusals a second, whether they wait on a few connections or on many; others do not wait for it.
    #[tokio::test(start_paused = true)]
    async fn an_address_gets_so_many_refusals_a_second() {
        let (hold_back, greedy) = (Arc::new(HoldBack::default()), Some(IpAddr::from([192, 0, 2, 1])));
        for (connections, expected) in [(1, 40), (8, 320), (64, 320), (500, 320)] {
            let (begin, mut clients) = (Instant::now(), JoinSet::new());
            for _ in 0..connections {
                let hold_back = hold_back.clone();
                clients.spawn(async move {
                    let mut refusals = 0_usize;
                    while begin.elapsed() < Duration::from_secs(20) {
                        hold_back.hold(greedy).await;
                        refusals += 1;
                    }
                    refusals
                });
            }
            tokio::task::yield_now().await;
            for network in [None, Some(IpAddr::from([192, 0, 2, 2]))] {
                let before = Instant::now();
                hold_back.hold(network).await;
                assert_eq!(before.elapsed(), PAUSE);
            }
            let per_second = clients.join_all().await.into_iter().sum::<usize>() / 20;
            let most = expected * 5 / 4;
            assert!((expected / 2..=most).contains(&per_second), "{connections}: {per_second}");
        }
    }
}
