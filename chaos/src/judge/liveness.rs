//! Liveness (I14). The run knows which faults are on. Whenever all of them have been survivable for the time that recovery
//! has, calls must succeed and every group with lag must move. Outside of that nothing is required.

use super::{Finding, Violation, windows::Windows};
use crate::{
    evidence::Evidence,
    journal::{Call, Operation},
};

const SECOND: u64 = 1_000_000;
/// Of the calls that nothing excuses, one in a thousand may fail.
const FAILED_SHARE_MAX: f64 = 0.001;
/// A group with lag that has dealt with nothing for this long stands still.
const STANDSTILL: u64 = 10 * SECOND;

pub(super) fn moving(evidence: &Evidence) -> Finding {
    let mut finding = Finding::default();
    calls_succeed(evidence, &mut finding);
    groups_move(evidence, &mut finding);
    for fault in &evidence.faults {
        if fault.landed.is_some() {
            finding.check(fault.over.is_some(), &fault.target, || {
                format!("fault {} was never over: {:?}", fault.number, fault.error)
            });
        }
    }
    if let Some(stuck) = &evidence.info.stuck {
        finding.check(false, "the run", || stuck.clone());
    }
    finding.check(evidence.info.settled.is_some(), "the run", || {
        "not everything ended after the load".to_owned()
    });
    finding
}

/// Calls of a client that waits for its answer, and that no fault excuses.
pub(super) fn unexcused(evidence: &Evidence) -> impl Iterator<Item = &Call> {
    let windows: Vec<(Operation, Windows)> = [
        Operation::Create,
        Operation::Read,
        Operation::Foreign,
        Operation::List,
        Operation::Account,
        Operation::Credit,
    ]
    .into_iter()
    .map(|op| (op, Windows::of_calls(evidence, op)))
    .collect();
    evidence.calls.iter().filter(move |call| {
        let windows = windows.iter().find(|(op, _)| *op == call.op).map(|(_, windows)| windows);
        let excused = windows.is_some_and(|windows| windows.touch(call.begin, call.end.unwrap_or(u64::MAX)));
        !excused && !went_away(call)
    })
}

/// Whether the client itself gave up.
pub(super) fn went_away(call: &Call) -> bool {
    call.facts.error.as_deref().is_some_and(|error| error.starts_with("the client went away"))
        && call.end.is_some_and(|end| end - call.begin < SECOND)
}

/// Of the calls that nothing excuses, how many may fail: one in a thousand, and one is no share of few.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of calls are far below 2^52"
)]
fn failed_max(all: usize) -> usize {
    (all as f64 * FAILED_SHARE_MAX).max(1.0) as usize
}

/// The calls that failed before the first fault, and all of them, if these are too many: then what fails later says
/// nothing about the faults.
pub(super) fn slow_machine(evidence: &Evidence) -> Option<(usize, usize)> {
    let first = evidence.faults.iter().map(|fault| fault.begin).min()?;
    let before = unexcused(evidence).filter(|call| call.end.is_some_and(|end| end < first));
    let (mut all, mut failed) = (0, 0);
    for call in before {
        all += 1;
        failed += usize::from(!call.is_answered_well());
    }
    (failed > failed_max(all)).then_some((failed, all))
}

fn calls_succeed(evidence: &Evidence, finding: &mut Finding) {
    if slow_machine(evidence).is_some() {
        return;
    }
    let (mut all, mut failed) = (0, Vec::new());
    for call in unexcused(evidence) {
        all += 1;
        if !call.is_answered_well() {
            failed.push(call);
        }
    }
    finding.checked += u64::try_from(all).unwrap_or(u64::MAX);
    if failed.len() > failed_max(all) {
        finding.violations.extend(failed.into_iter().map(unanswered));
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of hours are far below 2^52")]
fn unanswered(call: &Call) -> Violation {
    Violation {
        subject: call.facts.order_id.clone().or_else(|| call.facts.key.clone()).unwrap_or_default(),
        what: format!(
            "{} at {:.1} s was answered {} after {} ms, with no fault in its way",
            call.op.name(),
            call.begin as f64 / SECOND as f64,
            call.facts
                .http
                .map_or_else(|| call.facts.error.clone().unwrap_or_default(), |http| http.to_string()),
            call.end.unwrap_or(call.begin).saturating_sub(call.begin) / 1_000,
        ),
    }
}

fn groups_move(evidence: &Evidence, finding: &mut Finding) {
    let excused = Windows::of_consumers(evidence);
    let services: std::collections::BTreeSet<&String> =
        evidence.samples.iter().flat_map(|sample| sample.services.keys()).collect();
    for service in services {
        // Since when nothing has moved, although something waits and no fault is in the way.
        let mut still: Option<(u64, i64)> = None;
        let mut said = false;
        for sample in &evidence.samples {
            let seen = sample.services.get(service).and_then(|seen| Some((seen.tally, seen.lag?)));
            let Some((tally, lag)) = seen.filter(|(_, lag)| *lag > 0) else {
                still = None;
                continue;
            };
            let (since, _) = match still {
                Some((since, before)) if before == tally && !excused.touch(since, sample.time) => {
                    (since, before)
                }
                _ => (sample.time, tally),
            };
            still = Some((since, tally));
            let stands = sample.time - since > STANDSTILL;
            finding.check(!stands || said, service, || {
                format!(
                    "{lag} records wait, and none was dealt with from {} s to {} s",
                    since / SECOND,
                    sample.time / SECOND
                )
            });
            said |= stands;
        }
    }
}
