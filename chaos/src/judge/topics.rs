//! Topics, tallies and dead letters: order (I7), tally (I8), redrive (I9).

use std::collections::{HashMap, HashSet};

use holdfast_proto::topic::{
    DELIVERY_STATUS_UPDATED, EVENT_TOPICS, ORDER_CREATED, PAYMENT_COMPLETED, READINGS,
};

use super::{Finding, orders::is_terminal};
use crate::evidence::{Evidence, PartitionEnds, PositionRow, Record};

/// The hash of a record without a value: the beginning of SHA-256 of no bytes.
const NO_VALUE: &str = "e3b0c44298fc1c14";
/// Statuses of a delivery in their order; the last two are both ends.
const STEPS: [&str; 5] = ["PENDING", "IN_TRANSIT", "OUT_FOR_DELIVERY", "DELIVERED", "FAILED"];

fn rank(status: &str) -> Option<usize> {
    STEPS.iter().position(|step| *step == status)
}

/// Whether the steps move forward only, to at most one end.
fn moves_forward<'a>(steps: impl Iterator<Item = &'a str>) -> bool {
    let ranks: Option<Vec<usize>> = steps.map(rank).collect();
    ranks.is_some_and(|ranks| ranks.windows(2).all(|pair| pair[0] < pair[1] && pair[0] < 3))
}

/// The events of each order in a topic, each once: publishing may repeat a row, never change its order.
fn first_of_each<'a>(evidence: &'a Evidence, topic: &str) -> HashMap<&'a str, Vec<&'a Record>> {
    let mut records: Vec<&Record> = evidence.records.iter().filter(|record| record.topic == topic).collect();
    records.sort_by_key(|record| (record.partition, record.offset));
    let mut seen = HashSet::new();
    let mut by_order: HashMap<&str, Vec<&Record>> = HashMap::new();
    for record in records {
        let (Some(subject), Some(id)) = (record.subject.as_deref(), record.event_id.as_deref()) else {
            continue;
        };
        if seen.insert(id) {
            by_order.entry(subject).or_default().push(record);
        }
    }
    by_order
}

/// I7: the steps of a delivery move forward, in its rows and in its topic, and the order ends as its delivery did.
pub(super) fn order(evidence: &Evidence) -> Finding {
    let mut finding = Finding::default();
    let events = first_of_each(evidence, DELIVERY_STATUS_UPDATED);
    let orders: HashMap<&str, _> =
        evidence.state.orders.iter().map(|order| (order.order_id.as_str(), order)).collect();
    for delivery in &evidence.state.deliveries {
        let id = delivery.order_id.as_str();
        let steps = || delivery.steps.iter().map(String::as_str);
        finding.check(moves_forward(steps()), id, || format!("its delivery went {:?}", delivery.steps));
        let order = orders.get(id).filter(|order| is_terminal(order));
        if let Some(order) = order {
            let found = order.delivery_status.as_deref();
            finding.check(found == Some(delivery.status.as_str()), id, || {
                format!("the order says {found:?}, the delivery {}", delivery.status)
            });
        }
        // A topic that lost its tail tells only what was still missing, and that anew.
        if evidence.lost_tail() {
            continue;
        }
        // Poison that names the order is in the topic too, and has no status.
        let told: Vec<&str> =
            events.get(id).into_iter().flatten().filter_map(|record| record.status.as_deref()).collect();
        finding.check(moves_forward(told.iter().copied()), id, || format!("the topic tells {told:?}"));
        if order.is_some() {
            finding.check(told.last() == Some(&delivery.status.as_str()), id, || {
                format!("the delivery is {}, the topic tells {told:?}", delivery.status)
            });
        }
    }
    finding
}

/// I8: each group has dealt with each record once; every order and payment was published; no event id has two values.
pub(super) fn tally(evidence: &Evidence) -> Finding {
    let mut finding = Finding::default();
    for (topic, group) in READINGS {
        for ends in evidence.state.partitions.iter().filter(|ends| ends.topic == *topic) {
            let position = evidence.state.positions.iter().find(|position| {
                position.service == *group && position.topic == *topic && position.partition == ends.partition
            });
            let tally = position.map_or(0, PositionRow::tally);
            // What was lost had been read, in part.
            let holds = tally == ends.end || (evidence.lost_tail() && tally > ends.end);
            finding.check(holds, &format!("{topic}/{} of {group}", ends.partition), || {
                format!("{} records, {tally} in the tally: {position:?}", ends.end)
            });
        }
    }
    // Below the position of a log that was cut, a repetition is dropped without being counted.
    if !evidence.lost_tail() {
        repeats_are_dropped(evidence, &mut finding);
    }
    for outbox in &evidence.state.outboxes {
        finding.check(outbox.waiting + outbox.held == 0, &outbox.service, || format!("{outbox:?}"));
    }
    let mut values: HashMap<&str, &Record> = HashMap::new();
    for record in &evidence.records {
        let Some(id) = record.event_id.as_deref() else { continue };
        let first = values.entry(id).or_insert(record);
        finding.check(first.hash == record.hash, id, || {
            format!("two values under one id: {first:?}, {record:?}")
        });
    }
    if evidence.lost_tail() {
        return finding;
    }
    let published = [
        (ORDER_CREATED, evidence.state.orders.iter().map(|order| &order.order_id).collect::<Vec<_>>()),
        (PAYMENT_COMPLETED, evidence.state.payments.iter().map(|payment| &payment.order_id).collect()),
    ];
    for (topic, subjects) in published {
        let events = first_of_each(evidence, topic);
        for subject in subjects {
            finding.check(events.contains_key(subject.as_str()), subject, || {
                format!("{topic} has no event of it")
            });
        }
    }
    finding
}

