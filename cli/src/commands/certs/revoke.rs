//! `certs revoke`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use holdfast_certs::Pki;
use holdfast_common::duration::parse_duration;
use serde::Serialize;

use super::{
    folder::{Folder, Issued, all_known, author, parse_identity, report},
    running::{InUse, Running},
};
use crate::{
    consent::Consent,
    options::{By, Output, parse_reason},
    output::{Outcome, say},
};

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    #[command(flatten)]
    pub(super) folder: Folder,
    /// The identity
    #[arg(value_parser = parse_identity)]
    name: String,
    /// Why; written into the deny list and the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    consent: Consent,
    /// How long to wait until the running services use the list
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_duration)]
    wait: Duration,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    revoked: RevokedLine,
    /// The one that replaces it.
    certificate: Issued,
    #[serde(flatten)]
    in_use: InUse,
}

#[derive(Serialize)]
struct RevokedLine {
    name: String,
    serial: String,
    reason: String,
}

impl Revoke {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let pki = Pki::open_by(&self.folder.path()?, author(self.by.name(), None))?;
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
        let now = pki.leaf_status(&self.name)?;
        report(&now);
        let in_use = Running::of(&self.folder)?.wait_until_used(&pki, self.wait).await?;
        let revoked =
            RevokedLine { name: leaf.name.clone(), serial: leaf.serial.clone(), reason: self.reason.clone() };
        let document = Document { revoked, certificate: self.folder.issued(now, Some(leaf))?, in_use };
        self.output.print(&document, || Ok(()))?;
        document.in_use.all()?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{commands::certs::folder::example, output::json, snapshot};

    /// The shape of its JSON.
    #[test]
    fn what_was_revoked_is_shown() {
        let certificate = example("gateway");
        let revoked = RevokedLine {
            name: "gateway".to_owned(),
            serial: certificate.replaces.clone().expect("it replaces one"),
            reason: "stolen laptop".to_owned(),
        };
        let document = Document { revoked, certificate, in_use: InUse::example() };
        snapshot::check("json/certs-revoke.json", &json(&document));
    }
}
