//! `secrets`: passwords in files.

mod init;

use anyhow::Result;
use clap::Subcommand;

use self::init::Init;
use crate::output::Outcome;

#[derive(Debug, Subcommand)]
pub(crate) enum Secrets {
    /// Create a random password for each name, where it is missing
    Init(Init),
}

impl Secrets {
    pub(crate) fn run(&self) -> Result<Outcome> {
        match self {
            Self::Init(init) => init.run(),
        }
    }
}
