//! `certs issue`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use holdfast_common::duration::parse_duration;

use serde::Serialize;

use super::folder::{Changes, Folder, Issued, parse_identity, report};
use crate::{
    consent::Consent,
    options::Output,
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
    changes: Changes,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    certificate: Issued,
}

impl Issue {
    pub(super) fn run(&self) -> Result<Outcome> {
        let pki = self.folder.open_by(&self.changes)?;
        let before = pki.leaf_status(&self.name).ok();
        // One that is there may be in use; one that can't be read is no use to anybody.
        if let Some(leaf) = &before {
            let touched =
                format!("{} has a certificate (serial {}), which is replaced", leaf.name, leaf.serial);
            if !self.consent.to(&touched, "replace it?")? {
                return Ok(Outcome::Failed);
            }
        }
        pki.issue(&self.name, self.ttl.try_into().context("the time is too long")?)?;
        let leaf = pki.leaf_status(&self.name)?;
        report(&leaf);
        let document = Document { certificate: self.folder.issued(leaf, before)? };
        say!("its files are in {}", document.certificate.folder);
        self.output.print(&document, || Ok(()))?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{commands::certs::folder::example, output::json, snapshot};

    /// The shape of its JSON.
    #[test]
    fn what_was_issued_is_shown() {
        snapshot::check("json/certs-issue.json", &json(&Document { certificate: example("reporting") }));
    }
}
