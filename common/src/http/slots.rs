//! Who may have a connection: caps per address and in all. When all places are taken, those go first that wait for a request.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Limits,
    watch::{Silence, Watch},
};

/// Who has so many connections is a crowd: if nobody is silent, one of the largest crowd's goes for an address that has none.
const CROWD: usize = 64;

/// How many connections of others an address may have closed for its own: so many at once, then one in each interval. A flood of
/// sockets that are opened again as soon as they are closed would otherwise evict itself as fast as the processor can.
const EVICTIONS_BURST: u32 = 16;
const EVICTION_INTERVAL: Duration = Duration::from_millis(50);

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The address has all that it may have.
    Address,
    /// All are taken, and each handles a request, or too many were closed for this address already. (An address that has none gets one of
    /// a crowd's.)
    All,
}

impl Full {
    /// The label of the metric.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::All => "all",
        }
    }
}

#[derive(Debug)]
struct Place {
    /// `None` while its proxy has not said whose it is.
    address: Option<IpAddr>,
    watch: Arc<Watch>,
    evicted: CancellationToken,
}

/// What an address has.
#[derive(Debug)]
struct Share {
    connections: usize,
    /// When all that it has evicted is forgotten.
    evictions_until: Instant,
}

impl Share {
    fn may_evict(&mut self, now: Instant) -> bool {
        let until = self.evictions_until.max(now);
        let is_allowed = until - now < EVICTION_INTERVAL * EVICTIONS_BURST;
        if is_allowed {
            self.evictions_until = until + EVICTION_INTERVAL;
        }
        is_allowed
    }
}

#[derive(Debug, Default)]
struct Places {
    taken: HashMap<u64, Place>,
    per_address: HashMap<IpAddr, Share>,
    next_id: u64,
    /// Those that never made a request, as the last look at all places found them, the one that should go first at the end: a flood
    /// of silent connections must not cost a look each.
    never_spoke: Vec<(Silence, u64)>,
}

impl Places {
    fn remove(&mut self, id: u64) -> Option<Place> {
        let place = self.taken.remove(&id)?;
        if let Some(address) = place.address
            && let Entry::Occupied(mut share) = self.per_address.entry(address)
        {
            share.get_mut().connections -= 1;
            if share.get().connections == 0 {
                share.remove();
            }
        }
        Some(place)
    }

    fn of_address(&self, address: IpAddr) -> usize {
        self.per_address.get(&address).map_or(0, |share| share.connections)
    }

    fn add(&mut self, address: IpAddr) {
        let none = || Share { connections: 0, evictions_until: Instant::now() };
        self.per_address.entry(address).or_insert_with(none).connections += 1;
    }

    /// The one that has been busy for longest of the address that has the most, if those are a crowd: clients that ask and never read
    /// would otherwise take all places until they are closed.
    fn of_the_largest_crowd(&self) -> Option<u64> {
        let (address, share) = self.per_address.iter().max_by_key(|(_, share)| share.connections)?;
        if share.connections < CROWD {
            return None;
        }
        let places = self.taken.iter().filter(|(_, place)| place.address == Some(*address));
        places.min_by_key(|(_, place)| place.watch.busy_since()).map(|(id, _)| *id)
    }

    /// Whether another connection may be closed for one of this address. An address without connections has evicted nobody.
    fn may_evict_for(&mut self, address: IpAddr) -> bool {
        self.per_address.get_mut(&address).is_none_or(|share| share.may_evict(Instant::now()))
    }

    /// Whether a place of this address may be taken for somebody who has `connections` already: who has many does not take those of
    /// others who have fewer.
    fn may_go(&self, address: Option<IpAddr>, connections: usize) -> bool {
        address.is_none_or(|address| self.of_address(address) >= connections)
    }

