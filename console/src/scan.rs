//! Looks records of partitions through, one partition after the other, within limits; says how far it looked. It knows no broker.

use std::time::{Duration, Instant};

use holdfast_common::{
    kafka::reader::{Next, Place, ReadError, Reader},
    record::Record,
};

/// What is looked through: the records of a partition from one offset to before another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) place: Place,
    /// The oldest offset that there is, for whoever wants to look further back.
    pub(crate) first: i64,
    pub(crate) from: i64,
    pub(crate) end: i64,
}

/// Of a whole scan. A partition has its share of what those before it have left over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// That are looked at.
    pub(crate) records: u64,
    /// Of what is looked at.
    pub(crate) bytes: u64,
    /// That are kept of one partition.
    pub(crate) found_of_each: usize,
    /// Of what is kept, but for one record.
    pub(crate) found_bytes: u64,
    pub(crate) time: Duration,
}

/// Why no more of a partition was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There is no more.
    End,
    Records,
    Bytes,
    Found,
    Time,
}

/// How far a partition was looked through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Looked {
    pub(crate) span: Span,
    /// The first offset that was not looked at.
    pub(crate) next: i64,
    pub(crate) records: u64,
    pub(crate) found: usize,
    pub(crate) stop: Stop,
}

/// What was found, as the partitions have it, and how far was looked for it.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) found: Vec<Record>,
    pub(crate) looked: Vec<Looked>,
}

/// Where records come from.
pub(crate) trait Source {
    fn begin(&mut self, place: &Place, offset: i64) -> Result<(), ReadError>;
    fn next(&mut self, time_max: Duration) -> Result<Next, ReadError>;
    fn end(&mut self) -> Result<(), ReadError>;
    fn now(&self) -> Instant;
}

impl Source for &Reader {
    fn begin(&mut self, place: &Place, offset: i64) -> Result<(), ReadError> {
        Reader::begin(self, place, offset)
    }

    fn next(&mut self, time_max: Duration) -> Result<Next, ReadError> {
        Reader::next(self, time_max)
    }

