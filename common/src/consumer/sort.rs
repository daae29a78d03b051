//! What happens to each record of a batch, decided without a database: the pure core of [`super::batch`].

use std::collections::{BTreeMap, HashMap};

use holdfast_proto::topic::RECORD_BYTES_MAX;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    handler::Accepted,
    inbox::{Counts, Entry, Novelty, Place, Position},
    verdict::{Class, Keep, Poison, Verdict},
};
use crate::{
    event::Metadata,
    planted::{Bug, planted},
    record::Record,
};

/// Most bytes of key, value and headers of a record that is kept. Its copy must fit the limit of the dead-letter topics
/// (2 MiB) together with our headers. A compressed batch can hold records that are far larger than the broker's limit.
pub const PARKED_BYTES_MAX: usize = RECORD_BYTES_MAX - 64 * 1024;

/// Verdicts by place: found while the batch runs, used when it runs again.
pub type Verdicts = HashMap<(Place, i64), Verdict>;

/// Whether a record was handled before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// No.
    FirstTime {
        /// Its key in the inbox.
        event_id: Uuid,
    },
    /// Yes.
    Before,
    /// Its event id belongs to a different payload: it is recorded under an id derived from its place instead.
    OtherPayload {
        /// That id.
        event_id: Uuid,
    },
}

/// A record on its way to the dead letters.
#[derive(Debug, Clone)]
pub struct NewLetter {
    /// Later ones sort later.
    pub id: Uuid,
    /// Its index in the batch.
    pub index: usize,
    /// Its key in the inbox.
    pub event_id: Uuid,
    /// Why.
    pub verdict: Verdict,
}

/// A batch, sorted.
#[derive(Debug)]
pub struct Sorted<E> {
    /// For the handler, in order.
    pub events: Vec<Accepted<E>>,
    /// Which records of the batch they are.
    pub accepted: Vec<usize>,
    /// The records to park or to set aside.
    pub letters: Vec<NewLetter>,
    /// What to add to the tally of each partition.
    pub counts: BTreeMap<Place, Counts>,
    /// Where each partition is read next.
    pub positions: HashMap<Place, Position>,
}

/// Compares the records of a batch with the payloads that the inbox has under their ids, and with one another. `known`
/// are the hashes of what was there before the batch, `entries` those of the records. The second value is the entries
/// to write for records whose id is taken.
#[expect(clippy::implicit_hasher, reason = "only our own callers")]
#[must_use]
pub fn compare(
    records: &[Record],
    entries: &[Entry],
    mut known: HashMap<Uuid, Vec<u8>>,
) -> (Vec<Seen>, Vec<Entry>) {
    let mut derived = Vec::new();
    let seen = records.iter().zip(entries).map(|(record, entry)| match known.get(&entry.event_id) {
        None => {
            known.insert(entry.event_id, entry.payload_hash.clone());
            Seen::FirstTime { event_id: entry.event_id }
        }
        Some(_) if planted(Bug::NoInbox) => Seen::FirstTime { event_id: entry.event_id },
        Some(hash) if *hash == entry.payload_hash => Seen::Before,
        Some(_) => {
            let event_id = Metadata::id_of_place(record);
            derived.push(Entry { event_id, ..entry.clone() });
            Seen::OtherPayload { event_id }
        }
    });
    (seen.collect(), derived)
}

/// Each record is a duplicate, an event for the handler, or a dead letter; each is counted once and moves the position of
/// its partition on. `blockers` are the oldest parked letters of aggregates, `check` looks at a record's form.
#[expect(clippy::implicit_hasher, reason = "only our own callers")]
pub fn sort<E>(
    records: &[Record],
    seen: &[Seen],
    positions: HashMap<Place, Position>,
    mut blockers: HashMap<String, Uuid>,
    verdicts: &Verdicts,
    check: impl Fn(&Record) -> Result<Accepted<E>, Poison>,
) -> Sorted<E> {
    let counts = records.iter().map(|record| (place_of(record), Counts::default())).collect();
    let mut sorted =
        Sorted { events: Vec::new(), accepted: Vec::new(), letters: Vec::new(), counts, positions };
    let now = OffsetDateTime::now_utc();
    for (index, (record, seen)) in records.iter().zip(seen).enumerate() {
        let place = place_of(record);
        let count = sorted.counts.entry(place.clone()).or_default();
        let position = sorted.positions.entry(place.clone()).or_default();
        let is_counted = record.offset < position.next_offset;
        let novelty = if *seen == Seen::Before { Novelty::SeenBefore } else { Novelty::FirstTime };
        position.pass(record.offset, Metadata::inbox_id(record), novelty);

        let subject = Metadata::subject_of(record);
        let found = verdicts.get(&(place, record.offset));
        let (event_id, judged) = match *seen {
            Seen::Before => {
                // Below the position: delivered again after a crash between commit and offset. It was counted before.
                count.duplicates += i64::from(!is_counted);
                continue;
            }
            Seen::OtherPayload { event_id } => {
                let poison = Poison::new(Class::SchemaViolation, "event id was used for a different payload");
                (event_id, Err(Verdict::new(poison, 1, now)))
            }
            Seen::FirstTime { event_id } => {
                let blocker = subject.and_then(|subject| blockers.get(subject)).copied();
                (event_id, judge(check(record), blocker, found, now))
            }
        };
        let mut verdict = match judged {
            Ok(event) => {
                count.applied += 1;
                sorted.events.push(event);
                sorted.accepted.push(index);
                continue;
            }
            Err(_) if planted(Bug::PoisonDropped) => {
                count.applied += 1;
                continue;
            }
            Err(verdict) => verdict,
        };
        let id = Uuid::now_v7();
        if record.size_bytes() > PARKED_BYTES_MAX || found.is_some_and(|found| found.keep == Keep::Place) {
            // Nothing waits behind it, because it can't be redriven.
            verdict = Verdict { keep: Keep::Place, blocked_by: None, ..verdict };
            count.set_aside += 1;
        } else {
            count.parked += 1;
            count.blocked += i64::from(verdict.blocked_by.is_some());
            if let Some(subject) = subject {
                blockers.entry(subject.to_owned()).or_insert(id);
            }
        }
        sorted.letters.push(NewLetter { id, index, event_id, verdict });
    }
    sorted
}

