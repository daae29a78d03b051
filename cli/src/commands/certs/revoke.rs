//! `certs revoke`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use holdfast_common::duration::parse_duration;

use super::{
    folder::{Folder, all_known, parse_identity},
    running::Running,
};
use crate::{
    consent::Consent,
    options::parse_reason,
    output::{Outcome, say},
};

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    #[command(flatten)]
    pub(super) folder: Folder,
    /// The identity
    #[arg(value_parser = parse_identity)]
    name: String,
    /// Why; written into the deny list
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    #[command(flatten)]
    consent: Consent,
    /// How long to wait until the running services use the list
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_duration)]
    wait: Duration,
}

impl Revoke {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let pki = self.folder.open()?;
        if !all_known(&pki, std::slice::from_ref(&self.name))? {
            return Ok(Outcome::Usage);
        }
        let touched = format!(
            "the certificate of {} (serial {}) is refused everywhere from now on, and another one is issued",
            self.name,
            pki.leaf_status(&self.name)?.serial
        );
        if !self.consent.to(&touched, "revoke it?")? {
            return Ok(Outcome::Failed);
        }
        let leaf = pki.revoke(&self.name, &self.reason)?;
        say!("revoked serial {} of {}", leaf.serial, leaf.name);
        Running::of(&self.folder)?.wait_until_used(&pki, self.wait).await?;
        Ok(Outcome::Done)
    }
}