    /// The one that should go first for somebody who has `connections` already, if one waits for a request.
    fn most_silent(&mut self, connections: usize) -> Option<u64> {
        // Whoever came since has been silent for less time, and nobody can become one that never spoke.
        while let Some((silence, id)) = self.never_spoke.pop() {
            if self.taken.get(&id).is_some_and(|place| {
                place.watch.silence() == Some(silence) && self.may_go(place.address, connections)
            }) {
                return Some(id);
            }
        }
        let silences = self.taken.iter().filter_map(|(id, place)| Some((place.watch.silence()?, *id)));
        let mut silences: Vec<_> = silences.collect();
        silences.sort_unstable_by(|a, b| b.cmp(a));
        let may_go =
            |id: &u64| self.taken.get(id).is_some_and(|place| self.may_go(place.address, connections));
        let index = silences.iter().rposition(|(_, id)| may_go(id))?;
        let (_, first) = silences.remove(index);
        silences.retain(|(silence, _)| !silence.has_spoken);
        self.never_spoke = silences;
        Some(first)
    }
}

/// The places of one port.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    connections_max: usize,
    connections_per_address_max: usize,
    places: Arc<Mutex<Places>>,
}

/// A place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    id: u64,
    places: Arc<Mutex<Places>>,
    /// Cancelled when somebody else needs the place more.
    pub(super) evicted: CancellationToken,
}

impl Slots {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            connections_max: limits.connections_max,
            connections_per_address_max: limits.connections_per_address_max,
            places: Arc::default(),
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many are taken.
    #[cfg(test)]
    fn taken(&self) -> usize {
        self.places().taken.len()
    }

    /// Takes a place. If none is left, the connection that has been silent for longest gives up its own: first those that never
    /// spoke. It is told so, and is closed soon after. `client` is `None` for a connection of a proxy, which is nobody's until the
    /// proxy has said whose it is ([`Slots::assign`]): the proxy's own address must not be taken for one client.
    pub(super) fn take(
        &self,
        client: Option<SocketAddr>,
        watch: Arc<Watch>,
    ) -> Result<(Slot, Option<Evicted>), Full> {
        let address = client.map(|client| network_of(client.ip()));
        let mut places = self.places();
        if address.is_some_and(|address| places.of_address(address) >= self.connections_per_address_max) {
            return Err(Full::Address);
        }
        let mut evicted = None;
        if places.taken.len() >= self.connections_max {
            if address.is_some_and(|address| !places.may_evict_for(address)) {
                return Err(Full::All);
            }
            let connections = address.map_or(0, |address| places.of_address(address));
            let silent = places.most_silent(connections);
            let id = match silent {
                None if address.is_some() && connections == 0 => places.of_the_largest_crowd(),
                silent => silent,
            };
            let id = id.ok_or(Full::All)?;
            let silent = places.remove(id).ok_or(Full::All)?;
            silent.evicted.cancel();
            evicted = Some(Evicted);
        }
        let id = places.next_id;
        places.next_id += 1;
        if let Some(address) = address {
            places.add(address);
        }
        let place = Place { address, watch, evicted: CancellationToken::new() };
        let slot = Slot { id, places: self.places.clone(), evicted: place.evicted.clone() };
        places.taken.insert(id, place);
        Ok((slot, evicted))
    }

    /// Counts a place that was nobody's for this client, unless the client has all that it may have.
    pub(super) fn assign(&self, slot: &Slot, client: SocketAddr) -> Result<(), Full> {
        let address = network_of(client.ip());
        let mut places = self.places();
        if places.of_address(address) >= self.connections_per_address_max {
            return Err(Full::Address);
        }
        // It may have been evicted since.
        if let Some(place) = places.taken.get_mut(&slot.id) {
            place.address = Some(address);
            places.add(address);
        }
        Ok(())
    }
}

/// Somebody's connection is closed for this one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Evicted;

impl Drop for Slot {
    fn drop(&mut self) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).remove(self.id);
    }
}

