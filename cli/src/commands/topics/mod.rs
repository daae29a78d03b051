//! `topics`: on brokers that are not the native stack's.

mod ensure;

use anyhow::Result;
use clap::Subcommand;

use self::ensure::Ensure;
use crate::{output::Outcome, runtime::block_on};

#[derive(Debug, Subcommand)]
pub(crate) enum Topics {
    /// Create the topics that are missing
    Ensure(Ensure),
}

impl Topics {
    pub(crate) fn run(&self) -> Result<Outcome> {
        match self {
            Self::Ensure(ensure) => block_on(ensure.run()),
        }
    }
}
