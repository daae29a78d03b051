//! Orders: durable (I1), once (I2), live (I3), charged (I4), delivered (I6).

use std::collections::{HashMap, HashSet};

use super::Finding;
use crate::{
    evidence::{Evidence, OrderRow},
    journal::{Call, Operation, Stage},
    rest::has_ended,
    workload::ends_as,
};

/// The calls that created an order, or were told of it again.
pub(super) fn accepted(evidence: &Evidence) -> impl Iterator<Item = (&str, &Call)> {
    evidence.calls.iter().filter(|call| call.op == Operation::Create && call.stage == Stage::Ok).filter_map(
        |call| {
            let order = call.facts.order_id.as_deref()?;
            Some((order, call))
        },
    )
}

fn rows(evidence: &Evidence) -> HashMap<&str, &OrderRow> {
    evidence.state.orders.iter().map(|order| (order.order_id.as_str(), order)).collect()
}

/// I1: an order that was accepted exists, with the content that was sent; and a list that had it never lost it.
pub(super) fn durable(evidence: &Evidence) -> Finding {
    let mut finding = Finding::default();
    let rows = rows(evidence);
    for (order, call) in accepted(evidence) {
        let row = rows.get(order);
        let is_as_sent = row.is_some_and(|row| {
            row.user_id == call.facts.user
                && Some(&row.delivery_address) == call.facts.address.as_ref()
                && Some(row.total_minor) == call.facts.cents
        });
        finding
            .check(is_as_sent, order, || format!("answered {:?}, but the database has {row:?}", call.facts));
    }
    let lists = last_lists(evidence);
    for (order, call) in accepted(evidence) {
        let Some((since, listed)) = lists.get(call.facts.user.as_str()) else { continue };
        if call.end.is_some_and(|end| end < *since) {
            finding
                .check(listed.contains(order), order, || "it is not in the last list of its user".to_owned());
        }
    }
    finding
}

/// The last list of each user that was read to its last page: from when on it is complete, and its orders.
fn last_lists(evidence: &Evidence) -> HashMap<&str, (u64, HashSet<&str>)> {
    let lists = evidence.calls.iter().filter(|call| call.op == Operation::List);
    let complete = lists.filter_map(|call| Some((call.facts.complete_since?, &call.facts)));
    let last: HashMap<&str, _> = complete.map(|(since, list)| (list.user.as_str(), (since, list))).collect();
    last.into_iter()
        .map(|(user, (since, list))| (user, (since, list.orders.iter().map(String::as_str).collect())))
        .collect()
}

/// I2: one key, one order, however often it was sent and whatever was answered.
pub(super) fn once(evidence: &Evidence) -> Finding {
    let mut finding = Finding::default();
    let mut answered: HashMap<(&str, &str), HashSet<&str>> = HashMap::new();
    let mut sent: HashSet<(&str, &str)> = HashSet::new();
    for call in evidence.calls.iter().filter(|call| call.op == Operation::Create) {
        let Some(key) = call.facts.key.as_deref() else { continue };
        sent.insert((&call.facts.user, key));
        if let Some(order) = call.facts.order_id.as_deref() {
            answered.entry((&call.facts.user, key)).or_default().insert(order);
        }
    }
    for ((user, key), orders) in &answered {
        finding.check(orders.len() == 1, user, || format!("the key {key} was answered with {orders:?}"));
    }
    let rows = rows(evidence);
    for (order, call) in accepted(evidence) {
        let Some(row) = rows.get(order) else { continue };
        finding.check(row.key == call.facts.key, order, || {
            format!("the answer to {:?}, but made for {:?}", call.facts.key, row.key)
        });
    }
    let mut by_key: HashMap<(&str, &str), Vec<&str>> = HashMap::new();
    for row in &evidence.state.orders {
        let key = row.key.as_deref().unwrap_or_default();
        finding.check(sent.contains(&(row.user_id.as_str(), key)), &row.order_id, || {
            format!("nobody sent its key {key:?}")
        });
        by_key.entry((&row.user_id, key)).or_default().push(&row.order_id);
    }
    for ((user, key), orders) in &by_key {
        finding.check(orders.len() == 1, user, || format!("the key {key} made {orders:?}"));
    }
    finding
}

