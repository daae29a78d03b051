//! What pages ask of topics: which partitions, from where on, and which of their records.

use std::{collections::BTreeMap, time::Duration};

use holdfast_common::{
    event::Metadata,
    kafka::{
        partition_of,
        reader::{At, PartitionView, Place, ReadError, Reader, Retention, TopicView},
    },
    record::Record,
};
use holdfast_proto::topic;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    scan::{Limits, Scan, Span, scan},
    topics::{Deadline, NotRead},
    view::ROWS_MAX,
};

/// For a page that shows records as they are.
pub(crate) const BROWSE_TIME_MAX: Duration = Duration::from_secs(4);
/// For the same as it is watched: other pages that are watched wait for it.
pub(crate) const WATCH_TIME_MAX: Duration = Duration::from_secs(2);
/// For one that looks for some of them.
pub(crate) const SEARCH_TIME_MAX: Duration = Duration::from_secs(8);
/// Records that one search looks at.
pub(crate) const SEARCH_RECORDS_MAX: u64 = 50_000;
const SEARCH_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Records of one partition that are shown.
pub(crate) const SHOWN_MAX: usize = ROWS_MAX;
/// Of records that are kept to be shown.
const KEPT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The clock of whoever writes a record may be so far behind that of whoever has made its order's id.
const CLOCKS_DIFFER_MAX: time::Duration = time::Duration::minutes(1);

/// Which records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// That name this order, in their headers or their value.
    Order(Uuid),
    /// With this key.
    Key(String),
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// So that the newest are seen; for an order, when its id was made.
    Newest,
    Offset(i64),
    Time(OffsetDateTime),
}

/// What a page asks of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) topic: String,
    /// All of them, or for a key its own.
    pub(crate) partition: Option<i32>,
    pub(crate) start: Start,
    pub(crate) which: Which,
}

/// A partition with its offsets, which are not known without a leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) view: PartitionView,
    pub(crate) first: Option<i64>,
    pub(crate) end: Option<i64>,
}

/// A topic with the offsets of its partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicSeen {
    pub(crate) name: String,
    pub(crate) partitions: Vec<Ends>,
}

/// What a topic has of what was asked for.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) topic: TopicSeen,
    pub(crate) scan: Scan,
}

impl TopicSeen {
    /// Its partitions that can't be read now.
    pub(crate) fn without_leader(&self) -> impl Iterator<Item = String> {
        let leaderless = self.partitions.iter().filter(|one| one.end.is_none());
        leaderless.map(|one| format!("Kafka: {} partition {} has no leader", self.name, one.view.number))
    }
}

/// What there is of an order.
#[derive(Debug, Default)]
pub(crate) struct OrderSeen {
    pub(crate) scan: Scan,
    /// Why something was not looked at.
    pub(crate) missing: Vec<String>,
}

/// All topics, and how long they keep what they have.
pub(crate) fn overview(
    reader: &Reader,
    deadline: Deadline,
) -> Result<(Vec<TopicSeen>, BTreeMap<String, Retention>), NotRead> {
    let topics = reader.topics(deadline.left())?;
    let names: Vec<String> = topics.iter().map(|topic| topic.name.clone()).collect();
    let seen = ends(reader, deadline, topics)?;
    Ok((seen, reader.retention(&names, deadline.left())?))
}

/// What a topic has of what is asked for.
pub(crate) fn look(reader: &Reader, deadline: Deadline, question: &Question) -> Result<Seen, NotRead> {
    let topic = topic_of(reader, deadline, &question.topic)?;
    let partition = match (&question.which, question.partition) {
        (Which::Key(key), None) => {
            partition_of(key.as_bytes(), i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX))
        }
        (_, partition) => partition,
    };
    let asked = TopicSeen {
        name: topic.name.clone(),
        partitions: topic.partitions.iter().copied().filter(|one| is_or_any(one, partition)).collect(),
    };
    if asked.partitions.is_empty() {
        return Err(NotRead::NotThere("there is no such partition".to_owned()));
    }
    let spans = spans(reader, deadline, &[asked], question.start, &question.which)?;
    let scan = wanted(reader, deadline.left(), spans, &question.which)?;
    Ok(Seen { topic, scan })
}

