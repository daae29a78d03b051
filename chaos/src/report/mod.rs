//! What a run says: one JSON document, a few lines for the terminal, and one page that needs nothing but a browser.

mod chart;
mod html;

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{
    evidence::{Evidence, Folder, RunInfo},
    judge::{
        self, Judgement, Outcome,
        recovery::{self, Recovery, Summary},
        statistics::{Statistics, statistics},
        story,
    },
    storm::FaultRecord,
    watch::MARKS,
};

/// Violations whose whole story is told.
const STORIES_MAX: usize = 5;

/// Everything that was concluded from a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The verdicts.
    pub judgement: Judgement,
    /// What was run.
    pub info: RunInfo,
    /// What was done to the stack.
    pub faults: Vec<FaultRecord>,
    /// How the stack recovered from each fault.
    pub recoveries: Vec<Recovery>,
    /// The same by kind of fault.
    pub recovery_by_kind: BTreeMap<String, Summary>,
    /// Rare places that were reached, and how often.
    pub marks: BTreeMap<String, u64>,
    /// The numbers.
    pub statistics: Statistics,
    /// The whole story of the first violations, by their subject.
    pub stories: BTreeMap<String, Vec<String>>,
    /// What no run of this kind tests.
    pub not_tested: Vec<String>,
}

/// What no process on one machine can show.
const NOT_TESTED: [&str; 4] = [
    "loss of power: what the machine has not written to its disk",
    "a second broker: there is one, so nothing is replicated and no leader changes",
    "the network between machines: everything is on loopback",
    "clocks that jump",
];

impl Report {
    /// Judges a run. `folder` is where its evidence is.
    #[must_use]
    pub fn of(evidence: &Evidence, folder: &Folder) -> Self {
        let judgement = judge::judge(evidence);
        let recoveries = recovery::recoveries(evidence);
        let logs = folder.file("logs");
        let subjects = judgement.verdicts.iter().filter_map(|verdict| verdict.violations.first());
        let stories = subjects
            .take(STORIES_MAX)
            .map(|violation| (violation.subject.clone(), story::story(evidence, &violation.subject, &logs)))
            .collect();
        Self {
            statistics: statistics(evidence),
            recovery_by_kind: recovery::by_kind(evidence, &recoveries),
            recoveries,
            marks: marks(&evidence.info),
            stories,
            not_tested: not_tested(&evidence.info),
            faults: evidence.faults.clone(),
            info: evidence.info.clone(),
            judgement,
        }
    }

    /// Writes `report.json` and `report.html`.
    pub fn write(&self, evidence: &Evidence, folder: &Folder) -> Result<()> {
        folder.write("report.json", self)?;
        let path = folder.file("report.html");
        std::fs::write(&path, html::page(self, evidence))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// For the terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for verdict in &self.judgement.verdicts {
            let outcome = match (verdict.outcome, verdict.required) {
                (Outcome::Unknown, false) => "-",
                (outcome, _) => outcome.name(),
            };
            // Writing to a String can't fail.
            let _ = writeln!(
                text,
                "{:<8} {:<4} {} ({} checked)",
                outcome, verdict.id, verdict.promise, verdict.checked
            );
            for violation in verdict.violations.iter().take(3) {
                let _ = writeln!(text, "              {}: {}", violation.subject, violation.what);
            }
            if verdict.violated > 3 {
                let _ = writeln!(text, "              and {} more", verdict.violated - 3);
            }
        }
        for reason in &self.judgement.unproven {
            let _ = writeln!(text, "UNKNOWN  {reason}");
        }
        for kind in &self.info.unavailable {
            let _ = writeln!(text, "-             not tested: {kind}");
        }
        let numbers = &self.statistics;
        let _ = writeln!(
            text,
            "{} faults landed, {} tried without effect; {:.3} % of calls answered well at the first attempt, {:.3} % of \
             orders accepted in the end; {} of {} calls that nothing excuses failed",
            numbers.landed,
            self.faults.len() - numbers.landed,
            numbers.attempts_well * 100.0,
            numbers.orders_well * 100.0,
            numbers.unexcused_failed,
            numbers.unexcused
        );
        if let (Some(bound), Outcome::Pass) = (numbers.violation_chance_max, self.judgement.outcome) {
            let _ = writeln!(
                text,
                "with 95 % confidence a fault of this kind violates something with a chance below {:.1} %",
                bound * 100.0
            );
        }
        let _ = writeln!(text, "{}", self.judgement.outcome.name());
        text
    }
}

/// What this run could not do, and what no run of this kind does.
fn not_tested(info: &RunInfo) -> Vec<String> {
    info.unavailable.iter().cloned().chain(NOT_TESTED.map(str::to_owned)).collect()
}

fn marks(info: &RunInfo) -> BTreeMap<String, u64> {
    MARKS
        .iter()
        .map(|mark| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "counters are small and whole"
            )]
            let count = info.counters.get(mark.name).copied().unwrap_or(0.0) as u64;
            (mark.name.to_owned(), count)
        })
        .collect()
}
