//! The group as the broker and the database see it: which partitions the topics have, who owns them, how many records
//! wait. It has a client of its own, so it is right even while the consumer is stopped, waits for its database, or has
//! lost its membership; [`super::watch`] compares it with what the member believes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult},
    metadata::MetadataTopic,
    types::RDKafkaErrorCode,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{inbox::Place, positions};
use crate::{
    database::Database,
    error::chain,
    kafka::{
        Brokers, QuietContext, offsets_of,
        refusal::Refusals,
        tls::{ClientKind, Renewal},
    },
};

/// How often the broker is asked.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The same when somebody wants to know what it says now: at most so often, however many they are.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(25);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

/// One partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionView {
    /// The oldest offset that the broker still has.
    pub first: i64,
    /// The offset after the newest record.
    pub end: i64,
    /// What the broker has committed for the group. Reading does not begin there, but a gap to the position is worth
    /// seeing.
    pub committed: Option<i64>,
    /// What the database has: reading begins there. `None`: nothing was read yet, or the database has never answered.
    pub position: Option<i64>,
}

impl PartitionView {
    /// Records that wait.
    #[must_use]
    pub fn lag(&self) -> i64 {
        // A position past the end of the log: it was truncated or recreated, and is read from its beginning. What the group has
        // committed may belong to this log.
        let mut places = [self.position, self.committed].into_iter().flatten();
        let next = places.find(|next| *next <= self.end).unwrap_or(self.first);
        (self.end - next.max(self.first)).max(0)
    }
}

/// A group at one moment.
#[derive(Debug, Clone)]
pub struct GroupView {
    /// Before the broker was asked.
    pub at: Instant,
    /// The group's state as the broker reports it: `Stable`, `Empty`, `PreparingRebalance`, ...
    pub state: String,
    /// Partitions that some member owns.
    pub owned: BTreeSet<Place>,
    /// All partitions of the topics.
    pub partitions: BTreeMap<Place, PartitionView>,
}

impl GroupView {
    /// Partitions that nobody reads.
    #[must_use]
    pub fn unowned(&self) -> Vec<&Place> {
        self.partitions.keys().filter(|place| !self.owned.contains(*place)).collect()
    }
}

/// What the observer has seen last; clones are the same.
#[derive(Debug, Clone)]
pub struct ViewReceiver {
    seen: watch::Receiver<Option<Arc<GroupView>>>,
    wanted: Arc<Notify>,
}

impl ViewReceiver {
    /// Of nobody: there is never a view. For tests of what shows one.
    #[must_use]
    pub fn without_observer() -> Self {
        Self { seen: watch::Sender::new(None).subscribe(), wanted: Arc::default() }
    }

    /// The last view; `None` if the broker has not answered since the start.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<GroupView>> {
        self.seen.borrow().clone()
    }

    /// Has the observer ask the broker now, and waits for the answer, but no longer than `time_max`: then the last view is as old as
    /// it is.
    pub async fn renewed(&self, time_max: Duration) -> Option<Arc<GroupView>> {
        let asked = Instant::now();
        self.wanted.notify_one();
        let mut seen = self.seen.clone();
        let newer = seen.wait_for(|view| view.as_ref().is_some_and(|view| view.at >= asked));
        // Late, or there is no observer any more.
        let _ = timeout(time_max, newer).await;
        self.latest()
    }
}

/// With whether it should be replaced for its certificate.
type Client = (Arc<BaseConsumer<QuietContext>>, Renewal);

/// Asks for one group, again and again.
pub(super) struct Observer {
    brokers: Brokers,
    group: &'static str,
    topics: Vec<String>,
    database: Database,
    refusals: Refusals,
    seen: watch::Sender<Option<Arc<GroupView>>>,
    wanted: Arc<Notify>,
}

impl Observer {
    pub(super) fn new(
        brokers: &Brokers,
        group: &'static str,
        topics: &[String],
        database: &Database,
        refusals: &Refusals,
    ) -> Self {
        Self {
            brokers: brokers.clone(),
            group,
            topics: topics.to_vec(),
            database: database.clone(),
            refusals: refusals.clone(),
            seen: watch::Sender::new(None),
            wanted: Arc::default(),
        }
    }

    pub(super) fn subscribe(&self) -> ViewReceiver {
        ViewReceiver { seen: self.seen.subscribe(), wanted: self.wanted.clone() }
    }

