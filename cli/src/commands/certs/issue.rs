//! `certs issue`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use holdfast_common::duration::parse_duration;

use super::folder::{Folder, parse_identity, report};
use crate::output::Outcome;

#[derive(Debug, Args)]
pub(crate) struct Issue {
    #[command(flatten)]
    folder: Folder,
    /// The name of the identity, such as `reporting`
    #[arg(value_parser = parse_identity)]
    name: String,
    /// How long it is valid, at most 24h
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = parse_duration)]
    ttl: Duration,
}

impl Issue {
    pub(super) fn run(&self) -> Result<Outcome> {
        let pki = self.folder.open()?;
        pki.issue(&self.name, self.ttl.try_into().context("the time is too long")?)?;
        report(&pki.leaf_status(&self.name)?);
        Ok(Outcome::Done)
    }
}