/// One record, and the offsets of its partition.
pub(crate) fn record(
    reader: &Reader,
    deadline: Deadline,
    (topic, partition): &Place,
    offset: i64,
) -> Result<(Record, i64, i64), NotRead> {
    let topic = topic_of(reader, deadline, topic)?;
    let found = topic.partitions.iter().find(|one| one.view.number == *partition);
    let Some(ends) = found else {
        return Err(NotRead::NotThere("there is no such partition".to_owned()));
    };
    let (Some(first), Some(end)) = (ends.first, ends.end) else {
        return Err(NotRead::Failed("Kafka: the partition has no leader".to_owned()));
    };
    if !(first..end).contains(&offset) {
        return Err(NotRead::NotThere(format!("the partition has the offsets from {first} to before {end}")));
    }
    let span = Span { place: (topic.name, *partition), first, from: offset, end: offset + 1 };
    let mut scan = wanted(reader, deadline.left(), vec![span], &Which::All)?;
    match (scan.found.pop(), scan.looked.first().map(|looked| looked.next > offset)) {
        (Some(record), _) => Ok((record, first, end)),
        (None, Some(true)) => Err(NotRead::NotThere(
            "no record has this offset: it was taken out of the log, or is Kafka's own".to_owned(),
        )),
        (None, _) => Err(NotRead::Failed("Kafka did not send the record in time".to_owned())),
    }
}

/// What all topics of ours have of an order. Its events have one key, so once the first of them is found only the key's partitions are
/// looked through.
pub(crate) fn order(reader: &Reader, deadline: Deadline, id: Uuid) -> Result<OrderSeen, NotRead> {
    let topics = reader.topics(deadline.left())?;
    let ours = topics.into_iter().filter(|topic| is_ours(&topic.name)).collect();
    let mut topics = ends(reader, deadline, ours)?;
    let which = Which::Order(id);
    if let Some(key) = key_of(reader, deadline, &topics, id)? {
        for topic in &mut topics {
            let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            let own = partition_of(&key, partitions);
            topic.partitions.retain(|one| is_or_any(one, own));
        }
    }
    let missing = topics.iter().flat_map(TopicSeen::without_leader).collect();
    let spans = spans(reader, deadline, &topics, Start::Newest, &which)?;
    Ok(OrderSeen { scan: wanted(reader, deadline.left(), spans, &which)?, missing })
}

/// The key of an order's events, if it is found within half of what is left.
fn key_of(
    reader: &Reader,
    deadline: Deadline,
    topics: &[TopicSeen],
    id: Uuid,
) -> Result<Option<Vec<u8>>, NotRead> {
    let which = Which::Order(id);
    let created: Vec<_> = topics.iter().filter(|topic| topic.name == topic::ORDER_CREATED).cloned().collect();
    let spans = spans(reader, deadline, &created, Start::Newest, &which)?;
    let limits = Limits {
        records: SEARCH_RECORDS_MAX,
        bytes: SEARCH_BYTES_MAX,
        found_of_each: 1,
        found_of_all: 1,
        found_bytes: KEPT_BYTES_MAX,
        time: deadline.left() / 2,
    };
    let found = scan(&mut &*reader, spans, |record| is_wanted(record, &which), &limits)?.found;
    Ok(found.into_iter().next().and_then(|record| record.key).map(|key| key.to_vec()))
}

/// Whether the contract names the topic.
pub(crate) fn is_ours(name: &str) -> bool {
    topic::event_of(name).is_some() || topic::copied_from(name).is_some()
}

fn is_or_any(ends: &Ends, partition: Option<i32>) -> bool {
    partition.is_none_or(|partition| ends.view.number == partition)
}

