//! `databases`: in servers that are not the native stack's.

mod ensure;

use anyhow::Result;
use clap::Subcommand;

use self::ensure::Ensure;
use crate::{output::Outcome, runtime::block_on};

#[derive(Debug, Subcommand)]
pub(crate) enum Databases {
    /// Create role and database of each service where they are missing
    Ensure(Ensure),
}

impl Databases {
    pub(crate) fn run(&self) -> Result<Outcome> {
        match self {
            Self::Ensure(ensure) => block_on(ensure.run()),
        }
    }
}
