//! The tables that the library keeps in each service's database, in memory. A transaction is one that changes them at
//! once, or not at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use holdfast_common::{
    consumer::pure::{Counts, Entry, Keep, NewLetter, Place, Position},
    dead_letter::{Edited, Letter, State},
    event::Metadata,
    outbox::OutboxRecord,
    record::Record,
};
use time::OffsetDateTime;
use uuid::Uuid;

/// A topic and a key, whose rows keep their order.
pub type Lane = (String, Option<Vec<u8>>);

/// An event that has had its effects, by the consumer or by a redrive.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Its id.
    pub event_id: Uuid,
    /// Its aggregate.
    pub subject: String,
    /// Where the record was.
    pub place: Place,
    /// The same.
    pub offset: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Database {
    /// By row id.
    pub outbox: BTreeMap<i64, OutboxRecord>,
    /// Lanes that are held back.
    pub held: BTreeSet<Lane>,
    /// Rows that were ever committed.
    pub written: usize,
    last_row: i64,
    /// Payload hashes by event id.
    pub inbox: HashMap<Uuid, Vec<u8>>,
    /// Where each partition is read next.
    pub positions: BTreeMap<Place, Position>,
    /// What was done with the records before that.
    pub tallies: BTreeMap<Place, Counts>,
    /// By id, which is by age.
    pub letters: BTreeMap<Uuid, Letter>,
    /// For the invariants: in the order in which it happened.
    pub applied: Vec<Applied>,
}

impl Database {
    /// A row id for a transaction that commits later.
    pub const fn reserve_row(&mut self) -> i64 {
        self.last_row += 1;
        self.last_row
    }

    /// Writes a row.
    pub fn write_row(&mut self, id: i64, record: OutboxRecord) {
        self.outbox.insert(id, record);
        self.written += 1;
    }

    /// Writes rows in the order given.
    pub fn append(&mut self, records: Vec<OutboxRecord>) {
        for record in records {
            let id = self.reserve_row();
            self.write_row(id, record);
        }
    }

    /// Writes the entries that don't exist yet.
    pub fn enter(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            self.inbox.entry(entry.event_id).or_insert(entry.payload_hash);
        }
    }

    /// Writes a letter.
    pub fn park(&mut self, record: &Record, letter: &NewLetter, now: OffsetDateTime) {
        let verdict = &letter.verdict;
        let is_set_aside = verdict.keep == Keep::Place;
        let letter = Letter {
            id: letter.id,
            class: verdict.poison.class.as_str().to_owned(),
            reason: verdict.poison.reason().to_owned(),
            state: if is_set_aside { State::SetAside } else { State::Parked },
            record: record.clone(),
            event_id: letter.event_id,
            subject: Metadata::subject_of(record).filter(|_| !is_set_aside).map(str::to_owned),
            blocked_by: verdict.blocked_by,
            attempts: verdict.attempts,
            redrive_count: 0,
            first_failed_at: verdict.first_failed_at,
            parked_at: now,
            edited: Edited::default(),
        };
        self.letters.insert(letter.id, letter);
    }

    /// The parked letters, oldest first.
    pub fn parked(&self) -> impl Iterator<Item = &Letter> {
        self.letters.values().filter(|letter| letter.state == State::Parked)
    }

    /// The oldest parked letter of each aggregate.
    #[must_use]
    pub fn blockers(&self) -> HashMap<String, Uuid> {
        let mut blockers = HashMap::new();
        for letter in self.parked() {
            if let Some(subject) = &letter.subject {
                blockers.entry(subject.clone()).or_insert(letter.id);
            }
        }
        blockers
    }

    /// Adds to the tally, and moves the positions on.
    pub fn advance(&mut self, counts: BTreeMap<Place, Counts>, positions: HashMap<Place, Position>) {
        for (place, count) in counts {
            *self.tallies.entry(place).or_default() += count;
        }
        self.positions.extend(positions);
    }

    /// Remembers that an event has had its effects.
    pub fn note_applied(&mut self, metadata: &Metadata, record: &Record) {
        self.applied.push(Applied {
            event_id: metadata.id,
            subject: metadata.subject.clone(),
            place: (record.topic.clone(), record.partition),
            offset: record.offset,
        });
    }
}