    fn end(&mut self) -> Result<(), ReadError> {
        Reader::end(self)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// What of the limits is left.
struct Left {
    records: u64,
    bytes: u64,
    found_bytes: u64,
    until: Instant,
}

impl Left {
    /// For one of so many partitions.
    fn share(&self, partitions: usize, now: Instant) -> Self {
        let partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
        let of = |all: u64| all / u64::from(partitions);
        Self {
            // Something is seen of each.
            records: of(self.records).max(1),
            bytes: of(self.bytes).max(1),
            found_bytes: of(self.found_bytes).max(1),
            until: now + self.until.saturating_duration_since(now) / partitions,
        }
    }
}

/// Keeps what is wanted of these spans, which are not empty in number but may be in records.
pub(crate) fn scan(
    source: &mut impl Source,
    spans: Vec<Span>,
    mut wanted: impl FnMut(&Record) -> bool,
    limits: &Limits,
) -> Result<Scan, ReadError> {
    let mut left = Left {
        records: limits.records,
        bytes: limits.bytes,
        found_bytes: limits.found_bytes,
        until: source.now() + limits.time,
    };
    let mut scan = Scan::default();
    let mut rest = spans.len();
    for span in spans {
        let share = left.share(rest, source.now());
        let (used, looked) = look(source, span, &mut wanted, &share, limits.found_of_each, &mut scan.found)?;
        left.records = left.records.saturating_sub(looked.records);
        left.bytes = left.bytes.saturating_sub(used.bytes);
        left.found_bytes = left.found_bytes.saturating_sub(used.found_bytes);
        scan.looked.push(looked);
        rest -= 1;
    }
    source.end()?;
    Ok(scan)
}

#[derive(Default)]
struct Used {
    bytes: u64,
    found_bytes: u64,
}

fn look(
    source: &mut impl Source,
    span: Span,
    wanted: &mut impl FnMut(&Record) -> bool,
    share: &Left,
    found_max: usize,
    found: &mut Vec<Record>,
) -> Result<(Used, Looked), ReadError> {
    let mut used = Used::default();
    let mut looked = Looked { next: span.from, span, records: 0, found: 0, stop: Stop::End };
    if looked.next < looked.span.end {
        source.begin(&looked.span.place, looked.span.from)?;
    }
    while looked.next < looked.span.end {
        let stop = [
            (looked.records >= share.records, Stop::Records),
            (used.bytes >= share.bytes, Stop::Bytes),
            (looked.found >= found_max || used.found_bytes >= share.found_bytes, Stop::Found),
            (source.now() >= share.until, Stop::Time),
        ];
        if let Some((_, stop)) = stop.into_iter().find(|(is_reached, _)| *is_reached) {
            looked.stop = stop;
            break;
        }
        match source.next(share.until.saturating_duration_since(source.now()))? {
            Next::Nothing => {}
            Next::End => looked.next = looked.span.end,
            // Of what was asked for before, or newer than what was asked for.
            Next::Record(record) if !is_of(&record, &looked) => {}
            Next::Record(record) if record.offset >= looked.span.end => looked.next = looked.span.end,
            Next::Record(record) => {
                let bytes = record.size_bytes() as u64;
                looked.next = record.offset + 1;
                looked.records += 1;
                used.bytes += bytes;
                if wanted(&record) {
                    looked.found += 1;
                    used.found_bytes += bytes;
                    found.push(*record);
                }
            }
        }
    }
    Ok((used, looked))
}

fn is_of(record: &Record, looked: &Looked) -> bool {
    let (topic, partition) = &looked.span.place;
    record.topic == *topic && record.partition == *partition && record.offset >= looked.next
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Partitions in memory; each record takes a millisecond.
    struct Partitions {
        records: HashMap<Place, Vec<Record>>,
        reading: Option<(Place, usize)>,
        now: Instant,
        stalls: bool,
    }

    fn place(partition: i32) -> Place {
        ("t".to_owned(), partition)
    }

    impl Partitions {
        fn of(records: &[i64]) -> Self {
            let of = |(partition, count): (usize, &i64)| {
                let partition = i32::try_from(partition).expect("few");
                let record = |offset| Record {
                    topic: "t".to_owned(),
                    partition,
                    offset,
                    value: Some(vec![0; 100].into()),
                    ..Record::default()
                };
                (place(partition), (0..*count).map(record).collect())
            };
            let records = records.iter().enumerate().map(of).collect();
            Self { records, reading: None, now: Instant::now(), stalls: false }
        }
    }

    impl Source for Partitions {
        fn begin(&mut self, place: &Place, offset: i64) -> Result<(), ReadError> {
            self.reading = Some((place.clone(), usize::try_from(offset).expect("an offset")));
            Ok(())
        }

        fn next(&mut self, time_max: Duration) -> Result<Next, ReadError> {
            if self.stalls {
                self.now += time_max;
                return Ok(Next::Nothing);
            }
            self.now += Duration::from_millis(1);
            let (place, at) = self.reading.as_mut().expect("begun");
            let record = self.records[place].get(*at).cloned();
            *at += 1;
            Ok(record.map_or(Next::End, |record| Next::Record(Box::new(record))))
        }

        fn end(&mut self) -> Result<(), ReadError> {
            self.reading = None;
            Ok(())
        }

        fn now(&self) -> Instant {
            self.now
        }
    }

    fn span(partition: i32, from: i64, end: i64) -> Span {
        Span { place: place(partition), first: 0, from, end }
    }

    const LIMITS: Limits = Limits {
        records: 1_000,
        bytes: 1_000_000,
        found_of_each: 1_000,
        found_bytes: 1_000_000,
        time: Duration::from_secs(10),
    };

    fn stops(scan: &Scan) -> Vec<(i64, Stop)> {
        scan.looked.iter().map(|looked| (looked.next, looked.stop)).collect()
    }

    /// All of it is looked through where there is room, and nothing that came later; what is kept is what was wanted.
    #[test]
    fn all_is_looked_through() {
        let spans = vec![span(0, 10, 20), span(1, 0, 0), span(2, 5, 9)];
        let mut partitions = Partitions::of(&[30, 0, 7]);
        let scan = scan(&mut partitions, spans, |record| record.offset % 2 == 0, &LIMITS).expect("read");
        // The last one ends before it should: what was there was taken away meanwhile.
        assert_eq!(stops(&scan), [(20, Stop::End), (0, Stop::End), (9, Stop::End)]);
        let found: Vec<_> = scan.found.iter().map(|record| (record.partition, record.offset)).collect();
        assert_eq!(found, [(0, 10), (0, 12), (0, 14), (0, 16), (0, 18), (2, 6)]);
        assert!(partitions.reading.is_none(), "nothing is read any more");
    }

    /// Each limit stops it, says which one did, and where it would go on.
    #[test]
    fn a_scan_stops_at_its_limits() {
        let of = |limits: &Limits| {
            let scan = scan(&mut Partitions::of(&[5_000]), vec![span(0, 0, 5_000)], |_| true, limits);
            let scan = scan.expect("read");
            (scan.looked[0].next, scan.looked[0].stop, scan.found.len())
        };
        assert_eq!(of(&LIMITS), (1_000, Stop::Records, 1_000));
        assert_eq!(of(&Limits { bytes: 250, ..LIMITS }), (3, Stop::Bytes, 3));
        assert_eq!(of(&Limits { found_of_each: 50, ..LIMITS }), (50, Stop::Found, 50));
        assert_eq!(of(&Limits { found_bytes: 1, ..LIMITS }), (1, Stop::Found, 1));
        assert_eq!(of(&Limits { time: Duration::from_millis(20), ..LIMITS }), (20, Stop::Time, 20));
    }

    /// A partition takes no more than its share, and what it leaves over is for those after it.
    #[test]
    fn partitions_share_the_limits() {
        let spans = vec![span(0, 0, 10), span(1, 0, 5_000), span(2, 0, 5_000)];
        let scan = scan(&mut Partitions::of(&[10, 5_000, 5_000]), spans, |_| false, &LIMITS).expect("read");
        assert_eq!(stops(&scan), [(10, Stop::End), (495, Stop::Records), (495, Stop::Records)]);
        assert!(scan.found.is_empty());
    }

    /// A broker that is not heard ends it in time, with what there is: nothing.
    #[test]
    fn a_broker_that_stalls_ends_it_in_time() {
        let mut partitions = Partitions { stalls: true, ..Partitions::of(&[10, 10]) };
        let began = partitions.now;
        let scan =
            scan(&mut partitions, vec![span(0, 3, 10), span(1, 0, 10)], |_| true, &LIMITS).expect("read");
        assert_eq!(stops(&scan), [(3, Stop::Time), (0, Stop::Time)]);
        assert_eq!(partitions.now - began, LIMITS.time);
    }
}
