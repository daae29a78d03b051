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
