//! Looks records of partitions through, all at once, within limits; says how far it looked. It knows no broker.

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

/// Of a whole scan. Partitions have equal shares; what some of them leave over is shared among those that have more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// That are looked at.
    pub(crate) records: u64,
    /// Of what is looked at.
    pub(crate) bytes: u64,
    /// That are kept of one partition.
    pub(crate) found_of_each: usize,
    /// That are kept in all: nothing is looked at once there are so many.
    pub(crate) found_of_all: usize,
    /// Of what is kept, but for one record of each partition.
    pub(crate) found_bytes: u64,
    pub(crate) time: Duration,
}

/// How often what is left over is shared again.
const ROUNDS_MAX: usize = 4;
/// Whoever may be at its end, and is not heard for so long, is looked through alone.
const QUIET_TIME: Duration = Duration::from_millis(50);

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
    /// These partitions from these offsets on, and nothing else.
    fn begin(&mut self, places: &[(Place, i64)]) -> Result<(), ReadError>;
    /// No more of this one.
    fn leave(&mut self, place: &Place) -> Result<(), ReadError>;
    fn next(&mut self, time_max: Duration) -> Result<Next, ReadError>;
    fn end(&mut self) -> Result<(), ReadError>;
    fn now(&self) -> Instant;
}

impl Source for &Reader {
    fn begin(&mut self, places: &[(Place, i64)]) -> Result<(), ReadError> {
        Reader::begin(self, places)
    }

    fn leave(&mut self, place: &Place) -> Result<(), ReadError> {
        Reader::leave(self, place)
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

/// Of records, of bytes that are looked at, and of bytes that are kept: what is left, a share of it, or what was used.
#[derive(Debug, Clone, Copy, Default)]
struct Amount {
    records: u64,
    bytes: u64,
    found_bytes: u64,
}

impl Amount {
    fn is_used_up(&self) -> bool {
        self.records == 0 || self.bytes == 0 || self.found_bytes == 0
    }

    /// For one of so many partitions; something is seen of each.
    fn share(&self, partitions: usize) -> Self {
        let of = |all: u64| (all / partitions.max(1) as u64).max(1);
        Self { records: of(self.records), bytes: of(self.bytes), found_bytes: of(self.found_bytes) }
    }

    fn subtract(&mut self, used: &Self) {
        self.records = self.records.saturating_sub(used.records);
        self.bytes = self.bytes.saturating_sub(used.bytes);
        self.found_bytes = self.found_bytes.saturating_sub(used.found_bytes);
    }
}

/// Whether a partition is looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Now.
    Reading,
    /// Now; it may be at its end.
    Quiet,
    /// Again, if something is left over.
    Share,
    /// Later, when nothing else is.
    Alone,
    Over,
}

/// A partition while it is looked through.
struct Looking {
    looked: Looked,
    found: Vec<Record>,
    used: Amount,
    state: State,
}

impl Looking {
    fn at(span: Span) -> Self {
        let state = if span.from < span.end { State::Share } else { State::Over };
        let looked = Looked { next: span.from, span, records: 0, found: 0, stop: Stop::End };
        Self { looked, found: Vec::new(), used: Amount::default(), state }
    }

    fn is_read(&self) -> bool {
        matches!(self.state, State::Reading | State::Quiet)
    }

    fn stop(&mut self, state: State, stop: Stop) {
        (self.state, self.looked.stop) = (state, stop);
    }

    /// All of it was seen.
    fn ends(&mut self) {
        self.looked.next = self.looked.span.end;
        self.stop(State::Over, Stop::End);
    }

    /// Whether the record is one that comes next; another one was asked for before.
    fn awaits(&self, record: &Record) -> bool {
        let (topic, partition) = &self.looked.span.place;
        self.is_read()
            && record.partition == *partition
            && record.offset >= self.looked.next
            && record.topic == *topic
    }

