//! `outbox`: rows that can't be published and hold back their topic and key.

mod drop;
mod list;
mod retry;

use anyhow::Result;
use clap::Subcommand;

use self::{drop::Drop, list::List, retry::Retry};
use crate::{output::Outcome, runtime::block_on};

#[derive(Debug, Subcommand)]
pub(crate) enum Outbox {
    /// Show the oldest row of each topic and key that is held back, and why
    List(List),
    /// Try rows now rather than after their pause
    Retry(Retry),
    /// Give up rows: they are never published, and what waits behind them is
    Drop(Drop),
}

impl Outbox {
    pub(crate) fn run(&self) -> Result<Outcome> {
        block_on(async {
            match self {
                Self::List(list) => list.run().await,
                Self::Retry(retry) => retry.run().await,
                Self::Drop(drop) => drop.run().await,
            }
        })
    }
}
