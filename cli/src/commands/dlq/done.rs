//! What a command has done to letters, one by one: of those that edit, discard or restore.

use serde::Serialize;

use crate::{
    options::Output,
    output::{Outcome, data},
    table::Table,
};
use anyhow::Result;

/// What has become of a letter, as `-o json` shows it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Line {
    pub(super) id: String,
    /// `null`: no service has such a letter.
    pub(super) service: Option<&'static str>,
    pub(super) result: Done,
    /// Why nothing was done.
    pub(super) reason: Option<String>,
}

/// How it ended for one letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Done {
    Discarded,
    Restored,
    Edited,
    /// Its edits were taken back.
    Reverted,
    /// A dry run: it would be edited.
    Planned,
    /// A dry run: its service would refuse the edit.
    WouldFail,
    /// Its service has refused, or has failed.
    Failed,
    /// It is not in the state for this, or is so already.
    Left,
    /// The service could not be asked, or its answer was lost: whether it was done is not known.
    Unknown,
    /// There is no such letter.
    Absent,
}

impl Done {
    pub(super) const fn is_done(self) -> bool {
        matches!(self, Self::Discarded | Self::Restored | Self::Edited | Self::Reverted)
    }
}

/// A command's result, as `-o json` shows it.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    /// `edit`, `discard` or `restore`.
    pub(super) action: &'static str,
    /// False: a dry run.
    pub(super) executed: bool,
    /// Letters to which it was done.
    pub(super) done: usize,
    pub(super) dead_letters: Vec<Line>,
}

impl Document {
    pub(super) fn of(action: &'static str, executed: bool, lines: Vec<Line>) -> Self {
        let done = lines.iter().filter(|line| line.result.is_done()).count();
        Self { action, executed, done, dead_letters: lines }
    }

    pub(super) fn count(&self, result: Done) -> usize {
        self.dead_letters.iter().filter(|line| line.result == result).count()
    }

    /// For people the ids of those to which it was done, which other commands read.
    pub(super) fn print(&self, output: &Output) -> Result<()> {
        output.print(self, || {
            let mut done = self.dead_letters.iter().filter(|line| line.result.is_done());
            done.try_for_each(|line| data!("{}", line.id))
        })
    }

    /// Done if it was done to all, or they are so already.
    pub(super) fn outcome(&self) -> Outcome {
        let failed = self.count(Done::Failed) + self.count(Done::Unknown);
        match (self.done, self.dead_letters.len()) {
            (0, _) if failed > 0 => Outcome::Failed,
            (0, _) => Outcome::NothingMatched,
            (done, all) if done < all => Outcome::Partly,
            _ => Outcome::Done,
        }
    }
}

/// Letters to which it was not done, with the reasons.
pub(super) fn failures<'l>(lines: impl Iterator<Item = &'l Line>) -> Table {
    let mut table = Table::new(&["ID", "SERVICE", "REASON"]).cutting(&["REASON"]).sparing(&["SERVICE"]);
    for line in lines {
        let reason = line.reason.as_deref().unwrap_or_default();
        table.add_row([line.id.as_str(), line.service.unwrap_or("-"), reason]);
    }
    table
}
