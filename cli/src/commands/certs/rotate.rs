//! `certs rotate`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use holdfast_certs::{LeafState, LeafStatus, Phase, Pki};
use holdfast_common::duration::parse_duration;
use serde::Serialize;
use time::OffsetDateTime;

use super::{
    folder::{Changes, Folder, Issued, all_known, parse_identity, report},
    running::{InUse, Running},
};
use crate::{
    consent::Consent,
    options::Output,
    output::{Outcome, say},
};

#[derive(Debug, Args)]
pub(crate) struct Rotate {
    #[command(flatten)]
    pub(super) folder: Folder,
    /// Replace the authority too: trust both, renew every certificate, trust the new one only
    #[arg(long, conflicts_with = "names")]
    ca: bool,
    /// Only these identities
    #[arg(value_parser = parse_identity)]
    names: Vec<String>,
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    consent: Consent,
    /// How long to wait in each step until the running services use its files
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_duration)]
    wait: Duration,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    /// Whether the authority was replaced, too.
    authority_replaced: bool,
    certificates: Vec<Issued>,
    #[serde(flatten)]
    in_use: InUse,
}

impl Rotate {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let pki = self.folder.open_by(&self.changes)?;
        let running = Running::of(&self.folder)?;
        if self.ca {
            let touched = format!(
                "the authority in {} is replaced: nothing that it has signed is trusted any more, and every certificate of {} is \
                 issued anew",
                self.folder.path()?.display(),
                pki.identities()?.join(", ")
            );
            if !self.consent.to(&touched, "replace it?")? {
                return Ok(Outcome::Failed);
            }
            let (names, before) = before(&pki, pki.identities()?);
            let in_use = self.replace_authority(&pki, &running).await?;
            return self.conclude(&pki, &names, before, in_use);
        }
        if !all_known(&pki, &self.names)? {
            return Ok(Outcome::Usage);
        }
        let names = if self.names.is_empty() { pki.identities()? } else { self.names.clone() };
        let (names, before) = before(&pki, names);
        for name in &names {
            pki.rotate(name)?;
            report(&pki.leaf_status(name)?);
        }
        let in_use = running.of_identities(&names).wait_until_used(&pki, self.wait).await?;
        self.conclude(&pki, &names, before, in_use)
    }

    /// Fails, after what there is to print, if not all of them are used.
    fn conclude(
        &self,
        pki: &Pki,
        names: &[String],
        before: Vec<Option<LeafStatus>>,
        in_use: InUse,
    ) -> Result<Outcome> {
        let issued = names.iter().zip(before);
        let issued = issued.map(|(name, before)| self.folder.issued(pki.leaf_status(name)?, before));
        let document =
            Document { authority_replaced: self.ca, certificates: issued.collect::<Result<_>>()?, in_use };
        self.output.print(&document, || Ok(()))?;
        document.in_use.all()?;
        Ok(Outcome::Done)
    }

    /// Old, then both, then new: each step begins when every running service uses the files of the previous one, so
    /// that no connection ever fails. A command that was killed continues where it stopped.
    async fn replace_authority(&self, pki: &Pki, running: &Running) -> Result<InUse> {
        // Nobody can use what has expired, so there is nothing to keep working, and running services may have refused
        // files for hours: the steps follow each other without waiting.
        let usable = pki.authority_not_after()? > OffsetDateTime::now_utc() && all_usable(pki)?;
        let nobody = Running::default();
        let between = if usable { running } else { &nobody };
        if !usable {
            say!("the current certificates have expired or are refused: replacing them without an overlap");
        }
        if pki.phase()? != Some(Phase::Leaves) {
            pki.begin_rotation()?;
            say!("1/3 the new authority is trusted beside the old one");
            between.wait_until_used(pki, self.wait).await?.all()?;
        }
        pki.renew_all_by_next()?;
        say!("2/3 every certificate is renewed by the new authority");
        between.wait_until_used(pki, self.wait).await?.all()?;
        pki.finish_rotation()?;
        say!("3/3 the old authority is not trusted any more");
        running.wait_until_used(pki, self.wait).await
    }
}

/// The identities, and what each of them has now; a file that can't be read is replaced like any other.
fn before(pki: &Pki, names: Vec<String>) -> (Vec<String>, Vec<Option<LeafStatus>>) {
    let leaves = names.iter().map(|name| pki.leaf_status(name).ok()).collect();
    (names, leaves)
}

/// Whether services that have loaded these certificates can go on with them. A file that was damaged since is not in their way.
fn all_usable(pki: &Pki) -> Result<bool> {
    let over = [LeafState::Expired, LeafState::Revoked, LeafState::Untrusted];
    let names = pki.identities()?.into_iter();
    Ok(names.filter_map(|name| pki.leaf_status(&name).ok()).all(|leaf| !over.contains(&leaf.state)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{commands::certs::folder::example, output::json, snapshot};

    /// The shape of its JSON.
    #[test]
    fn what_was_rotated_is_shown() {
        let document = Document {
            authority_replaced: false,
            certificates: ["order", "payment"].map(example).into(),
            in_use: InUse::example(),
        };
        snapshot::check("json/certs-rotate.json", &json(&document));
    }
}
