//! Answers those who are over a limit a moment later: a client that sends again as soon as it is refused would otherwise take all the
//! time of the processor with its refusals. Who waits as `Retry-After` says does not notice.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Client,
    in_flight::{InFlight, Place},
};

/// With it a connection gets forty refusals a second instead of thousands, and each still comes soon.
const PAUSE: Duration = Duration::from_millis(25);
/// So many refusals of one address or subject at a time wait for one pause only. More wait longer, so that each gets 320 refusals a
/// second, however many its connections are.
const TOGETHER: usize = 8;
/// Below the deadline of a request.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The refusals that wait, by whom they are for.
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
    /// Waits before a refusal for this client is sent; one whose address has no limits waits for one pause.
    pub(super) async fn hold(&self, client: Option<Client>) {
        let place = client.and_then(|client| self.waiting.enter(client));
        let waiting = place.as_ref().map_or(1, Place::number);
        let pauses = u32::try_from(waiting.div_ceil(TOGETHER)).unwrap_or(u32::MAX);
        sleep(PAUSE.saturating_mul(pauses).min(PAUSE_MAX)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use holdfast_proto::UserId;

    use tokio::{task::JoinSet, time::Instant};

    use super::*;

    /// A client gets so many refusals a second, whether they wait on a few connections or on many; others do not wait for it.
    #[tokio::test(start_paused = true)]
    async fn a_client_gets_so_many_refusals_a_second() {
        let hold_back = Arc::new(HoldBack::default());
        let (address, other) = ([192, 0, 2, 1], [192, 0, 2, 2]);
        let (address, other) = (Client::Address(IpAddr::from(address)), Client::Address(IpAddr::from(other)));
        let subject = Client::Subject(UserId::parse("greedy").expect("a user"));
        for (greedy, connections, expected) in
            [(&address, 1, 40), (&address, 8, 320), (&subject, 64, 320), (&address, 500, 320)]
        {
            let (begin, mut clients) = (Instant::now(), JoinSet::new());
            for _ in 0..connections {
                let (hold_back, greedy) = (hold_back.clone(), Some(greedy.clone()));
                clients.spawn(async move {
                    let mut refusals = 0_usize;
                    while begin.elapsed() < Duration::from_secs(20) {
                        hold_back.hold(greedy.clone()).await;
                        refusals += 1;
                    }
                    refusals
                });
            }
            tokio::task::yield_now().await;
            for client in [None, Some(other.clone())] {
                let before = Instant::now();
                hold_back.hold(client).await;
                assert_eq!(before.elapsed(), PAUSE);
            }
            let per_second = clients.join_all().await.into_iter().sum::<usize>() / 20;
            let most = expected * 5 / 4;
            assert!((expected / 2..=most).contains(&per_second), "{connections}: {per_second}");
        }
    }
}