    /// Looks at a record.
    fn take(&mut self, record: Record, is_wanted: bool, share: &Amount, found_max: usize) {
        self.state = State::Reading;
        let looked = &mut self.looked;
        if record.offset >= looked.span.end {
            return self.ends();
        }
        let bytes = record.size_bytes() as u64;
        looked.next = record.offset + 1;
        looked.records += 1;
        self.used.records += 1;
        self.used.bytes += bytes;
        if is_wanted {
            looked.found += 1;
            self.used.found_bytes += bytes;
            self.found.push(record);
        }
        if looked.next >= looked.span.end {
            self.ends();
        } else if looked.found >= found_max {
            self.stop(State::Over, Stop::Found);
        } else if self.used.records >= share.records {
            self.stop(State::Share, Stop::Records);
        } else if self.used.bytes >= share.bytes {
            self.stop(State::Share, Stop::Bytes);
        } else if self.used.found_bytes >= share.found_bytes {
            self.stop(State::Share, Stop::Found);
        }
    }
}

/// Keeps what is wanted of these spans, of which some may have no records.
pub(crate) fn scan(
    source: &mut impl Source,
    spans: Vec<Span>,
    mut wanted: impl FnMut(&Record) -> bool,
    limits: &Limits,
) -> Result<Scan, ReadError> {
    let mut all: Vec<Looking> = spans.into_iter().map(Looking::at).collect();
    let until = source.now() + limits.time;
    let mut left = Amount { records: limits.records, bytes: limits.bytes, found_bytes: limits.found_bytes };
    for _ in 0..ROUNDS_MAX {
        let open = open(&mut all, State::Share);
        if open.is_empty() || left.is_used_up() {
            break;
        }
        let share = left.share(open.len());
        Round { open, share, limits }.read(source, until, &mut wanted, &mut left)?;
    }
    // These are few, if any: the end of a log was taken away meanwhile.
    let mut rest = u32::try_from(open(&mut all, State::Alone).len()).unwrap_or(u32::MAX);
    while let Some(alone) = open(&mut all, State::Alone).into_iter().next() {
        let now = source.now();
        let until = now + until.saturating_duration_since(now) / rest.max(1);
        let share = left.share(rest as usize);
        Round { open: vec![alone], share, limits }.read(source, until, &mut wanted, &mut left)?;
        rest = rest.saturating_sub(1);
    }
    source.end()?;
    let mut scan = Scan::default();
    for looking in all {
        scan.found.extend(looking.found);
        scan.looked.push(looking.looked);
    }
    Ok(scan)
}

fn open(all: &mut [Looking], state: State) -> Vec<&mut Looking> {
    all.iter_mut().filter(|looking| looking.state == state).collect()
}

/// Partitions that are read together.
struct Round<'a> {
    open: Vec<&'a mut Looking>,
    share: Amount,
    limits: &'a Limits,
}

