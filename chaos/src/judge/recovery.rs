//! How long a stack needs after each fault: until the first order is accepted again, and until nothing waits any more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    evidence::Evidence,
    journal::{Operation, Stage},
    watch::Sample,
};

/// Recovery from one fault, in seconds after it was over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// The fault's number.
    pub fault: usize,
    /// Until an order that was sent after the fault was accepted.
    pub accepts_after: Option<f64>,
    /// Until no group had lag, as far as samples of one second tell.
    pub drained_after: Option<f64>,
}

/// The distribution over faults of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Faults that landed.
    pub landed: usize,
    /// Faults that were tried in vain.
    pub missed: usize,
    /// Median, 95th percentile and maximum of [`Recovery::accepts_after`].
    pub accepts: Option<[f64; 3]>,
    /// The same of [`Recovery::drained_after`].
    pub drained: Option<[f64; 3]>,
}

/// Of each fault that landed and was over.
#[must_use]
pub fn recoveries(evidence: &Evidence) -> Vec<Recovery> {
    let mut accepted: Vec<(u64, u64)> = evidence
        .calls
        .iter()
        .filter(|call| call.op == Operation::Create && call.stage == Stage::Ok)
        .filter_map(|call| Some((call.begin, call.end?)))
        .collect();
    accepted.sort_unstable();
    let over = evidence.faults.iter().filter(|fault| fault.landed.is_some());
    over.filter_map(|fault| {
        let over = fault.over?;
        let next = accepted.partition_point(|(begin, _)| *begin < over);
        // Of those that were sent after it, the one that was answered first.
        let first = accepted.get(next..)?.iter().take(100).map(|(_, end)| *end).min();
        let drained = evidence.samples.iter().find(|sample| sample.time >= over && is_drained(sample));
        Some(Recovery {
            fault: fault.number,
            accepts_after: first.map(|end| seconds(end - over)),
            drained_after: drained.map(|sample| seconds(sample.time - over)),
        })
    })
    .collect()
}

/// Under load there always is a record on its way.
const LAG_AT_REST_MAX: i64 = 20;

fn is_drained(sample: &Sample) -> bool {
    !sample.services.is_empty()
        && sample.services.values().all(|service| service.lag.is_some_and(|lag| lag <= LAG_AT_REST_MAX))
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of hours are far below 2^52")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// By kind: action and target.
#[must_use]
pub fn by_kind(evidence: &Evidence, recoveries: &[Recovery]) -> BTreeMap<String, Summary> {
    let mut kinds: BTreeMap<String, (usize, usize, Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for fault in &evidence.faults {
        let kind = kinds.entry(format!("{} {}", fault.action.name(), fault.target)).or_default();
        if fault.landed.is_none() {
            kind.1 += 1;
            continue;
        }
        kind.0 += 1;
        let recovery = recoveries.iter().find(|recovery| recovery.fault == fault.number);
        kind.2.extend(recovery.and_then(|recovery| recovery.accepts_after));
        kind.3.extend(recovery.and_then(|recovery| recovery.drained_after));
    }
    kinds
        .into_iter()
        .map(|(kind, (landed, missed, accepts, drained))| {
            (kind, Summary { landed, missed, accepts: quantiles(accepts), drained: quantiles(drained) })
        })
        .collect()
}

/// Median, 95th percentile and maximum.
#[must_use]
pub fn quantiles(mut values: Vec<f64>) -> Option<[f64; 3]> {
    values.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        values.get((values.len() * percent / 100).min(values.len().saturating_sub(1))).copied()
    };
    Some([at(50)?, at(95)?, *values.last()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The quantiles of nothing are not there; of few values they are values.
    #[test]
    fn quantiles_are_values() {
        assert_eq!(quantiles(Vec::new()), None);
        assert_eq!(quantiles(vec![3.0]), Some([3.0, 3.0, 3.0]));
        assert_eq!(quantiles((1..=100).map(f64::from).collect()), Some([51.0, 96.0, 100.0]));
    }
}
