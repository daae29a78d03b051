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
    services::{Answers, Services},
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
    /// How many match, these included; `null` if that is not known.
    matching: Option<u64>,
    /// Whether there are more than `matching`: services count up to a limit.
    more_match: bool,
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
        let elsewhere = answers.elsewhere();
        let mut counted = Counted { matching: Some(letters.len() as u64), more_match: false };
        if letters.len() > most {
            letters.truncate(most);
            counted = count(&services, &wanted, &answers).await;
            say!("{}{elsewhere}: narrow the filter, or raise --limit", counted.of(most));
        }
        let nothing = letters.is_empty();
        if nothing {
            match self.state {
                State::All => say!("no dead letter matches{elsewhere}"),
                _ => say!(
                    "no dead letter matches{elsewhere}; --state all looks for those that have ended, too"
                ),
            }
        }
        let Counted { matching, more_match } = counted;
        // Of those that could not be asked nobody knows how many they have.
        let matching = matching.filter(|_| !answers.any_away());
        let document = Document { dead_letters: letters, matching, more_match };
        let ids = document.dead_letters.iter().map(|letter| letter.id.as_str());
        self.output.print(&document, ids, |is_wide| {
            if nothing { Ok(()) } else { print(&document.dead_letters, is_wide) }
        })?;
        Ok(answers.outcome(if nothing { Outcome::NothingMatched } else { Outcome::Done }))
    }
}

/// How many letters match, over the services that were asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counted {
    /// Absent: a service can't say it.
    matching: Option<u64>,
    /// There are more.
    more_match: bool,
}

impl Counted {
    /// What a list of the oldest `shown` is a part of.
    fn of(self, shown: usize) -> String {
        match self {
            Self { matching: None, .. } => format!("only the {shown} oldest"),
            Self { matching: Some(all), more_match: false } => format!("the oldest {shown} of {all}"),
            Self { matching: Some(all), more_match: true } => {
                format!("the oldest {shown} of more than {all}")
            }
        }
    }
}

/// Asks those that have answered before, each for a page of one letter: how many there are matters only if not all are shown.
async fn count(
    services: &Services,
    wanted: &pb::ListDeadLettersRequest,
    answers: &Answers<'_, Vec<pb::DeadLetter>>,
) -> Counted {
    let mut counted = Counted { matching: Some(0), more_match: false };
    for service in &services.all {
        if !answers.each.iter().any(|(answered, _)| answered.name == service.name) {
            continue;
        }
        let request = pb::ListDeadLettersRequest { page_size: 1, count: true, ..wanted.clone() };
        let Ok(request) = service.request(request) else { return Counted { matching: None, ..counted } };
        // One that is of an earlier version, or is away by now, says nothing: the list is there all the same.
        let answer = service.answer(service.dead_letters().list_dead_letters(request).await).ok();
        let matching = answer.as_ref().and_then(|answer| answer.matching);
        counted.more_match |= answer.is_some_and(|answer| answer.more_match);
        counted.matching = counted.matching.zip(matching).map(|(all, more)| all + more);
    }
    counted
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{output::json, snapshot};

    /// A list that is not all says of how many it is the oldest part, as far as that is counted.
    #[test]
    fn a_part_says_of_how_many() {
        let counted = |matching, more_match| Counted { matching, more_match }.of(50);
        assert_eq!(counted(Some(1_234), false), "the oldest 50 of 1234");
        assert_eq!(counted(Some(11_234), true), "the oldest 50 of more than 11234");
        assert_eq!(counted(None, false), "only the 50 oldest");
        let document = Document { dead_letters: Vec::new(), matching: Some(11_234), more_match: true };
        snapshot::check("json/dlq-list-whole.json", &json(&document));
    }
}
