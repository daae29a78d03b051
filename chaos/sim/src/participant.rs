//! A service with its database, its relay and the members of its group: what carries out the decisions of the real code.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use holdfast_common::{
    consumer::{
        Accepted, Answer, Class, Poison,
        pure::{
            Attempt, Entry, Place, Search, Seen, Sorted, Verdicts, check, compare, place_of, refuse, sort,
        },
    },
    database::DatabaseError,
    dead_letter::{
        Letter, State,
        redrive::{Exhausted, Line, Outcome},
    },
    outbox::OutboxRecord,
    record::Record,
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    broker::Broker,
    bug::Bug,
    database::Database,
    operation::End,
    relay::Relay,
    service::{Decision, EventOf, Tables},
};

/// Members of each group.
const MEMBERS: usize = 2;
/// Records that a member receives if it has to handle some and has none.
const RECORDS: usize = 3;

/// A member of a consumer group.
#[derive(Debug, Default)]
struct Member {
    /// Where it reads next in the partitions that it owns.
    next: BTreeMap<Place, usize>,
    /// Received and not handled.
    batch: Vec<Record>,
}

/// A batch or a redrive that was not carried out to its end.
#[derive(Debug)]
enum Stopped {
    /// The process is gone.
    Crashed,
    /// The batch is tried again later.
    Failed,
}

/// See the module.
#[derive(Debug)]
pub struct Participant<T> {
    /// Its own tables.
    pub tables: T,
    /// Those of the library.
    pub database: Database,
    /// Publishes its outbox.
    pub relay: Relay,
    /// What is broken in the model.
    pub bug: Option<Bug>,
    /// Events that can't be stored, by their ids.
    pub broken: BTreeSet<Uuid>,
    /// How often it has died.
    pub crashes: usize,
    topics: Vec<&'static str>,
    members: [Member; MEMBERS],
    owners: u8,
}

impl<T: Tables> Participant<T> {
    /// The service of this name, with these tables.
    pub fn new(name: &str, tables: T, bug: Option<Bug>) -> Self {
        Self {
            tables,
            database: Database::default(),
            relay: Relay::default(),
            bug,
            broken: BTreeSet::new(),
            crashes: 0,
            topics: holdfast_proto::topic::read_by(name),
            members: Default::default(),
            owners: 0b1010_1010,
        }
    }

    /// The topics that it reads.
    #[must_use]
    pub fn topics(&self) -> &[&'static str] {
        &self.topics
    }

    /// Carries out a transaction, which ends as `end` says. False: it was not committed, as far as the caller knows.
    pub fn transact(&mut self, end: End, work: impl FnOnce(&mut Self) -> Vec<OutboxRecord>) -> bool {
        match end {
            End::Unavailable => return false,
            End::CrashBefore => {
                self.crash();
                return false;
            }
            End::Commits | End::CommitUnknown | End::CrashAfter => {}
        }
        let outbox = work(self);
        self.publish_later(outbox, end);
        if end == End::CrashAfter {
            self.crash();
        }
        end == End::Commits
    }

    fn publish_later(&mut self, outbox: Vec<OutboxRecord>, end: End) {
        if self.bug == Some(Bug::EventAfterCommit) && end == End::CrashAfter {
            return;
        }
        self.database.append(outbox);
    }

    /// All that is in memory is lost.
    pub fn crash(&mut self) {
        self.crashes += 1;
        self.relay.crash();
        self.members = Default::default();
    }

    /// Partitions change their owners, who read on where the database says.
    pub fn rebalance(&mut self, owners: u8, broker: &Broker) {
        let before = std::mem::replace(&mut self.owners, owners);
        let places: Vec<Place> = self.places(broker).cloned().collect();
        for (index, place) in places.iter().enumerate() {
            if owner(before, index) != owner(owners, index) {
                for member in &mut self.members {
                    member.next.remove(place);
                }
            }
        }
    }

