//! What clients saw: reads (I10), own data (I11), quick refusals (I12).

use std::collections::HashMap;

use super::{Finding, windows::Windows};
use crate::{
    evidence::Evidence,
    journal::{Call, Operation, Stage},
};

/// The gateway's deadline is 3 s; the rest is the machine's.
const ANSWER_TIME_MAX_US: u64 = 5_000_000;

/// I10: an order's versions are a register that only grows. A read that began after any call had returned a version returns
/// that version or a later one, none later than the last, and a version always looks the same.
pub(super) fn reads(evidence: &Evidence) -> Finding {
    let mut finding = Finding::default();
    let mut by_order: HashMap<&str, Vec<(&Call, u64, i64)>> = HashMap::new();
    for call in &evidence.calls {
        let facts = &call.facts;
        if let (Some(order), Some(end), Some(version)) = (&facts.order_id, call.end, facts.version)
            && [Operation::Create, Operation::Read].contains(&call.op)
        {
            by_order.entry(order).or_default().push((call, end, version));
        }
    }
    let last: HashMap<&str, i64> =
        evidence.state.orders.iter().map(|order| (order.order_id.as_str(), order.version)).collect();
    for (order, mut calls) in by_order {
        calls.sort_by_key(|(call, _, _)| call.begin);
        let mut by_end = calls.clone();
        by_end.sort_by_key(|(_, end, _)| *end);
        let mut ended = by_end.iter().peekable();
        let mut newest = 0;
        let mut looks: HashMap<i64, (Option<&str>, Option<&str>)> = HashMap::new();
        for (call, _, version) in &calls {
            while let Some((_, _, seen)) = ended.next_if(|(_, end, _)| *end < call.begin) {
                newest = newest.max(*seen);
            }
            // The answer of a creation is stored, and replayed as it was.
            let may_be_old = call.op == Operation::Create;
            finding.check(may_be_old || *version >= newest, order, || {
                format!("version {version} was read after version {newest}")
            });
            if let Some(last) = last.get(order) {
                finding.check(version <= last, order, || {
                    format!("version {version} was read, the last one is {last}")
                });
            }
            let look = (call.facts.status.as_deref(), call.facts.delivery_status.as_deref());
            let first = looks.entry(*version).or_insert(look);
            finding.check(*first == look, order, || format!("version {version} was {first:?} and {look:?}"));
        }
    }
    finding
}

/// I11: an order of somebody else is not there.
pub(super) fn own(evidence: &Evidence) -> Finding {
    let mut finding = Finding::default();
    for call in evidence.calls.iter().filter(|call| call.op == Operation::Foreign) {
        // Refused because a part is away: nothing was learnt.
        let Some(http) = call.facts.http.filter(|http| *http < 500) else { continue };
        let order = call.facts.order_id.as_deref().unwrap_or_default();
        finding.check(http == 404, order, || format!("{} was answered {http}", call.facts.user));
    }
    let owners: HashMap<&str, &str> =
        evidence.state.orders.iter().map(|order| (order.order_id.as_str(), order.user_id.as_str())).collect();
    for call in evidence.calls.iter().filter(|call| call.op == Operation::List && call.stage == Stage::Ok) {
        for order in &call.facts.orders {
            let is_own = owners.get(order.as_str()).is_none_or(|owner| *owner == call.facts.user);
            finding.check(is_own, order, || format!("it is in the list of {}", call.facts.user));
        }
    }
    finding
}

/// I12: unless the gateway itself is the victim, every call is answered within its deadline, a refusal is 429, 503 or 504, and
/// the first two say when to come back.
pub(super) fn fail_fast(evidence: &Evidence) -> Finding {
    let mut finding = Finding::default();
    let gateway = Windows::of_gateway(evidence);
    for call in &evidence.calls {
        let Some(end) = call.end else { continue };
        // A client that went away by itself was not left waiting.
        let went_away = call.facts.http.is_none() && end - call.begin < ANSWER_TIME_MAX_US;
        if went_away || gateway.touch(call.begin, end) {
            continue;
        }
        let subject =
            call.facts.order_id.as_deref().or(call.facts.key.as_deref()).unwrap_or(&call.facts.user);
        let time = (end - call.begin) / 1000;
        finding.check(end - call.begin <= ANSWER_TIME_MAX_US, subject, || {
            format!("{} was answered {:?} after {time} ms", call.op.name(), call.facts.http)
        });
        if let Some(http) = call.facts.http.filter(|http| *http == 429 || *http >= 500) {
            let is_in_order = http == 504 || ([429, 503].contains(&http) && call.facts.retry_after);
            finding.check(is_in_order, subject, || {
                format!("{} was answered {http}, Retry-After: {}", call.op.name(), call.facts.retry_after)
            });
        }
    }
    finding
}
