//! A relay in memory: claims rows because they exist, sends them with the order of each lane, deletes those that are
//! acknowledged. What it has in flight dies with it; the rows stay.

use std::collections::BTreeSet;

use holdfast_common::outbox::OutboxRecord;
use time::OffsetDateTime;

use crate::{
    broker::Broker,
    bug::Bug,
    database::{Database, Lane},
};

/// See the module.
#[derive(Debug, Default)]
pub struct Relay {
    /// Sent and not answered, in order.
    flight: Vec<(i64, OutboxRecord)>,
    /// The last row that was claimed; only [`Bug::ClaimAfterLastId`] looks at it.
    last: i64,
}

fn lane(record: &OutboxRecord) -> Lane {
    (record.topic.clone(), record.key.clone())
}

impl Relay {
    /// Rows that may be sent: of each lane only as long as no earlier one waits for an answer or is held back.
    fn claim(&self, database: &Database, bug: Option<Bug>) -> Vec<i64> {
        let mut passed: BTreeSet<Lane> = self.flight.iter().map(|(_, record)| lane(record)).collect();
        passed.extend(database.held.iter().cloned());
        let after = if bug == Some(Bug::ClaimAfterLastId) { self.last } else { 0 };
        let rows = database.outbox.range(after + 1..);
        rows.filter(|(_, record)| !passed.contains(&lane(record))).map(|(id, _)| *id).collect()
    }

    /// Sends up to `most` rows. The broker has them, the answer is on its way.
    pub fn send(
        &mut self,
        most: usize,
        database: &mut Database,
        broker: &mut Broker,
        bug: Option<Bug>,
        now: OffsetDateTime,
    ) {
        for id in self.claim(database, bug).into_iter().take(most) {
            let Some(record) = database.outbox.get(&id).cloned() else { continue };
            self.last = self.last.max(id);
            if bug == Some(Bug::DeleteBeforeAcknowledgement) {
                database.outbox.remove(&id);
            } else {
                broker.publish(&record, now);
            }
            self.flight.push((id, record));
        }
    }

    /// The broker's answers to the oldest rows in flight arrive: they are deleted.
    pub fn acknowledge(
        &mut self,
        most: usize,
        database: &mut Database,
        broker: &mut Broker,
        bug: Option<Bug>,
        now: OffsetDateTime,
    ) {
        for (id, record) in self.flight.drain(..most.min(self.flight.len())) {
            if bug == Some(Bug::DeleteBeforeAcknowledgement) {
                broker.publish(&record, now);
            }
            database.outbox.remove(&id);
        }
    }

    /// The broker refuses the next row: its lane is held back.
    pub fn refuse(&self, database: &mut Database) {
        if let Some(id) = self.claim(database, None).first()
            && let Some(record) = database.outbox.get(id)
        {
            database.held.insert(lane(record));
        }
    }

    /// The process dies.
    pub fn crash(&mut self) {
        *self = Self::default();
    }
}