fn topic_of(reader: &Reader, deadline: Deadline, name: &str) -> Result<TopicSeen, NotRead> {
    let mut topics = reader.topics(deadline.left())?;
    topics.retain(|topic| topic.name == name);
    let mut seen = ends(reader, deadline, topics)?;
    seen.pop().ok_or_else(|| NotRead::NotThere("there is no such topic".to_owned()))
}

fn ends(reader: &Reader, deadline: Deadline, topics: Vec<TopicView>) -> Result<Vec<TopicSeen>, ReadError> {
    let of_topic = |topic: &TopicView| {
        let led = topic.partitions.iter().filter(|partition| partition.leader.is_some());
        led.map(|partition| (topic.name.clone(), partition.number)).collect::<Vec<_>>()
    };
    let places: Vec<Place> = topics.iter().flat_map(of_topic).collect();
    let ask = |at| -> Result<BTreeMap<&Place, Option<i64>>, ReadError> {
        Ok(places.iter().zip(reader.offsets(&places, at, deadline.left())?).collect())
    };
    let (firsts, ends) = (ask(At::First)?, ask(At::End)?);
    let of = |offsets: &BTreeMap<&Place, Option<i64>>, place: &Place| offsets.get(place).copied().flatten();
    let seen = topics.into_iter().map(|TopicView { name, partitions }| {
        let partitions = partitions.into_iter().map(|view| {
            let place = (name.clone(), view.number);
            Ends { view, first: of(&firsts, &place), end: of(&ends, &place) }
        });
        TopicSeen { partitions: partitions.collect(), name }
    });
    Ok(seen.collect())
}

/// What is to be looked through of these partitions.
fn spans(
    reader: &Reader,
    deadline: Deadline,
    topics: &[TopicSeen],
    start: Start,
    which: &Which,
) -> Result<Vec<Span>, NotRead> {
    let mut spans = Vec::new();
    for topic in topics {
        for ends in &topic.partitions {
            if let (Some(first), Some(end)) = (ends.first, ends.end) {
                spans.push(Span { place: (topic.name.clone(), ends.view.number), first, from: first, end });
            }
        }
    }
    let Some(time) = start_time(start, which) else {
        for span in &mut spans {
            span.from = start_offset(start, which, span.first, span.end);
        }
        return Ok(spans);
    };
    let places: Vec<Place> = spans.iter().map(|span| span.place.clone()).collect();
    let ms = i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
    for (span, offset) in spans.iter_mut().zip(reader.offsets(&places, At::Time(ms), deadline.left())?) {
        span.from = offset.unwrap_or(span.end).clamp(span.first, span.end.max(span.first));
    }
    Ok(spans)
}

/// The time at which to begin, if it is a time.
fn start_time(start: Start, which: &Which) -> Option<OffsetDateTime> {
    match (start, which) {
        (Start::Time(time), _) => Some(time),
        (Start::Newest, Which::Order(id)) => made_at(*id)?.checked_sub(CLOCKS_DIFFER_MAX),
        _ => None,
    }
}

/// When an id of version 7 was made, as those of orders are.
fn made_at(id: Uuid) -> Option<OffsetDateTime> {
    let (seconds, _) = id.get_timestamp().filter(|_| id.get_version_num() == 7)?.to_unix();
    OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
}

/// The offset at which to begin.
fn start_offset(start: Start, which: &Which, first: i64, end: i64) -> i64 {
    let newest = match which {
        Which::All => i64::try_from(SHOWN_MAX),
        Which::Order(_) | Which::Key(_) => i64::try_from(SEARCH_RECORDS_MAX),
    };
    let from = match start {
        Start::Offset(offset) => offset,
        Start::Newest | Start::Time(_) => end.saturating_sub(newest.unwrap_or(i64::MAX)),
    };
    from.clamp(first, end.max(first))
}

