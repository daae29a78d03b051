//! `chaos check`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use holdfast_chaos::{evidence::Folder, report::Report};

use super::show;
use crate::{options::Output, output::Outcome};

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The folder of the run
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    output: Output,
}

impl Check {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let folder = Folder::open(&self.folder);
        let evidence = folder.load()?;
        let report = Report::of(&evidence, &folder);
        report.write(&evidence, &folder)?;
        show(&report, &self.output, &self.folder)
    }
}
