//! `certs init`.

use anyhow::Result;
use clap::Args;
use holdfast_certs::{Author, Pki, TokenIssuer};
use holdfast_native::layout::{GATEWAY, identities};

use super::folder::{Folder, author, parse_identity, report};
use crate::{
    options::By,
    output::{Outcome, say},
};

#[derive(Debug, Args)]
pub(crate) struct Init {
    #[command(flatten)]
    pub(super) folder: Folder,
    /// For these too, such as the servers of databases: the names by which they are reached
    #[arg(value_parser = parse_identity, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    by: By,
}

impl Init {
    pub(super) fn run(&self) -> Result<Outcome> {
        create_missing(&self.folder, &self.names, author(self.by.name(), None))?;
        Ok(Outcome::Done)
    }
}

/// Creates what is missing, for `more` beside our own identities, and renews what has less than half of its life left.
pub(super) fn create_missing(folder: &Folder, more: &[String], author: Author) -> Result<()> {
    let path = folder.path()?;
    let pki = Pki::open_or_init_by(&path, author)?;
    for name in identities().map(str::to_owned).chain(more.iter().cloned()) {
        pki.ensure_leaf(&name)?;
        report(&pki.leaf_status(&name)?);
    }
    TokenIssuer::load_or_create(&path)?;
    TokenIssuer::publish_keys(&path, &path.join(GATEWAY))?;
    say!("certificates are in {}", path.display());
    Ok(())
}