    /// Never returns; its caller drops it.
    pub(super) async fn run(self) {
        let mut client: Option<Client> = None;
        // The positions from the last time that the database answered: they don't change while it is away.
        let mut positions = HashMap::new();
        loop {
            let began = Instant::now();
            match self.look(&mut client, &mut positions).await {
                Ok(view) => {
                    self.refusals.forget();
                    self.measure(&view);
                    self.seen.send_replace(Some(Arc::new(view)));
                }
                Err(error) => {
                    // The kafka component reports that the broker is away. A client can lose all of its brokers for
                    // good although others reach them, so the next look uses a new client.
                    client = None;
                    self.refusals.note(&error, "");
                    tracing::debug!(error = chain(&error), "cannot look at the consumer group");
                }
            }
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = self.wanted.notified() => sleep_until(began + LOOK_AGAIN_AFTER).await,
            }
        }
    }

    async fn look(
        &self,
        client: &mut Option<Client>,
        positions: &mut HashMap<Place, i64>,
    ) -> KafkaResult<GroupView> {
        if let Some((_, renewal)) = client
            && renewal.is_due()
        {
            renewal.count();
            *client = None;
        }
        let asked = if let Some((client, _)) = client {
            client.clone()
        } else {
            let renewal = self.brokers.renewal(ClientKind::Observer);
            let context = QuietContext { refusals: self.refusals.clone() };
            let fresh = Arc::new(self.brokers.observer(self.group, context)?);
            client.insert((fresh, renewal)).0.clone()
        };
        let (group, topics) = (self.group, self.topics.clone());
        let asking = tokio::task::spawn_blocking(move || ask(&asked, group, &topics));
        let mut view = asking.await.map_err(|_| KafkaError::Canceled)??;
        let loaded = positions::load_all(&self.database, self.group).await;
        for (place, partition) in &mut view.partitions {
            partition.position = match &loaded {
                Ok(loaded) => loaded.get(place).copied(),
                // As far as it was seen, or committed since then.
                Err(_) => positions.get(place).copied().max(partition.committed),
            };
        }
        match loaded {
            Ok(loaded) => *positions = loaded,
            // The database component says that the database is away.
            Err(error) => tracing::debug!(error = chain(&error), "cannot read the positions"),
        }
        Ok(view)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of records and partitions are far below 2^52")]
    fn measure(&self, view: &GroupView) {
        for topic in &self.topics {
            let lag: i64 = view
                .partitions
                .iter()
                .filter(|((of, _), _)| of == topic)
                .map(|(_, partition)| partition.lag())
                .sum();
            metrics::gauge!(crate::metric::CONSUMER_LAG_RECORDS, "topic" => topic.clone()).set(lag as f64);
        }
        metrics::gauge!(crate::metric::CONSUMER_PARTITIONS_EXPECTED).set(view.partitions.len() as f64);
        metrics::gauge!(crate::metric::CONSUMER_PARTITIONS_UNOWNED).set(view.unowned().len() as f64);
    }
}

fn ask(client: &BaseConsumer<QuietContext>, group: &str, topics: &[String]) -> KafkaResult<GroupView> {
    let at = Instant::now();
    // It reads nothing, but librdkafka reports its errors here, and they must not pile up.
    while client.poll(Duration::ZERO).is_some() {}
    let partitions = ask_partitions(client, topics)?;
    let groups = client.client().fetch_group_list(Some(group), ANSWER_TIME_MAX)?;
    let (mut state, mut owned) = ("Empty".to_owned(), BTreeSet::new());
    for found in groups.groups().iter().filter(|found| found.name() == group) {
        found.state().clone_into(&mut state);
        for member in found.members() {
            owned.extend(assigned_places(member.assignment().unwrap_or_default()));
        }
    }
    Ok(GroupView { at, state, owned, partitions })
}

/// The partitions of the topics, without the positions that the database has.
fn ask_partitions(
    client: &BaseConsumer<QuietContext>,
    topics: &[String],
) -> KafkaResult<BTreeMap<Place, PartitionView>> {
    let mut places: Vec<Place> = Vec::new();
    for topic in topics {
        let metadata = client.fetch_metadata(Some(topic), ANSWER_TIME_MAX)?;
        let refused = RDKafkaErrorCode::TopicAuthorizationFailed;
        if metadata.topics().iter().any(|topic| topic.error().map(RDKafkaErrorCode::from) == Some(refused)) {
            return Err(KafkaError::MetadataFetch(refused));
        }
        let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
        places.extend(partitions.map(|partition| (topic.clone(), partition.id())));
    }
    if places.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut list = TopicPartitionList::with_capacity(places.len());
    for (topic, partition) in &places {
        list.add_partition(topic, *partition);
    }
    let committed = client.committed_offsets(list, ANSWER_TIME_MAX)?;
    let committed: HashMap<Place, Offset> = committed
        .elements()
        .iter()
        .map(|element| ((element.topic().to_owned(), element.partition()), element.offset()))
        .collect();
    let firsts = offsets_of(client, &places, Offset::Beginning, ANSWER_TIME_MAX)?;
    let ends = offsets_of(client, &places, Offset::End, ANSWER_TIME_MAX)?;
    let mut partitions = BTreeMap::new();
    for (place, (first, end)) in places.into_iter().zip(firsts.into_iter().zip(ends)) {
        let (Some(first), Some(end)) = (first, end) else {
            return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset));
        };
        let committed = match committed.get(&place) {
            Some(Offset::Offset(offset)) => Some(*offset),
            _ => None,
        };
        partitions.insert(place, PartitionView { first, end, committed, position: None });
    }
    Ok(partitions)
}

