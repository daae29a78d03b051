//! `dlq list`.

use std::io;

use anyhow::Result;
use clap::{Args, ValueEnum};
use holdfast_proto::ops::v1 as pb;
use serde::Serialize;

use super::{filter::Filter, letter::LetterLine, listing::matching};
use crate::{
    options::ListOutput,
    output::{Outcome, data, say},
    services::Services,
    table::Table,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    filter: Filter,
    /// In this state
    #[arg(long, value_enum, default_value_t = State::Parked)]
    state: State,
    /// At most this many
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    output: ListOutput,
}

/// What has become of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    Parked,
    Redriven,
    Discarded,
    SetAside,
    All,
}

impl From<State> for pb::DeadLetterState {
    fn from(state: State) -> Self {
        match state {
            State::Parked => Self::Parked,
            State::Redriven => Self::Redriven,
            State::Discarded => Self::Discarded,
            State::SetAside => Self::SetAside,
            State::All => Self::Unspecified,
        }
    }
}

#[derive(Serialize)]
struct Document {
    dead_letters: Vec<LetterLine>,
}

impl List {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, self.filter.service.as_deref())?;
        let most = self.limit as usize;
        let wanted = self.filter.in_state(self.state.into());
        let answers = matching(&services, &wanted, most).await?;
        let mut letters: Vec<LetterLine> =
            answers.each.iter().flat_map(|(_, letters)| letters).map(LetterLine::of).collect();
        // The ids are of version 7, so this is the order of parking over all services.
        letters.sort_by(|a, b| a.id.cmp(&b.id));
        if letters.len() > most {
            letters.truncate(most);
            say!("only the {most} oldest: narrow the filter, or raise --limit");
        }
        let nothing = letters.is_empty();
        let elsewhere = answers.elsewhere();
        if nothing {
            match self.state {
                State::All => say!("no dead letter matches{elsewhere}"),
                _ => say!(
                    "no dead letter matches{elsewhere}; --state all looks for those that have ended, too"
                ),
            }
        }
        let document = Document { dead_letters: letters };
        let ids = document.dead_letters.iter().map(|letter| letter.id.as_str());
        self.output.print(&document, ids, |is_wide| {
            if nothing { Ok(()) } else { print(&document.dead_letters, is_wide) }
        })?;
        Ok(answers.outcome(if nothing { Outcome::NothingMatched } else { Outcome::Done }))
    }
}

fn print(letters: &[LetterLine], is_wide: bool) -> io::Result<()> {
    data!("{}", if is_wide { wide(letters) } else { narrow(letters) })
}

/// What is copied is whole at any width; the rest as far as there is room.
pub(super) fn narrow(letters: &[LetterLine]) -> Table {
    let mut table = Table::new(&["ID", "AGE", "SERVICE", "CLASS", "TOPIC", "ORDER", "STATE", "REASON"])
        .cutting(&["REASON"])
        .sparing(&["CLASS", "SERVICE", "AGE", "TOPIC", "STATE", "ORDER"]);
    for letter in letters {
        table.add_row([
            &letter.id,
            &letter.age,
            &letter.service,
            &letter.class,
            &letter.topic,
            letter.key.as_deref().unwrap_or("-"),
            letter.state,
            &letter.reason,
        ]);
    }
    table
}

pub(super) fn wide(letters: &[LetterLine]) -> Table {
    let mut table = Table::new(&[
        "ID",
        "AGE",
        "SERVICE",
        "CLASS",
        "TOPIC",
        "PARTITION",
        "OFFSET",
        "ORDER",
        "STATE",
        "REDRIVES",
        "PARKED",
        "WAITS BEHIND",
        "REASON",
    ]);
    for letter in letters {
        table.add_row([
            &letter.id,
            &letter.age,
            &letter.service,
            &letter.class,
            &letter.topic,
            &letter.partition.to_string(),
            &letter.offset.to_string(),
            letter.key.as_deref().unwrap_or("-"),
            letter.state,
            &letter.redrive_count.to_string(),
            &letter.parked_at,
            letter.blocked_by.as_deref().unwrap_or("-"),
            &letter.reason,
        ]);
    }
    table
}
