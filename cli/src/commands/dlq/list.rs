//! `dlq list`.

use std::io;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use holdfast_proto::ops::v1 as pb;
use serde::Serialize;

use super::{
    filter::Filter,
    letter::{LetterLine, PAGE_SIZE},
};
use crate::{
    options::Output,
    output::{Outcome, data, say, table},
    services::Services,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    filter: Filter,
    /// In this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// At most this many
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    output: Output,
}

/// What has become of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    Parked,
    Redriven,
    Discarded,
    SetAside,
}

impl From<State> for pb::DeadLetterState {
    fn from(state: State) -> Self {
        match state {
            State::Parked => Self::Parked,
            State::Redriven => Self::Redriven,
            State::Discarded => Self::Discarded,
            State::SetAside => Self::SetAside,
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
        let mut letters = self.letters(&services).await?;
        let most = self.limit as usize;
        if letters.len() > most {
            letters.truncate(most);
            say!("only the first {most}: narrow the filter, or raise --limit");
        }
        let nothing = letters.is_empty();
        if nothing {
            say!("no dead letter matches");
        }
        let document = Document { dead_letters: letters };
        self.output.print(&document, || if nothing { Ok(()) } else { print(&document.dead_letters) })?;
        Ok(if nothing { Outcome::NothingMatched } else { Outcome::Done })
    }

    /// Those that match, oldest first. Stops asking when there are more than the limit.
    async fn letters(&self, services: &Services) -> Result<Vec<LetterLine>> {
        let filter = self.filter.to_proto();
        let state = self.state.map_or(pb::DeadLetterState::Unspecified, Into::into);
        let mut letters = Vec::new();
        for service in &services.all {
            let mut page_token = String::new();
            loop {
                let request = pb::ListDeadLettersRequest {
                    topic: filter.topic.clone(),
                    class: filter.class.clone(),
                    subject: filter.subject.clone(),
                    state: state.into(),
                    since: filter.since,
                    until: filter.until,
                    page_size: PAGE_SIZE,
                    page_token,
                    ids: Vec::new(),
                };
                let page = service.dead_letters().list_dead_letters(service.request(request)?).await;
                let page = page.with_context(|| service.failed())?.into_inner();
                letters.extend(page.dead_letters.iter().map(LetterLine::of));
                page_token = page.next_page_token;
                if page_token.is_empty() || letters.len() > self.limit as usize {
                    break;
                }
            }
        }
        // The ids are of version 7, so this is the order of parking over all services.
        letters.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(letters)
    }
}

fn print(letters: &[LetterLine]) -> io::Result<()> {
    let mut table = table(&["ID", "SERVICE", "TOPIC", "CLASS", "KEY", "PARKED", "STATE", "REASON"]);
    for letter in letters {
        table.add_row([
            &letter.id,
            &letter.service,
            &letter.topic,
            &letter.class,
            letter.key.as_deref().unwrap_or("-"),
            &letter.parked_at,
            letter.state,
            &letter.reason,
        ]);
    }
    data!("{table}")
}