impl Round<'_> {
    fn read(
        mut self,
        source: &mut impl Source,
        until: Instant,
        wanted: &mut impl FnMut(&Record) -> bool,
        left: &mut Amount,
    ) -> Result<(), ReadError> {
        let begin = |looking: &&mut Looking| (looking.looked.span.place.clone(), looking.looked.next);
        let places: Vec<(Place, i64)> = self.open.iter().map(begin).collect();
        for looking in &mut self.open {
            (looking.state, looking.used) = (State::Reading, Amount::default());
        }
        source.begin(&places)?;
        let mut found = 0;
        while self.open.iter().any(|looking| looking.is_read()) {
            let now = source.now();
            if now >= until || found >= self.limits.found_of_all {
                self.stop_all(if now >= until { Stop::Time } else { Stop::Found });
                break;
            }
            let is_quiet = self.open.iter().any(|looking| looking.state == State::Quiet);
            let time_max = until.saturating_duration_since(now);
            match source.next(if is_quiet { time_max.min(QUIET_TIME) } else { time_max })? {
                Next::Nothing => self.leave_quiet_ones_alone(),
                Next::End(partition) => self.end(partition),
                Next::Record(record) => {
                    // Of what was asked for before, or of one that has had its share.
                    let Some(looking) = self.open.iter_mut().find(|looking| looking.awaits(&record)) else {
                        continue;
                    };
                    let is_wanted = record.offset < looking.looked.span.end && wanted(&record);
                    found += usize::from(is_wanted);
                    looking.take(*record, is_wanted, &self.share, self.limits.found_of_each);
                    // Others may be read for long, and it may get new records meanwhile.
                    if !looking.is_read() {
                        source.leave(&looking.looked.span.place)?;
                    }
                }
            }
        }
        self.open.iter().for_each(|looking| left.subtract(&looking.used));
        Ok(())
    }

    fn stop_all(&mut self, stop: Stop) {
        for looking in self.open.iter_mut().filter(|looking| looking.is_read()) {
            looking.stop(State::Over, stop);
        }
    }

    /// A partition with this number has no record yet. Of which topic is not said: if there are several of this number, it may be one
    /// that has ended before.
    fn end(&mut self, partition: i32) {
        let is_it = |looking: &Looking| looking.looked.span.place.1 == partition;
        let is_one = self.open.iter().filter(|looking| is_it(looking)).count() == 1;
        for looking in self.open.iter_mut().filter(|looking| is_it(looking) && looking.is_read()) {
            if is_one {
                looking.ends();
            } else {
                looking.state = State::Quiet;
            }
        }
    }

    fn leave_quiet_ones_alone(&mut self) {
        for looking in self.open.iter_mut().filter(|looking| looking.state == State::Quiet) {
            looking.stop(State::Alone, Stop::Time);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, VecDeque};

    use super::*;

    /// Partitions in memory, read in turns; each record takes a millisecond.
    struct Partitions {
        records: HashMap<Place, Vec<Record>>,
        reading: VecDeque<(Place, usize)>,
        now: Instant,
        stalls: bool,
    }

    fn place(partition: i32) -> Place {
        ("t".to_owned(), partition)
    }

    impl Partitions {
        fn of(records: &[i64]) -> Self {
            let mut partitions = Self {
                records: HashMap::new(),
                reading: VecDeque::new(),
                now: Instant::now(),
                stalls: false,
            };
            for (partition, count) in (0..).zip(records) {
                partitions.add("t", partition, *count);
            }
            partitions
        }

        fn add(&mut self, topic: &str, partition: i32, count: i64) {
            let record = |offset| Record {
                topic: topic.to_owned(),
                partition,
                offset,
                value: Some(vec![0; 100].into()),
                ..Record::default()
            };
            self.records.insert((topic.to_owned(), partition), (0..count).map(record).collect());
        }
    }

    impl Source for Partitions {
        fn begin(&mut self, places: &[(Place, i64)]) -> Result<(), ReadError> {
            let begin = |(place, offset): &(Place, i64)| {
                (place.clone(), usize::try_from(*offset).expect("an offset"))
            };
            self.reading = places.iter().map(begin).collect();
            Ok(())
        }

        fn leave(&mut self, place: &Place) -> Result<(), ReadError> {
            self.reading.retain(|(reading, _)| reading != place);
            Ok(())
        }

        fn next(&mut self, time_max: Duration) -> Result<Next, ReadError> {
            let next = self.reading.pop_front().filter(|_| !self.stalls);
            let Some((place, at)) = next else {
                self.now += time_max;
                return Ok(Next::Nothing);
            };
            self.now += Duration::from_millis(1);
            // The end is said once.
            let Some(record) = self.records[&place].get(at).cloned() else { return Ok(Next::End(place.1)) };
            self.reading.push_back((place, at + 1));
            Ok(Next::Record(Box::new(record)))
        }

        fn end(&mut self) -> Result<(), ReadError> {
            self.reading.clear();
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
        found_of_each: 10_000,
        found_of_all: usize::MAX,
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
        assert!(partitions.reading.is_empty(), "nothing is read any more");
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
        assert_eq!(of(&Limits { found_of_all: 7, ..LIMITS }), (7, Stop::Found, 7));
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

    /// Whose end it is that was reached is not said: of several partitions with one number none is taken to be at its end before it is
    /// known to be.
    #[test]
    fn an_end_is_not_taken_for_that_of_another() {
        let mut partitions = Partitions::of(&[]);
        // The log of the first ends before it should, and the second has its end where it should be.
        for (topic, count) in [("cut", 2), ("whole", 4), ("long", 9)] {
            partitions.add(topic, 5, count);
        }
        let span = |topic: &str, end| Span { place: (topic.to_owned(), 5), first: 0, from: 0, end };
        let spans = vec![span("cut", 20), span("whole", 4), span("long", 9)];
        let scan = scan(&mut partitions, spans, |_| true, &LIMITS).expect("read");
        assert_eq!(stops(&scan), [(20, Stop::End), (4, Stop::End), (9, Stop::End)]);
        assert_eq!(scan.looked.iter().map(|looked| looked.found).collect::<Vec<_>>(), [2, 4, 9]);
        assert_eq!(scan.found.len(), 15);
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