/// An event that was published twice has had its effects once: each group that reads it has counted a duplicate.
fn repeats_are_dropped(evidence: &Evidence, finding: &mut Finding) {
    let mut seen = HashSet::new();
    let mut repeats: HashMap<(&str, i32), i64> = HashMap::new();
    for record in &evidence.records {
        // One without a valid id is known by its place, and is no other one's repetition.
        let Some(id) = record.event_id.as_deref().filter(|id| uuid::Uuid::try_parse(id).is_ok()) else {
            continue;
        };
        let repeats = repeats.entry((&record.topic, record.partition)).or_default();
        *repeats += i64::from(!seen.insert((&record.topic, record.partition, id, &record.hash)));
    }
    for position in &evidence.state.positions {
        let repeats = repeats.get(&(position.topic.as_str(), position.partition)).copied().unwrap_or(0);
        let subject = format!("{}/{} of {}", position.topic, position.partition, position.service);
        finding.check(position.duplicates >= repeats, &subject, || {
            format!("{repeats} records repeat an event, {} were dropped as duplicates", position.duplicates)
        });
    }
}

/// I9: what can never be handled became a letter of each group that reads it, and nothing overtook it; what was poison is given
/// up, what waited behind it was redriven, and nothing is open.
pub(super) fn redrive(evidence: &Evidence) -> Finding {
    let mut finding = Finding::default();
    poison_is_parked(evidence, &mut finding);
    nothing_overtakes(evidence, &mut finding);
    for letter in &evidence.state.letters {
        let was_open = evidence.info.open_before.contains(&letter.id);
        finding.check(letter.state != "parked" || was_open, &letter.id, || format!("{letter:?}"));
    }
    finding
}

/// Where a group's letter is from.
type Place<'a> = (&'a str, &'a str, i32, i64);

fn places_of_letters(evidence: &Evidence) -> HashSet<Place<'_>> {
    let letters = evidence.state.letters.iter();
    letters
        .map(|letter| (letter.service.as_str(), letter.topic.as_str(), letter.partition, letter.offset))
        .collect()
}

/// A record without a value, or without the status that every event of its topic tells, can be handled by nobody.
fn poison_is_parked(evidence: &Evidence, finding: &mut Finding) {
    let letters = places_of_letters(evidence);
    for record in &evidence.records {
        let tells_status = [PAYMENT_COMPLETED, DELIVERY_STATUS_UPDATED].contains(&record.topic.as_str());
        let is_poison = record.hash == NO_VALUE || (tells_status && record.status.is_none());
        for (topic, group) in READINGS.iter().filter(|(topic, _)| is_poison && *topic == record.topic) {
            let is_parked = letters.contains(&(*group, *topic, record.partition, record.offset));
            let place = format!("{topic}/{} at {}", record.partition, record.offset);
            finding.check(is_parked, &place, || {
                format!("{group} has no dead letter of a record that nobody can handle")
            });
        }
    }
}

/// What follows a parked record of its order in the same partition is parked behind it, until the letter is closed.
fn nothing_overtakes(evidence: &Evidence, finding: &mut Finding) {
    let letters = places_of_letters(evidence);
    let mut first: HashMap<(&str, &str, &str), i64> = HashMap::new();
    let orders: HashSet<&str> = evidence.state.orders.iter().map(|order| order.order_id.as_str()).collect();
    for letter in &evidence.state.letters {
        // Letters of others may have been repaired before their next event came.
        let Some(subject) = letter.subject.as_deref().filter(|subject| orders.contains(subject)) else {
            continue;
        };
        let offset = first.entry((&letter.service, &letter.topic, subject)).or_insert(letter.offset);
        *offset = letter.offset.min(*offset);
    }
    let events: HashMap<&str, _> =
        EVENT_TOPICS.iter().map(|topic| (*topic, first_of_each(evidence, topic))).collect();
    for ((service, topic, subject), parked) in first {
        let of_subject = events.get(topic).and_then(|events| events.get(subject));
        for record in of_subject.into_iter().flatten() {
            let behind = record.offset > parked && came_before_the_repair(evidence, record);
            let is_parked = letters.contains(&(service, topic, record.partition, record.offset));
            finding.check(!behind || is_parked, subject, || {
                format!(
                    "{service} has a letter of it at {parked} in {topic}, and applied what came at {}",
                    record.offset
                )
            });
        }
    }
}

/// Whether a record was there when the letters of the run were closed. An order whose creation waits behind the poison is paid and
/// delivered only then.
fn came_before_the_repair(evidence: &Evidence, record: &Record) -> bool {
    let ends = &evidence.info.before_repair;
    let of_record = |ends: &&PartitionEnds| ends.topic == record.topic && ends.partition == record.partition;
    ends.iter().find(of_record).is_none_or(|ends| record.offset < ends.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forward, with gaps, to one end.
    #[test]
    fn steps_move_forward() {
        for right in [vec![], vec!["IN_TRANSIT", "DELIVERED"], vec!["PENDING", "FAILED"], STEPS[..4].to_vec()]
        {
            assert!(moves_forward(right.iter().copied()), "{right:?}");
        }
        for wrong in [
            vec!["IN_TRANSIT", "PENDING"],
            vec!["DELIVERED", "FAILED"],
            vec!["PENDING", "PENDING"],
            vec!["X"],
        ] {
            assert!(!moves_forward(wrong.iter().copied()), "{wrong:?}");
        }
    }
}
