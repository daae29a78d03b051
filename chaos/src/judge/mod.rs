//! Judges the evidence of a run: pure functions from what was seen to verdicts, so that a run can be judged again, and the judge
//! itself can be tested with evidence in which a violation is planted.
//!
//! - [`windows`]: when the faults of a run allow what;
//! - [`orders`]: durable, once, live, charge, delivery (I1 to I4, I6);
//! - [`money`]: money (I5);
//! - [`topics`]: order, tally, dead letters (I7 to I9);
//! - [`clients`]: what clients saw: reads, own data, quick refusals (I10 to I12);
//! - [`liveness`]: everything moves (I14);
//! - [`story`]: everything that is known of one order.
//!
//! I13, that nothing leaks, is found while the logs are there, in [`crate::evidence::collect`].

mod clients;
mod liveness;
mod money;
mod orders;
pub mod recovery;
pub mod statistics;
pub mod story;
mod topics;
mod windows;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{evidence::Evidence, scenario::Action};

/// Violations that are kept of each invariant; all are counted.
const KEPT_MAX: usize = 50;

/// What is known of an invariant after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It held, and enough was checked.
    Pass,
    /// It was violated.
    Fail,
    /// Too little was checked to know.
    Unknown,
}

impl Outcome {
    /// As reports write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// A violation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The order, the user, the partition, or whatever it is about.
    pub subject: String,
    /// What is wrong.
    pub what: String,
}

/// What a checker found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Finding {
    /// How many things were checked.
    checked: u64,
    violations: Vec<Violation>,
}

impl Finding {
    pub(crate) fn check(&mut self, holds: bool, subject: &str, what: impl FnOnce() -> String) {
        self.checked += 1;
        if !holds {
            self.violations.push(Violation { subject: subject.to_owned(), what: what() });
        }
    }
}

/// The verdict on an invariant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `I1` to `I14`.
    pub id: String,
    /// What it promises.
    pub promise: String,
    /// The verdict.
    pub outcome: Outcome,
    /// How many things were checked.
    pub checked: u64,
    /// Fewer prove nothing.
    pub checked_min: u64,
    /// Whether the run is to prove it. Where it is not, an unknown outcome does not make the run unknown.
    pub required: bool,
    /// How many violations there were.
    pub violated: usize,
    /// The first of them.
    pub violations: Vec<Violation>,
}

/// The verdict on a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Of all together.
    pub outcome: Outcome,
    /// Why it is unknown, where it is not because of an invariant.
    pub unproven: Vec<String>,
    /// One for each invariant.
    pub verdicts: Vec<Verdict>,
}

/// An invariant, how it is checked, and how much must be checked for a pass.
struct Invariant {
    id: &'static str,
    promise: &'static str,
    check: fn(&Evidence) -> Finding,
    checked_min: u64,
}

const INVARIANTS: [Invariant; 14] = [
    Invariant {
        id: "I1",
        promise: "an order that was accepted exists, as it was sent",
        check: orders::durable,
        checked_min: 50,
    },
    Invariant { id: "I2", promise: "one key makes at most one order", check: orders::once, checked_min: 50 },
    Invariant {
        id: "I3",
        promise: "every accepted order ends as it must",
        check: orders::live,
        checked_min: 50,
    },
    Invariant {
        id: "I4",
        promise: "an order is charged and refunded once, or not at all",
        check: orders::charge,
        checked_min: 50,
    },
    Invariant { id: "I5", promise: "money adds up at every moment", check: money::adds_up, checked_min: 20 },
    Invariant {
        id: "I6",
        promise: "one delivery for each paid order, and none for another",
        check: orders::delivery,
        checked_min: 50,
    },
    Invariant {
        id: "I7",
        promise: "statuses move forward only, and the services agree",
        check: topics::order,
        checked_min: 50,
    },
    Invariant {
        id: "I8",
        promise: "every record is in the tally of each group, and every event in its topic",
        check: topics::tally,
        checked_min: 16,
    },
    Invariant {
        id: "I9",
        promise: "after the repair no dead letter is open",
        check: topics::redrive,
        checked_min: 5,
    },
    Invariant {
        id: "I10",
        promise: "no client sees an order go back",
        check: clients::reads,
        checked_min: 50,
    },
    Invariant {
        id: "I11",
        promise: "nobody reads what is somebody else's",
        check: clients::own,
        checked_min: 10,
    },
    Invariant {
        id: "I12",
        promise: "every answer comes in time, and a refusal says when to come back",
        check: clients::fail_fast,
        checked_min: 100,
    },
    Invariant { id: "I13", promise: "no panic and no secret in a log", check: quiet, checked_min: 50 },
    Invariant {
        id: "I14",
        promise: "whatever can be survived is survived: requests succeed and consumers move",
        check: liveness::moving,
        checked_min: 50,
    },
];