/// Whether a record goes to the handler or to the dead letters: its form first, then what it waits behind, then what was
/// found against it.
fn judge<E>(
    checked: Result<Accepted<E>, Poison>,
    blocker: Option<Uuid>,
    found: Option<&Verdict>,
    now: OffsetDateTime,
) -> Result<Accepted<E>, Verdict> {
    let accepted = checked.map_err(|poison| Verdict::new(poison, 1, now))?;
    if blocker.is_some() && !planted(Bug::BlockedNotParked) {
        let poison = Poison::new(Class::BlockedByKey, "an earlier event of the aggregate is parked");
        return Err(Verdict { blocked_by: blocker, ..Verdict::new(poison, 0, now) });
    }
    match found {
        Some(verdict) if verdict.is_final() => Err(verdict.clone()),
        _ => Ok(accepted),
    }
}

/// Where a record is.
#[must_use]
pub fn place_of(record: &Record) -> Place {
    (record.topic.clone(), record.partition)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::record::Header;

    /// The description of a test record.
    #[derive(Debug, Clone)]
    struct Sketch {
        partition: i32,
        /// Its aggregate, if its headers name one.
        subject: Option<u8>,
        /// Records that share an id and the value are deliveries of one event.
        id: u8,
        value: u8,
        is_malformed: bool,
        /// What was found against it in an earlier transaction.
        found: Option<Keep>,
    }

    fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
        let found = prop_oneof![8 => Just(None), 1 => Just(Some(Keep::Record)), 1 => Just(Some(Keep::Place))];
        let sketch = (0..3, proptest::option::weighted(0.9, 0..4u8), 0..40u8, 0..2u8, any::<u8>(), found)
            .prop_map(|(partition, subject, id, value, malformed, found)| Sketch {
                partition,
                subject,
                id,
                value,
                is_malformed: malformed < 30,
                found,
            });
        proptest::collection::vec(sketch, 1..60)
    }

    fn records(sketches: &[Sketch], begin: i64) -> Vec<Record> {
        let mut next: HashMap<i32, i64> = HashMap::new();
        let record = |sketch: &Sketch| {
            let offset = next.entry(sketch.partition).or_insert(begin);
            *offset += 1;
            let mut headers =
                vec![Header::new("ce_id", Uuid::from_u128(u128::from(sketch.id) + 1).to_string())];
            headers.extend(
                sketch.subject.map(|subject| Header::new("ce_subject", format!("aggregate-{subject}"))),
            );
            Record {
                topic: "topic".to_owned(),
                partition: sketch.partition,
                offset: *offset - 1,
                timestamp_ms: None,
                key: None,
                value: Some(Bytes::from(vec![sketch.value])),
                headers,
                headers_unreadable: sketch.is_malformed,
            }
        };
        sketches.iter().map(record).collect()
    }

    /// Checks the form of a record, without a database or a service.
    fn check(record: &Record) -> Result<Accepted<()>, Poison> {
        if record.headers_unreadable {
            return Err(Poison::new(Class::SchemaViolation, "malformed"));
        }
        let metadata = Metadata {
            id: Metadata::inbox_id(record),
            kind: record.topic.clone(),
            version: 1,
            subject: Metadata::subject_of(record).unwrap_or_default().to_owned(),
            time: OffsetDateTime::UNIX_EPOCH,
            trace: None,
        };
        Ok(Accepted { metadata, event: () })
    }

    fn entries_of(records: &[Record]) -> Vec<Entry> {
        records.iter().map(Entry::of).collect()
    }

    fn verdicts(sketches: &[Sketch], records: &[Record]) -> Verdicts {
        let found = sketches.iter().zip(records).filter_map(|(sketch, record)| {
            let verdict =
                Verdict::new(Poison::new(Class::BusinessInvariant, "refused"), 1, OffsetDateTime::UNIX_EPOCH);
            let verdict = Verdict { keep: sketch.found?, ..verdict };
            Some(((place_of(record), record.offset), verdict))
        });
        found.collect()
    }

    proptest! {
        /// Every record ends once: as a duplicate, with the handler, or as a letter; the counts agree, the positions
        /// are after the last record of each partition, and nothing overtakes a parked record of its aggregate.
        #[test]
        fn every_record_ends_once(sketches in sketches(), begin in 0..1_000_i64) {
            let records = records(&sketches, begin);
            let (seen, derived) = compare(&records, &entries_of(&records), HashMap::new());
            let sorted = sort(
                &records, &seen, HashMap::new(), HashMap::new(), &verdicts(&sketches, &records), check,
            );

            let letters: BTreeSet<usize> = sorted.letters.iter().map(|letter| letter.index).collect();
            let accepted: BTreeSet<usize> = sorted.accepted.iter().copied().collect();
            prop_assert_eq!(letters.len() + accepted.len(), sorted.letters.len() + sorted.accepted.len());
            prop_assert!(letters.is_disjoint(&accepted));
            prop_assert!(sorted.accepted.is_sorted(), "in order");
            prop_assert_eq!(sorted.events.len(), sorted.accepted.len());
            for (index, seen) in seen.iter().enumerate() {
                let ends = usize::from(letters.contains(&index)) + usize::from(accepted.contains(&index));
                prop_assert_eq!(ends, usize::from(*seen != Seen::Before));
            }
            for (place, count) in &sorted.counts {
                let of_place: Vec<_> = records.iter().filter(|record| place_of(record) == *place).collect();
                let total = count.applied + count.duplicates + count.parked + count.set_aside;
                prop_assert_eq!(total, i64::try_from(of_place.len()).expect("few"));
                let last = of_place.iter().map(|record| record.offset).max().expect("one");
                prop_assert_eq!(sorted.positions[place].next_offset, last + 1);
            }
            let mut parked = HashSet::new();
            for (index, record) in records.iter().enumerate() {
                let subject = Metadata::subject_of(record);
                if let Some(letter) = sorted.letters.iter().find(|letter| letter.index == index) {
                    if letter.verdict.keep == Keep::Record {
                        parked.extend(subject);
                    }
                } else if accepted.contains(&index) {
                    prop_assert!(subject.is_none_or(|subject| !parked.contains(subject)), "nothing overtakes");
                }
            }
            let inbox: HashSet<Uuid> = derived.iter().map(|entry| entry.event_id).collect();
            prop_assert_eq!(inbox.len(), derived.len(), "each under an id of its own");
        }

        /// A batch that is delivered again has no effects and is counted once.
        #[test]
        fn a_batch_that_is_delivered_again_changes_nothing(sketches in sketches()) {
            let records = records(&sketches, 0);
            let seen = vec![Seen::Before; records.len()];
            let first = sort(&records, &seen, HashMap::new(), HashMap::new(), &Verdicts::new(), check);
            let again = sort(&records, &seen, first.positions.clone(), HashMap::new(), &Verdicts::new(), check);
            prop_assert!(again.events.is_empty() && again.letters.is_empty());
            prop_assert_eq!(again.counts.into_values().sum::<Counts>(), Counts::default());
            prop_assert_eq!(again.positions, first.positions);
        }
    }

    /// A record that waits behind a letter says which one.
    #[test]
    fn what_waits_names_its_blocker() {
        let sketch = |id, is_malformed| Sketch {
            partition: 0,
            subject: Some(1),
            id,
            value: 0,
            is_malformed,
            found: None,
        };
        let records = records(&[sketch(1, true), sketch(2, false)], 0);
        let (seen, _) = compare(&records, &entries_of(&records), HashMap::new());
        let older = Uuid::from_u128(99);
        for (blockers, expected) in
            [(HashMap::new(), None), (HashMap::from([("aggregate-1".to_owned(), older)]), Some(older))]
        {
            let sorted = sort(&records, &seen, HashMap::new(), blockers, &Verdicts::new(), check);
            assert_eq!(sorted.letters[0].verdict.poison.class, Class::SchemaViolation);
            assert_eq!(sorted.letters[1].verdict.poison.class, Class::BlockedByKey);
            let blocker = expected.unwrap_or(sorted.letters[0].id);
            assert_eq!(sorted.letters[1].verdict.blocked_by, Some(blocker));
        }
    }
}