/// What counts as one address: an IPv4 address, or the /64 of an IPv6 address, which is the least that a subscriber gets.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, Instant};

    use super::*;

    fn slots(connections_max: usize, connections_per_address_max: usize) -> Slots {
        Slots::new(&Limits { connections_max, connections_per_address_max, ..Limits::default() })
    }

    fn client(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().expect("an address"), 1)
    }

    fn watch(since: Instant) -> Arc<Watch> {
        Arc::new(Watch::new(Limits::default(), since))
    }

    /// No address gets more than its share, and a place that is given back is free.
    #[test]
    fn no_address_gets_more_than_its_share() {
        let (slots, now) = (slots(10, 2), Instant::now());
        let take = |address| slots.take(Some(client(address)), watch(now));
        let first = take("10.0.0.1").expect("free");
        let second = take("10.0.0.1").expect("free");
        assert_eq!(take("10.0.0.1").expect_err("full"), Full::Address);
        assert_eq!(take("::ffff:10.0.0.1").expect_err("the same address"), Full::Address);
        let _other = take("10.0.0.2").expect("free");
        drop(first);
        let _again = take("10.0.0.1").expect("free again");
        drop(second);
        let _v6 = (take("2001:db8::1").expect("free"), take("2001:db8::2:1").expect("free"));
        assert_eq!(take("2001:db8::3").expect_err("the same network"), Full::Address);
        assert_eq!(slots.taken(), 4);
    }

    /// A flood of silent connections evicts the oldest first, one after the other; who speaks meanwhile stays, although the look
    /// at all places was before.
    #[test]
    fn a_flood_evicts_the_oldest_first() {
        let (slots, t0) = (slots(6, 100), Instant::now());
        let mut held = Vec::new();
        for second in 0..20 {
            let watch = watch(t0 + Duration::from_secs(second));
            let (slot, _) = slots.take(Some(client("10.0.0.1")), watch.clone()).expect("a silent one goes");
            held.push((slot, watch));
            if second == 7 {
                // The next but one to go makes a request.
                let id = held[4].1.begin(t0 + Duration::from_secs(second));
                held[4].1.end(id, t0 + Duration::from_secs(second));
            }
            let gone: Vec<usize> =
                (0..held.len()).filter(|nth| held[*nth].0.evicted.is_cancelled()).collect();
            let expected = match usize::try_from(second).expect("few") {
                ..6 => Vec::new(),
                second @ 6..8 => (0..=second - 6).collect(),
                second => (0..=second - 5).filter(|nth| *nth != 4).take(second - 5).collect(),
            };
            assert_eq!(gone, expected, "{second}");
            assert!(slots.taken() <= 6);
        }
    }

    /// Sockets that are opened again as soon as they are closed evict a few a second, not each other without end; an address that
    /// has done nothing of the kind gets its place at once.
    #[tokio::test(start_paused = true)]
    async fn an_address_evicts_a_few_a_second() {
        let slots = slots(100, 60);
        let mut flood = std::collections::VecDeque::new();
        let mut evicted = 0;
        for millisecond in 0..2_000 {
            // Two addresses have more sockets than there are places.
            let address = if millisecond % 2 == 0 { "10.0.0.1" } else { "10.0.0.2" };
            if let Ok((slot, gone)) = slots.take(Some(client(address)), watch(Instant::now())) {
                flood.push_back(slot);
                evicted += usize::from(gone.is_some());
            }
            flood.retain(|slot| !slot.evicted.is_cancelled());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!((2 * 40..=2 * (16 + 40)).contains(&evicted), "{evicted}");
        let honest = slots.take(Some(client("10.0.0.3")), watch(Instant::now())).expect("a silent one goes");
        assert_eq!(honest.1, Some(Evicted));
    }

    /// When all places are taken, the one that has been silent for longest goes, first of those that never spoke; whoever handles a
    /// request stays.
    #[test]
    fn silent_ones_go_first() {
        let (slots, t0) = (slots(3, 10), Instant::now());
        let after = |seconds| t0 + Duration::from_secs(seconds);
        let spoke = watch(t0);
        let id = spoke.begin(t0);
        let (spoke_slot, _) = slots.take(Some(client("10.0.0.1")), spoke.clone()).expect("free");
        let (silent, _) = slots.take(Some(client("10.0.0.2")), watch(after(1))).expect("free");
        let (younger, _) = slots.take(Some(client("10.0.0.3")), watch(after(2))).expect("free");

        let (_fourth, evicted) =
            slots.take(Some(client("10.0.0.4")), watch(after(3))).expect("a silent one goes");
        assert_eq!(evicted, Some(Evicted));
        assert!(silent.evicted.is_cancelled() && !younger.evicted.is_cancelled());
        // The place of the evicted one is not given back twice.
        drop(silent);
        assert_eq!(slots.taken(), 3);
        spoke.end(id, after(3));
        let busy = watch(after(4));
        busy.begin(after(4));
        let _fifth = slots.take(Some(client("10.0.0.5")), busy).expect("a silent one goes");
        assert!(younger.evicted.is_cancelled() && !spoke_slot.evicted.is_cancelled());
    }

    /// When nobody is silent, an address without connections gets a place of the one that has the most, if those are many: the one that
    /// has been busy for longest.
    #[test]
    fn the_largest_crowd_makes_room() {
        let (slots, t0) = (slots(CROWD + 10, CROWD), Instant::now());
        let busy = |address, seconds| {
            let watch = watch(t0);
            watch.begin(t0 + Duration::from_secs(seconds));
            slots.take(Some(client(address)), watch)
        };
        let few: Vec<_> = (0..10).map(|seconds| busy("10.0.0.1", seconds).expect("free").0).collect();
        let mut many: Vec<_> =
            (0..64).map(|seconds| busy("10.0.0.2", 200 - seconds).expect("free").0).collect();
        assert_eq!(busy("10.0.0.1", 300).expect_err("it has some"), Full::All);
        let (_new, evicted) = busy("10.0.0.3", 300).expect("one of the crowd goes");
        assert_eq!(evicted, Some(Evicted));
        assert!(few.iter().all(|slot| !slot.evicted.is_cancelled()));
        let gone: Vec<usize> = (0..many.len()).filter(|nth| many[*nth].evicted.is_cancelled()).collect();
        assert_eq!(gone, [63]);
        drop(many.pop());
        assert_eq!(busy("10.0.0.4", 300).expect_err("it is no crowd any more"), Full::All);
    }

    /// Who has many connections does not take the places of those who have fewer, however silent they are; who has none takes one.
    #[test]
    fn who_has_many_takes_nothing_from_those_who_have_few() {
        let (slots, t0) = (slots(6, 10), Instant::now());
        let after = |seconds| watch(t0 + Duration::from_secs(seconds));
        let (honest, _) = slots.take(Some(client("10.0.0.1")), after(0)).expect("free");
        let busy = |seconds| {
            let watch = after(seconds);
            watch.begin(t0);
            slots.take(Some(client("10.0.0.2")), watch)
        };
        let mut many: Vec<_> = (1..=5).map(|seconds| busy(seconds).expect("free").0).collect();
        assert_eq!(busy(6).expect_err("only the honest one is silent"), Full::All);
        assert!(!honest.evicted.is_cancelled());
        many.pop();
        let _silent = slots.take(Some(client("10.0.0.2")), after(7)).expect("free again");
        let (_new, evicted) = slots.take(Some(client("10.0.0.3")), after(8)).expect("a silent one goes");
        assert_eq!(evicted, Some(Evicted));
    }

    /// A proxy has as many connections as there are, and each of its clients no more than its share.
    #[test]
    fn clients_of_a_proxy_have_their_shares() {
        let (slots, now) = (slots(10, 2), Instant::now());
        let of_proxy = || slots.take(None, watch(now)).expect("free").0;
        let alice = client("192.0.2.7");
        let places: Vec<_> = (0..5).map(|_| of_proxy()).collect();
        slots.assign(&places[0], alice).expect("her first");
        slots.assign(&places[1], alice).expect("her second");
        assert_eq!(slots.assign(&places[2], alice), Err(Full::Address));
        slots.assign(&places[2], client("192.0.2.8")).expect("another one's first");
        assert_eq!(slots.take(Some(alice), watch(now)).expect_err("past the proxy too"), Full::Address);
        drop(places);
        assert_eq!((slots.taken(), slots.places().per_address.len()), (0, 0));
    }

    /// Without a silent one the new one is refused.
    #[test]
    fn without_a_silent_one_the_new_one_is_refused() {
        let (slots, now) = (slots(1, 10), Instant::now());
        let busy = watch(now);
        busy.begin(now);
        let _slot = slots.take(Some(client("10.0.0.1")), busy).expect("free");
        assert_eq!(slots.take(Some(client("10.0.0.2")), watch(now)).expect_err("full"), Full::All);
    }
}