/// Judges a run.
#[must_use]
pub fn judge(evidence: &Evidence) -> Judgement {
    let verdicts: Vec<Verdict> = INVARIANTS.iter().map(|invariant| verdict(invariant, evidence)).collect();
    let unproven = unproven(evidence);
    let outcome = if verdicts.iter().any(|verdict| verdict.outcome == Outcome::Fail) {
        Outcome::Fail
    } else if !unproven.is_empty()
        || verdicts.iter().any(|verdict| verdict.required && verdict.outcome == Outcome::Unknown)
    {
        Outcome::Unknown
    } else {
        Outcome::Pass
    };
    Judgement { outcome, unproven, verdicts }
}

fn verdict(invariant: &Invariant, evidence: &Evidence) -> Verdict {
    let Finding { checked, mut violations } = (invariant.check)(evidence);
    let violated = violations.len();
    violations.truncate(KEPT_MAX);
    let outcome = match (violated, checked) {
        (1.., _) => Outcome::Fail,
        (0, checked) if checked >= invariant.checked_min => Outcome::Pass,
        (0, _) => Outcome::Unknown,
    };
    let poisoned = evidence.info.plan.faults.iter().any(|fault| fault.action == Action::Poison);
    Verdict {
        id: invariant.id.to_owned(),
        promise: invariant.promise.to_owned(),
        outcome,
        checked,
        checked_min: invariant.checked_min,
        // Without poison there are no letters to redrive.
        required: invariant.id != "I9" || poisoned,
        violated,
        violations,
    }
}

/// Why a run without a violation proves less than it was to prove.
fn unproven(evidence: &Evidence) -> Vec<String> {
    let mut unproven = Vec::new();
    let landed = evidence.faults.iter().filter(|fault| fault.landed.is_some()).count();
    let least = evidence.info.plan.scenario.faults_min;
    if landed < least {
        unproven.push(format!("{landed} faults landed, {least} are needed"));
    }
    let actions: BTreeSet<Action> = evidence.info.plan.faults.iter().map(|fault| fault.action).collect();
    for action in actions {
        if !evidence.faults.iter().any(|fault| fault.action == action && fault.landed.is_some()) {
            unproven.push(format!("no {} has landed", action.name()));
        }
    }
    for mark in &evidence.info.plan.scenario.marks {
        if evidence.info.counters.get(mark).is_none_or(|count| *count < 1.0) {
            unproven.push(format!("never reached: {mark}"));
        }
    }
    if let Some((failed, all)) = liveness::slow_machine(evidence) {
        unproven.push(format!(
            "{failed} of {all} calls failed before the first fault: the machine is too slow for this load, so the calls say \
             nothing about liveness"
        ));
    }
    unproven
}

fn quiet(evidence: &Evidence) -> Finding {
    let logs = &evidence.logs;
    let found = logs
        .panics
        .iter()
        .map(|line| ("panic", line))
        .chain(logs.secrets.iter().map(|line| ("secret", line)));
    let violations =
        found.map(|(subject, line)| Violation { subject: subject.to_owned(), what: line.clone() }).collect();
    Finding { checked: logs.lines, violations }
}

#[cfg(test)]
mod tests;
