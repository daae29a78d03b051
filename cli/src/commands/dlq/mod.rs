//! `dlq`: what operators do with dead letters. The services do the work; these commands call them as the identity `operator`
//! and show what they return.

mod audit;
mod discard;
mod done;
mod edit;
mod edit_many;
mod filter;
mod letter;
mod list;
mod listing;
mod moved;
mod named;
mod redrive;
mod redrives;
mod restore;
mod resume;
mod show;
mod siblings;
mod skip;
#[cfg(test)]
mod snapshots;
mod stats;

use anyhow::Result;
use clap::Subcommand;
use holdfast_operator::{document, schema};

use self::{
    audit::Audit, discard::Discard, edit::Edit, list::List, redrive::Redrive, restore::Restore,
    resume::Resume, show::Show, skip::Skip, stats::Stats,
};
use crate::{output::Outcome, runtime::block_on};

#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// Show dead letters, oldest first
    List(List),
    /// Show letters: headers, reason, attempts, history, and the value decoded by its schema
    Show(Show),
    /// Handle dead letters again, whole aggregates in order; a dry run unless --execute. Also shows and cancels redrives
    Redrive(Redrive),
    /// Repair a dead letter in an editor or by options: event, key, headers; the original is kept. Also headers and key of all that match
    Edit(Box<Edit>),
    /// Give up dead letters; what waits behind them is released at the next redrive
    Discard(Discard),
    /// Take discards back: the letters are parked again, as they were
    Restore(Restore),
    /// Resume consumers that stopped because of too many dead letters
    Resume(Resume),
    /// Skip records that cannot be read at all, as readiness names them; their place is kept
    Skip(Skip),
    /// Show how many are parked, since when, and which consumers stopped because of them
    Stats(Stats),
    /// Show who did what to which dead letter
    Audit(Audit),
}

impl Dlq {
    pub(crate) fn run(&self) -> Result<Outcome> {
        block_on(async {
            match self {
                Self::List(list) => list.run().await,
                Self::Show(show) => show.run().await,
                Self::Redrive(redrive) => redrive.run().await,
                Self::Edit(edit) => edit.run().await,
                Self::Discard(discard) => discard.run().await,
                Self::Restore(restore) => restore.run().await,
                Self::Resume(resume) => resume.run().await,
                Self::Skip(skip) => skip.run().await,
                Self::Stats(stats) => stats.run().await,
                Self::Audit(audit) => audit.run().await,
            }
        })
    }
}
