//! `certs init`.

use anyhow::Result;
use clap::Args;
use holdfast_certs::{Pki, TokenIssuer};
use holdfast_native::layout::identities;

use super::folder::{Folder, report};
use crate::output::Outcome;

#[derive(Debug, Args)]
pub(crate) struct Init {
    #[command(flatten)]
    folder: Folder,
}

impl Init {
    pub(super) fn run(&self) -> Result<Outcome> {
        let folder = self.folder.path()?;
        let pki = Pki::open_or_init(&folder)?;
        for name in identities() {
            pki.ensure_leaf(name)?;
            report(&pki.leaf_status(name)?);
        }
        TokenIssuer::load_or_create(&folder)?;
        eprintln!("certificates are in {}", folder.display());
        Ok(Outcome::Done)
    }
}