fn wanted(reader: &Reader, time: Duration, spans: Vec<Span>, which: &Which) -> Result<Scan, NotRead> {
    let records = match which {
        Which::All => (SHOWN_MAX * spans.len().max(1)) as u64,
        Which::Order(_) | Which::Key(_) => SEARCH_RECORDS_MAX,
    };
    let limits = Limits {
        records,
        bytes: SEARCH_BYTES_MAX,
        found_of_each: SHOWN_MAX,
        found_of_all: usize::MAX,
        found_bytes: KEPT_BYTES_MAX,
        time,
    };
    Ok(scan(&mut &*reader, spans, |record| is_wanted(record, which), &limits)?)
}

fn is_wanted(record: &Record, which: &Which) -> bool {
    match which {
        Which::All => true,
        Which::Key(key) => record.key.as_deref() == Some(key.as_bytes()),
        Which::Order(id) => {
            let id = id.to_string();
            let id = id.as_bytes();
            Metadata::subject_of(record).is_some_and(|subject| subject.as_bytes() == id)
                || record.value.as_deref().is_some_and(|value| value.windows(id.len()).any(|part| part == id))
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_common::record::Header;

    use super::*;

    /// An order's id says from when on its events are looked for; any other id does not.
    #[test]
    fn an_order_is_looked_for_from_its_beginning() {
        let id = Uuid::try_parse("01a21184-8763-7214-acea-bb1c3b689082").expect("an id");
        let began = made_at(id).expect("a time");
        assert_eq!(began.unix_timestamp(), 0x01a2_1184_8763 / 1_000);
        let start = start_time(Start::Newest, &Which::Order(id)).expect("a time");
        assert_eq!(began - start, CLOCKS_DIFFER_MAX);
        assert_eq!(start_time(Start::Offset(7), &Which::Order(id)), None);
        for other in ["0-0", "00000000-0000-4000-8000-000000000000"] {
            assert_eq!(Uuid::try_parse(other).ok().and_then(made_at), None, "{other}");
        }
    }

    /// Whatever offset is asked for, it begins within what the partition has, and the newest are as many as are shown or looked at.
    #[test]
    fn it_begins_within_the_partition() {
        let key = Which::Key("k".to_owned());
        for (start, which, first, end, from) in [
            (Start::Newest, &Which::All, 0, 1_000, 950),
            (Start::Newest, &Which::All, 980, 1_000, 980),
            (Start::Newest, &key, 0, 1_000_000, 950_000),
            (Start::Offset(7), &Which::All, 0, 1_000, 7),
            (Start::Offset(7), &Which::All, 10, 1_000, 10),
            (Start::Offset(i64::MAX), &key, 10, 1_000, 1_000),
            (Start::Newest, &key, 10, 10, 10),
        ] {
            assert_eq!(start_offset(start, which, first, end), from, "{start:?} {which:?} {first} {end}");
        }
    }

    /// An order is found by the header of its events, and by its id in the value of what is no event; a key by itself alone.
    #[test]
    fn an_order_is_found_by_header_or_value() {
        let id = Uuid::from_u128(7);
        let order = Which::Order(id);
        let record = |subject: &str, value: &str, key: &str| Record {
            headers: vec![Header::new("ce_subject", subject.to_owned())],
            value: Some(value.to_owned().into()),
            key: Some(key.to_owned().into()),
            ..Record::default()
        };
        assert!(is_wanted(&record(&id.to_string(), "", ""), &order));
        assert!(is_wanted(&record("", &format!("\u{1}{id}\u{2}"), ""), &order));
        assert!(!is_wanted(&record("", "", &id.to_string()), &order));
        assert!(!is_wanted(&Record::default(), &order));
        let key = Which::Key("alice".to_owned());
        assert!(is_wanted(&record("", "", "alice"), &key));
        assert!(!is_wanted(&record("", "", "alice2"), &key) && !is_wanted(&Record::default(), &key));
    }
}
