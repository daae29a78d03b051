//! What a run says in numbers: calls by kind, and what can be concluded from the number of faults.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{liveness, windows::Windows};
use crate::{
    evidence::Evidence,
    journal::{Operation, Stage},
};

/// Calls of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Answered as the caller wishes.
    pub well: u64,
    /// Refused or not answered, and known to have had no effect.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
    /// Given up by the client itself.
    pub given_up: u64,
}

/// The numbers of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// By operation.
    pub calls: BTreeMap<String, Calls>,
    /// Answers by status; 0 for none.
    pub answers: BTreeMap<u16, u64>,
    /// Of the calls whose client waited, the share that was answered well at the first attempt.
    pub attempts_well: f64,
    /// Of the orders that clients wanted, and did not give up, the share that was accepted in the end.
    pub orders_well: f64,
    /// Calls that no fault excuses, and those of them that were not answered well.
    pub unexcused: u64,
    /// The same.
    pub unexcused_failed: u64,
    /// Keys that were sent again after an outcome that nobody knew, and had one then.
    pub unknown_resolved: u64,
    /// Faults that landed.
    pub landed: usize,
    /// With 95 % confidence, the chance of a violation per fault is below this, if there was none.
    pub violation_chance_max: Option<f64>,
    /// Of the cells (action, target, outcome) that were seen, the share that was seen exactly once: about that share of
    /// what can happen has not been seen yet (Good-Turing).
    pub unseen_share: Option<f64>,
}

/// All numbers.
#[must_use]
pub fn statistics(evidence: &Evidence) -> Statistics {
    let mut calls: BTreeMap<String, Calls> = BTreeMap::new();
    let mut answers: BTreeMap<u16, u64> = BTreeMap::new();
    let (mut waited, mut well) = (0_u64, 0_u64);
    for call in &evidence.calls {
        let kind = calls.entry(call.op.name().to_owned()).or_default();
        *answers.entry(call.facts.http.unwrap_or(0)).or_default() += 1;
        if liveness::went_away(call) {
            kind.given_up += 1;
            continue;
        }
        waited += 1;
        if call.is_answered_well() {
            kind.well += 1;
            well += 1;
        } else if call.stage == Stage::Fail {
            kind.failed += 1;
        } else {
            kind.unknown += 1;
        }
    }
    let (mut wanted, mut unknown, mut accepted) = (HashSet::new(), HashSet::new(), HashSet::new());
    for call in evidence.calls.iter().filter(|call| call.op == Operation::Create) {
        let key = call.facts.key.as_deref();
        match call.stage {
            Stage::Ok => {
                accepted.insert(key);
            }
            Stage::Info => {
                unknown.insert(key);
            }
            Stage::Fail | Stage::Invoke => {}
        }
        wanted.insert(key);
    }
    let (mut unexcused, mut unexcused_failed) = (0, 0);
    for call in liveness::unexcused(evidence) {
        unexcused += 1;
        unexcused_failed += u64::from(!call.is_answered_well());
    }
    let landed = evidence.faults.iter().filter(|fault| fault.landed.is_some()).count();
    Statistics {
        calls,
        answers,
        attempts_well: share(well, waited),
        orders_well: share(count(accepted.len()), count(wanted.len())),
        unexcused,
        unexcused_failed,
        unknown_resolved: count(unknown.intersection(&accepted).count()),
        landed,
        violation_chance_max: chance_max(landed),
        unseen_share: unseen_share(evidence),
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 1.0 } else { part as f64 / of as f64 }
}

/// The upper bound of the chance per trial after `trials` without an event, with 95 % confidence: 1 - 0.05^(1/n).
#[expect(clippy::cast_precision_loss, reason = "counts of faults are far below 2^52")]
fn chance_max(trials: usize) -> Option<f64> {
    (trials > 0).then(|| 1.0 - 0.05_f64.powf(1.0 / trials as f64))
}

fn unseen_share(evidence: &Evidence) -> Option<f64> {
    let excused = Windows::of_consumers(evidence);
    let mut cells: HashMap<(&str, &str, bool, bool), u64> = HashMap::new();
    for fault in &evidence.faults {
        let after = fault.over.unwrap_or(fault.begin);
        let cell =
            (fault.action.name(), fault.target.as_str(), fault.landed.is_some(), excused.touch(after, after));
        *cells.entry(cell).or_default() += 1;
    }
    let once = cells.values().filter(|count| **count == 1).count();
    let all: u64 = cells.values().sum();
    (all > 0).then(|| share(count(once), all))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// About three divided by the number of faults.
    #[test]
    fn faults_without_a_violation_bound_its_chance() {
        assert_eq!(chance_max(0), None);
        for (faults, percent) in [(15, 18.1), (60, 4.9), (300, 1.0), (3_000, 0.1)] {
            let bound = chance_max(faults).expect("some") * 100.0;
            assert!((bound - percent).abs() < 0.06, "{faults}: {bound}");
        }
    }
}
