//! `orders`: where orders are, over all services, from the events that these have written and handled.

mod letters;
mod show;
mod stuck;

use anyhow::Result;
use clap::Subcommand;
use holdfast_operator::examine::Missing;

use self::{show::Show, stuck::Stuck};
use crate::output::Outcome;

#[derive(Debug, Subcommand)]
pub(crate) enum Orders {
    /// Show what has happened to an order, and what it waits for
    Show(Show),
    /// List orders that are unfinished for too long, with what each waits for and where that is
    Stuck(Stuck),
}

impl Orders {
    pub(crate) fn run(&self) -> Result<Outcome> {
        match self {
            Self::Show(show) => show.run(),
            Self::Stuck(stuck) => stuck.run(),
        }
    }
}

/// Where an event is that a reader has not handled, for people.
fn place_of(missing: &Missing) -> String {
    if missing.detail.is_empty() {
        missing.state.name().to_owned()
    } else {
        format!("{}: {}", missing.state.name(), missing.detail)
    }
}
