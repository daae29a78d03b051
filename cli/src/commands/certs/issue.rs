//! `certs issue`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use holdfast_common::duration::parse_duration;

use super::folder::{Folder, parse_identity, report};
use crate::{
    consent::Consent,
    output::{Outcome, say},
};

#[derive(Debug, Args)]
pub(crate) struct Issue {
    #[command(flatten)]
    pub(super) folder: Folder,
    /// The name of the identity, such as `reporting`
    #[arg(value_parser = parse_identity)]
    name: String,
    /// How long it is valid, at most 24h
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = parse_duration)]
    ttl: Duration,
    #[command(flatten)]
    consent: Consent,
}

impl Issue {
    pub(super) fn run(&self) -> Result<Outcome> {
        let pki = self.folder.open()?;
        // One that is there may be in use; one that can't be read is no use to anybody.
        if let Ok(leaf) = pki.leaf_status(&self.name) {
            let touched =
                format!("{} has a certificate (serial {}), which is replaced", leaf.name, leaf.serial);
            if !self.consent.to(&touched, "replace it?")? {
                return Ok(Outcome::Failed);
            }
        }
        pki.issue(&self.name, self.ttl.try_into().context("the time is too long")?)?;
        report(&pki.leaf_status(&self.name)?);
        say!("its files are in {}", self.folder.path()?.join(&self.name).display());
        Ok(Outcome::Done)
    }
}
