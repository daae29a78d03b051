//! `chaos`: kills components under load, and says what held.

mod check;
mod list;
mod run;

use std::path::Path;

use anyhow::Result;
use clap::Subcommand;
use holdfast_chaos::{judge, report::Report};

use self::{check::Check, list::List, run::Run};
use crate::{
    options::Output,
    output::{Outcome, data, say},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Chaos {
    /// Put load on a stack, do a scenario's faults to it, and judge what it kept of its promises
    Run(Run),
    /// Show the scenarios
    List(List),
    /// Judge the evidence of an earlier run again
    Check(Check),
}

impl Chaos {
    pub(crate) fn run(&self) -> Result<Outcome> {
        match self {
            Self::Run(run) => run.run(),
            Self::List(list) => list.run(),
            Self::Check(check) => check.run(),
        }
    }
}

/// Prints a report, and says where the rest is. The verdict is the outcome.
fn show(report: &Report, output: &Output, folder: &Path) -> Result<Outcome> {
    output.print(report, || data!("{}", report.text().trim_end()))?;
    say!("report: {}", folder.join("report.html").display());
    Ok(match report.judgement.outcome {
        judge::Outcome::Pass => Outcome::Done,
        judge::Outcome::Fail => Outcome::Failed,
        judge::Outcome::Unknown => Outcome::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use holdfast_chaos::{
        evidence::RunInfo,
        judge::{
            Judgement, Outcome, Verdict, Violation,
            recovery::{Recovery, Summary},
            statistics::{Calls, Statistics},
        },
        scenario::{Plan, Scenario},
        storm::FaultRecord,
    };

    use super::*;
    use crate::{output::json, snapshot};

    fn report() -> Report {
        let components = ["order", "payment", "kafka"].map(str::to_owned).to_vec();
        let scenario = Scenario::named("kill-kafka").expect("built in");
        let mut plan = Plan::draw("kill-kafka", scenario, 7, &components, &[]);
        plan.faults.truncate(1);
        let fault = plan.faults.first().expect("it has one");
        let landed = FaultRecord {
            over: Some(9_000_000),
            landed: Some("process 17 is gone".to_owned()),
            ..FaultRecord::begun(1, fault, 5_000_000)
        };
        let info = RunInfo {
            run: "run-7".to_owned(),
            began_at: "2026-01-31T12:00:00Z".to_owned(),
            command: "holdfast chaos run --scenario kill-kafka --seed 7".to_owned(),
            commit: "unknown".to_owned(),
            machine: "2 processors, 8 GiB".to_owned(),
            users: vec!["run-7-1".to_owned()],
            plan,
            components,
            unavailable: Vec::new(),
            load_began: 0,
            storm: [5_000_000, 30_000_000],
            load_ended: 40_000_000,
            settled: Some(41_000_000),
            stuck: None,
            resolved: 2,
            discarded: 0,
            before_repair: Vec::new(),
            re_emitted: 0,
            open_before: BTreeSet::new(),
            counters: BTreeMap::new(),
        };
        let verdict = Verdict {
            id: "I2".to_owned(),
            promise: "one key makes at most one order".to_owned(),
            outcome: Outcome::Fail,
            checked: 60,
            checked_min: 50,
            required: true,
            violated: 1,
            violations: vec![Violation {
                subject: "key-7".to_owned(),
                what: "it made two orders".to_owned(),
            }],
        };
        Report {
            judgement: Judgement { outcome: Outcome::Fail, unproven: Vec::new(), verdicts: vec![verdict] },
            info,
            faults: vec![landed],
            recoveries: vec![Recovery { fault: 1, accepts_after: Some(0.2), drained_after: Some(3.0) }],
            recovery_by_kind: BTreeMap::from([(
                "kill kafka".to_owned(),
                Summary { landed: 1, missed: 0, accepts: Some([0.2; 3]), drained: None },
            )]),
            marks: BTreeMap::from([("producer replaced".to_owned(), 1)]),
            statistics: Statistics {
                calls: BTreeMap::from([(
                    "create".to_owned(),
                    Calls { well: 59, failed: 1, unknown: 0, given_up: 0 },
                )]),
                answers: BTreeMap::from([(201, 59), (503, 1)]),
                attempts_well: 0.98,
                orders_well: 1.0,
                unexcused: 0,
                unexcused_failed: 0,
                unknown_resolved: 2,
                landed: 1,
                violation_chance_max: None,
                unseen_share: Some(1.0),
            },
            stories: BTreeMap::from([("key-7".to_owned(), vec!["5.0 s: sent".to_owned()])]),
            not_tested: vec!["clocks that jump".to_owned()],
        }
    }

    /// The shape of its JSON, which is also that of `report.json`.
    #[test]
    fn a_report_is_shown() {
        snapshot::check("json/chaos-run.json", &json(&report()));
    }
}