/// The partitions in a member's assignment (Kafka's consumer protocol: version, then topics, each with its partitions;
/// big-endian). An assignment that can't be read counts as empty.
fn assigned_places(bytes: &[u8]) -> Vec<Place> {
    fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
        let (taken, after) = rest.split_at_checked(bytes)?;
        *rest = after;
        Some(taken)
    }
    fn int16(rest: &mut &[u8]) -> Option<usize> {
        let bytes = take(rest, 2)?.try_into().ok()?;
        usize::try_from(i16::from_be_bytes(bytes)).ok()
    }
    fn int32(rest: &mut &[u8]) -> Option<i32> {
        Some(i32::from_be_bytes(take(rest, 4)?.try_into().ok()?))
    }
    fn read(mut rest: &[u8], places: &mut Vec<Place>) -> Option<()> {
        int16(&mut rest)?;
        for _ in 0..int32(&mut rest)? {
            let length = int16(&mut rest)?;
            let topic = std::str::from_utf8(take(&mut rest, length)?).ok()?;
            for _ in 0..int32(&mut rest)? {
                places.push((topic.to_owned(), int32(&mut rest)?));
            }
        }
        Some(())
    }
    let mut places = Vec::new();
    // Cut short: what was read so far counts.
    let _ = read(bytes, &mut places);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen_now() -> Arc<GroupView> {
        let (state, at) = ("Stable".to_owned(), Instant::now());
        Arc::new(GroupView { at, state, owned: BTreeSet::new(), partitions: BTreeMap::new() })
    }

    /// Whoever wants a newer view has it made and waits for it, not for one that was begun before; without a broker only for so long.
    #[tokio::test(start_paused = true)]
    async fn a_newer_view_is_made_for_whoever_wants_it() {
        let (seen, wanted) = (watch::Sender::new(Some(seen_now())), Arc::<Notify>::default());
        let view = ViewReceiver { seen: seen.subscribe(), wanted: wanted.clone() };
        let begin = Instant::now();
        let waits = Duration::from_secs(1);
        tokio::time::advance(Duration::from_millis(1)).await;
        let old = view.renewed(waits).await.expect("the last one");
        assert_eq!((old.at, begin.elapsed()), (begin, waits + Duration::from_millis(1)));
        wanted.notified().await;

        let begun_before = seen_now();
        tokio::time::advance(Duration::from_millis(1)).await;
        let asks = tokio::spawn(async move { view.renewed(waits).await });
        wanted.notified().await;
        seen.send_replace(Some(begun_before));
        sleep(Duration::from_millis(1)).await;
        assert!(!asks.is_finished());
        let asked_at = Instant::now();
        seen.send_replace(Some(seen_now()));
        assert_eq!(asks.await.expect("no panic").expect("a view").at, asked_at);
    }

    /// An assignment as Kafka writes it, and any part of it, is read without a panic.
    #[test]
    fn assignments_are_read() {
        let mut bytes = vec![0, 1, 0, 0, 0, 2];
        for (topic, partitions) in [("order.created", vec![0, 3]), ("b", vec![7])] {
            bytes.extend(u16::try_from(topic.len()).expect("short").to_be_bytes());
            bytes.extend(topic.as_bytes());
            bytes.extend(u32::try_from(partitions.len()).expect("few").to_be_bytes());
            for partition in partitions {
                bytes.extend(u32::to_be_bytes(partition));
            }
        }
        bytes.extend([0xff; 4]);
        let expected =
            [("order.created".to_owned(), 0), ("order.created".to_owned(), 3), ("b".to_owned(), 7)];
        assert_eq!(assigned_places(&bytes), expected);
        for end in 0..bytes.len() {
            let _ = assigned_places(&bytes[..end]);
        }
    }

    /// The lag counts from the position that the database has; a log that ends before it is read from its start.
    #[test]
    fn lag_counts_from_the_position() {
        let view = |position, committed| PartitionView { first: 10, end: 100, committed, position };
        for (position, committed, lag) in [
            (Some(40), Some(90), 60),
            (None, Some(90), 10),
            (None, None, 90),
            (Some(5), None, 90),
            (Some(100), None, 0),
            (Some(500), None, 90),
            (Some(500), Some(500), 90),
            (Some(500), Some(95), 5),
        ] {
            assert_eq!(view(position, committed).lag(), lag, "{position:?} {committed:?}");
        }
    }
}