    fn places<'a>(&self, broker: &'a Broker) -> impl Iterator<Item = &'a Place> {
        broker.logs.keys().filter(|(topic, _)| self.topics.contains(&topic.as_str()))
    }

    /// A member receives up to `most` records of its partitions, unless it has some already.
    pub fn take(&mut self, member: usize, most: usize, broker: &Broker) {
        let places: Vec<Place> = self.places(broker).cloned().collect();
        let (owners, database) = (self.owners, &self.database);
        let member_index = member % MEMBERS;
        let Member { next, batch } = &mut self.members[member_index];
        if !batch.is_empty() {
            return;
        }
        for (index, place) in places.into_iter().enumerate() {
            if owner(owners, index) != member_index {
                continue;
            }
            let log = &broker.logs[&place];
            let next = next.entry(place).or_insert_with_key(|place| {
                let position = database.positions.get(place).copied().unwrap_or_default();
                usize::try_from(position.next_offset).unwrap_or_default()
            });
            let taken = log.iter().skip(*next).take(most - batch.len());
            let before = batch.len();
            batch.extend(taken.cloned());
            *next += batch.len() - before;
        }
    }

    /// A member handles what it has received. Returns how much that was.
    pub fn handle(&mut self, member: usize, end: End, broker: &Broker, now: OffsetDateTime) -> usize {
        self.take(member, RECORDS, broker);
        let records = std::mem::take(&mut self.members[member % MEMBERS].batch);
        if records.is_empty() {
            return 0;
        }
        match self.process(&records, end, now) {
            Ok(()) => {}
            Err(Stopped::Failed) => self.members[member % MEMBERS].batch.clone_from(&records),
            Err(Stopped::Crashed) => self.crash(),
        }
        records.len()
    }

    /// One batch, as the real consumer does it: transactions over parts of it, until each record has ended.
    fn process(&mut self, records: &[Record], end: End, now: OffsetDateTime) -> Result<(), Stopped> {
        if self.bug == Some(Bug::PositionBeforeCommit) {
            self.move_on_first(records);
        }
        let mut end = Some(end);
        let mut search = Search::new(records.len());
        while let Some(range) = search.next_range() {
            let attempt = self.attempt(&records[range.clone()], search.verdicts(), &mut end, now)?;
            search.learn(records, range, attempt, now).map_err(|_| Stopped::Failed)?;
        }
        Ok(())
    }

    /// The bug. The tally is moved on too, as if the records had been applied.
    fn move_on_first(&mut self, records: &[Record]) {
        let unread = |record: &&Record| {
            let position = self.database.positions.get(&place_of(record)).copied().unwrap_or_default();
            record.offset >= position.next_offset
        };
        let records: Vec<Record> = records.iter().filter(unread).cloned().collect();
        let seen = self.compare(&records).0;
        let positions = self.database.positions.clone().into_iter().collect();
        let sorted = sort(&records, &seen, positions, HashMap::new(), &Verdicts::new(), |record| {
            check(self.tables.handler(), record)
        });
        self.database.advance(sorted.counts, sorted.positions);
    }

    /// One transaction.
    fn attempt(
        &mut self,
        records: &[Record],
        verdicts: &Verdicts,
        end: &mut Option<End>,
        now: OffsetDateTime,
    ) -> Result<Attempt, Stopped> {
        let (seen, entries) = self.compare(records);
        let blockers = match self.bug {
            Some(Bug::BlockedNotParked) => HashMap::new(),
            _ => self.database.blockers(),
        };
        let positions = || self.database.positions.clone().into_iter().collect();
        let mut verdicts = verdicts.clone();
        let (sorted, changes, outbox) = loop {
            let (positions, blockers) = (positions(), blockers.clone());
            let sorted = sort(records, &seen, positions, blockers, &verdicts, |record| {
                check(self.tables.handler(), record)
            });
            if sorted.events.iter().any(|accepted| self.broken.contains(&accepted.metadata.id)) {
                return Ok(Attempt::Failed(DatabaseError::Corrupt("status".into())));
            }
            let Decision { answers, changes, outbox } = self.tables.decide(&sorted.events, now);
            let accepted = sorted.accepted.iter().map(|index| &records[*index]);
            match refuse(accepted, answers, &mut verdicts, now) {
                Ok(true) => {}
                Ok(false) => break (sorted, changes, outbox),
                Err(error) => return Ok(Attempt::Failed(error)),
            }
        };
        let end = end.take().unwrap_or(End::Commits);
        match end {
            End::Unavailable => {
                return Ok(Attempt::Failed(DatabaseError::Unavailable(sqlx::Error::PoolClosed)));
            }
            End::CrashBefore => return Err(Stopped::Crashed),
            End::Commits | End::CommitUnknown | End::CrashAfter => {}
        }
        if let Err(error) = self.tables.save(changes, self.bug) {
            return Ok(Attempt::Failed(error));
        }
        self.publish_later(outbox, end);
        self.commit(records, sorted, entries, now);
        match end {
            End::CrashAfter => Err(Stopped::Crashed),
            End::CommitUnknown => Ok(Attempt::Failed(DatabaseError::CommitUnknown(sqlx::Error::PoolClosed))),
            _ => Ok(Attempt::Done),
        }
    }

    /// Says which records were handled before, and which entries the inbox gets.
    fn compare(&self, records: &[Record]) -> (Vec<Seen>, Vec<Entry>) {
        let entries: Vec<Entry> = records.iter().map(Entry::of).collect();
        let inbox = &self.database.inbox;
        let known = entries.iter().filter_map(|entry| {
            let is_known = self.bug != Some(Bug::NoInbox);
            Some((entry.event_id, inbox.get(&entry.event_id)?.clone())).filter(|_| is_known)
        });
        let (mut seen, derived) = compare(records, &entries, known.collect());
        for seen in &mut seen {
            if let Seen::OtherPayload { event_id } = *seen
                && inbox.contains_key(&event_id)
            {
                *seen = Seen::Before;
            }
        }
        (seen, entries.into_iter().chain(derived).collect())
    }

    fn commit(
        &mut self,
        records: &[Record],
        sorted: Sorted<EventOf<T>>,
        entries: Vec<Entry>,
        now: OffsetDateTime,
    ) {
        self.database.enter(entries);
        for (accepted, index) in sorted.events.iter().zip(&sorted.accepted) {
            self.database.note_applied(&accepted.metadata, &records[*index]);
        }
        if self.bug != Some(Bug::PoisonDropped) {
            for letter in &sorted.letters {
                self.database.park(&records[letter.index], letter, now);
            }
        }
        if self.bug != Some(Bug::PositionBeforeCommit) {
            self.database.advance(sorted.counts, sorted.positions);
        }
    }

    /// The aggregates with parked letters, and letters without one; the one with the oldest letter first.
    #[must_use]
    pub fn redrivable(&self) -> Vec<Vec<Uuid>> {
        let mut groups: BTreeMap<String, Vec<Uuid>> = BTreeMap::new();
        for letter in self.database.parked() {
            let name = letter.subject.clone().unwrap_or_else(|| letter.id.to_string());
            groups.entry(name).or_default().push(letter.id);
        }
        let mut groups: Vec<Vec<Uuid>> = groups.into_values().collect();
        groups.sort_unstable_by_key(|letters| letters[0]);
        groups
    }

    /// Redrives the letters of a group in one transaction. Returns how many were handled after all.
    pub fn redrive(
        &mut self,
        letters: &[Uuid],
        exhausted: Exhausted,
        end: End,
        now: OffsetDateTime,
    ) -> usize {
        let mut redriven = 0;
        self.transact(end, |this| {
            let mut line = Line::new(exhausted);
            let mut outbox = Vec::new();
            for id in letters {
                let Some(letter) = this.database.letters.get(id).cloned() else { continue };
                if this.bug == Some(Bug::RedriveSkipsFailures) {
                    line = Line::new(exhausted);
                }
                let outcome = match line.stopped_at(letter.redrive_count) {
                    Some(outcome) => outcome,
                    None => line.passed(this.handle_again(&letter, &mut outbox, now)),
                };
                redriven += usize::from(outcome == Outcome::Redriven);
                this.mark(*id, outcome);
            }
            outbox
        });
        redriven
    }

    /// Form, then effects; a letter that fails leaves nothing.
    fn handle_again(
        &mut self,
        letter: &Letter,
        outbox: &mut Vec<OutboxRecord>,
        now: OffsetDateTime,
    ) -> Result<(), Poison> {
        let record = letter.effective_record();
        let accepted: Accepted<EventOf<T>> = check(self.tables.handler(), &record)?;
        let is_renamed = accepted.metadata.id != letter.event_id;
        if is_renamed && self.database.inbox.contains_key(&accepted.metadata.id) {
            return Err(Poison::new(Class::SchemaViolation, "event id was used for another event"));
        }
        let exhausted = |error: DatabaseError| Poison::new(Class::AttemptsExhausted, error.to_string());
        if self.broken.contains(&accepted.metadata.id) {
            return Err(exhausted(DatabaseError::Corrupt("status".into())));
        }
        let decision = self.tables.decide(std::slice::from_ref(&accepted), now);
        if let Some(Answer::DeadLetter(poison)) = decision.answers.into_iter().next() {
            return Err(poison);
        }
        self.tables.save(decision.changes, self.bug).map_err(exhausted)?;
        if is_renamed {
            self.database.enter([Entry::of(&record)]);
        }
        self.database.note_applied(&accepted.metadata, &record);
        outbox.extend(decision.outbox);
        Ok(())
    }

    fn mark(&mut self, id: Uuid, outcome: Outcome) {
        let Some(letter) = self.database.letters.get_mut(&id) else { return };
        match outcome {
            Outcome::Redriven => {
                letter.state = State::Redriven;
                letter.redrive_count += 1;
            }
            Outcome::Failed(poison) => {
                poison.class.as_str().clone_into(&mut letter.class);
                poison.reason().clone_into(&mut letter.reason);
                letter.redrive_count += 1;
                letter.blocked_by = None;
            }
            Outcome::Planned | Outcome::WouldFail(_) | Outcome::Refused | Outcome::Behind => {}
        }
    }

    /// Gives up the oldest parked letter of a record that no service has written. False: there is none.
    pub fn discard(&mut self) -> bool {
        let forged = self.database.parked().find(|letter| Broker::is_forged(&letter.record));
        let Some(id) = forged.map(|letter| letter.id) else { return false };
        if let Some(letter) = self.database.letters.get_mut(&id) {
            letter.state = State::Discarded;
        }
        true
    }

    /// Whether the group has handled all that its topics have.
    #[must_use]
    pub fn has_read_all(&self, broker: &Broker) -> bool {
        self.members.iter().all(|member| member.batch.is_empty())
            && self.places(broker).all(|place| {
                let position = self.database.positions.get(place).copied().unwrap_or_default();
                usize::try_from(position.next_offset) == Ok(broker.logs[place].len())
            })
    }

    /// The letters that are still parked.
    #[must_use]
    pub fn letters_parked(&self) -> usize {
        self.database.parked().count()
    }
}

fn owner(owners: u8, index: usize) -> usize {
    usize::from(owners >> (index % 8) & 1)
}
