//! Topics, tallies and dead letters: order (I7), tally (I8), redrive (I9).

use std::collections::{HashMap, HashSet};

use holdfast_proto::topic::{DELIVERY_STATUS_UPDATED, ORDER_CREATED, PAYMENT_COMPLETED, READINGS};

use super::{Finding, orders::is_terminal};
use crate::evidence::{Evidence, Record};

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
        // Poison that names the order is in the topic too, and has no status.
        let told: Vec<&str> =
            events.get(id).into_iter().flatten().filter_map(|record| record.status.as_deref()).collect();
        finding.check(moves_forward(told.iter().copied()), id, || format!("the topic tells {told:?}"));
        if let Some(order) = orders.get(id).filter(|order| is_terminal(order)) {
            let found = order.delivery_status.as_deref();
            finding.check(found == Some(delivery.status.as_str()), id, || {
                format!("the order says {found:?}, the delivery {}", delivery.status)
            });
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
            let tally = position.map_or(0, super::super::evidence::PositionRow::tally);
            finding.check(tally == ends.end, &format!("{topic}/{} of {group}", ends.partition), || {
                format!("{} records, {tally} in the tally: {position:?}", ends.end)
            });
        }
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

/// I9: what was poison is given up, what waited behind it was redriven, and nothing is open.
pub(super) fn redrive(evidence: &Evidence) -> Finding {
    let mut finding = Finding::default();
    for letter in &evidence.state.letters {
        finding.check(letter.state != "parked", &letter.id, || format!("{letter:?}"));
    }
    finding
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