/// I3: every order has ended, and as its wish says. One with an open dead letter is accounted for.
pub(super) fn live(evidence: &Evidence) -> Finding {
    let mut finding = Finding::default();
    let open: HashSet<&str> = evidence
        .state
        .letters
        .iter()
        .filter(|letter| letter.state == "parked")
        .filter_map(|letter| letter.subject.as_deref())
        .collect();
    for row in &evidence.state.orders {
        if open.contains(row.order_id.as_str()) {
            continue;
        }
        let expected = ends_as(&row.user_id, &row.delivery_address);
        let found = (row.status.as_str(), row.delivery_status.as_deref());
        finding.check(found == expected, &row.order_id, || {
            format!("it is {found:?}, and must end {expected:?}")
        });
    }
    finding
}

/// I4: what the ledger says of an order is what its status says, and no payment is without an order.
pub(super) fn charge(evidence: &Evidence) -> Finding {
    let mut finding = Finding::default();
    let payments: HashMap<&str, _> =
        evidence.state.payments.iter().map(|payment| (payment.order_id.as_str(), payment)).collect();
    for row in &evidence.state.orders {
        let total = row.total_minor;
        let expected = match row.status.as_str() {
            "PAID" => Some(("SUCCESS", total, (1, total), (0, 0))),
            "REFUNDED" => Some(("REFUNDED", total, (1, total), (1, total))),
            "INSUFFICIENT_FUNDS" => Some(("INSUFFICIENT_FUNDS", total, (0, 0), (0, 0))),
            // It may be paid, and not know it yet.
            _ => None,
        };
        let payment = payments.get(row.order_id.as_str());
        let found = payment.map(|payment| {
            (
                payment.status.as_str(),
                payment.amount_minor,
                (payment.charges, payment.charged_minor),
                (payment.refunds, payment.refunded_minor),
            )
        });
        // A refund that the order has not heard of yet.
        let is_ahead = !is_terminal(row);
        let holds = expected.is_none() || found == expected || (is_ahead && found.is_some());
        finding.check(holds, &row.order_id, || format!("it is {}, and its payment {found:?}", row.status));
        let once = payment.is_none_or(|payment| payment.charges <= 1 && payment.refunds <= payment.charges);
        finding.check(once, &row.order_id, || format!("{payment:?}"));
    }
    let orders = rows(evidence);
    for payment in &evidence.state.payments {
        let is_known = orders.contains_key(payment.order_id.as_str());
        finding.check(is_known, &payment.order_id, || "a payment for no order".to_owned());
    }
    finding
}

/// I6: a paid order has its delivery, another has none.
pub(super) fn delivery(evidence: &Evidence) -> Finding {
    let mut finding = Finding::default();
    let mut deliveries: HashMap<&str, u64> = HashMap::new();
    for delivery in &evidence.state.deliveries {
        *deliveries.entry(&delivery.order_id).or_default() += 1;
    }
    for row in evidence.state.orders.iter().filter(|row| is_terminal(row)) {
        let count = deliveries.remove(row.order_id.as_str()).unwrap_or(0);
        let expected = u64::from(row.status != "INSUFFICIENT_FUNDS");
        finding.check(count == expected, &row.order_id, || {
            format!("it is {}, and has {count} deliveries", row.status)
        });
    }
    let orders = rows(evidence);
    for order in deliveries.keys() {
        finding.check(orders.contains_key(order), order, || "a delivery for no order".to_owned());
    }
    finding
}

pub(super) fn is_terminal(row: &OrderRow) -> bool {
    has_ended(&row.status, row.delivery_status.as_deref())
}
