//! `dlq redrive --status` and `--cancel`: redrives as their services know them, whoever has begun them.

use std::io;

use anyhow::{Context as _, Result};
use holdfast_operator::redrive::{author, left, may_go_on, state_name};
use holdfast_proto::ops::v1 as pb;
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::letter::{age_of, time_text};
use crate::{
    options::{By, ListOutput},
    output::{Outcome, data, say},
    services::{Answers, Service, Services},
    table::Table,
    target::Target,
};

/// The latest ones of each service; there is one at a time.
const SHOWN_MAX: u32 = 5;

/// A redrive, as `-o json` shows it.
#[derive(Serialize)]
struct Line {
    id: String,
    service: &'static str,
    state: &'static str,
    actor: String,
    selection: String,
    started_at: String,
    /// The last sign of life.
    seen_at: String,
    ended_at: Option<String>,
    cancelled_by: Option<String>,
    dead_letters: u64,
    redriven: u64,
    failed: u64,
    refused: u64,
    behind: u64,
    /// Selected and not tried yet.
    left: u64,
    #[serde(skip)]
    began_ago: String,
    #[serde(skip)]
    ended_ago: String,
}

impl Line {
    fn of(redrive: &pb::Redrive, service: &'static str) -> Self {
        let ended = redrive.ended_at.as_ref();
        Self {
            id: redrive.id.clone(),
            service,
            state: state_name(redrive.state()),
            actor: redrive.actor.clone(),
            selection: redrive.selection.clone(),
            started_at: time_text(redrive.started_at.as_ref()),
            seen_at: time_text(redrive.seen_at.as_ref()),
            ended_at: ended.map(|at| time_text(Some(at))),
            cancelled_by: Some(redrive.cancelled_by.clone()).filter(|by| !by.is_empty()),
            dead_letters: redrive.dead_letters,
            redriven: redrive.redriven,
            failed: redrive.failed,
            refused: redrive.refused,
            behind: redrive.behind,
            left: left(redrive),
            began_ago: age_of(redrive.started_at.as_ref()),
            ended_ago: age_of(ended),
        }
    }

    /// Those that stay parked although it was their turn.
    const fn stayed(&self) -> u64 {
        self.failed + self.refused + self.behind
    }

    /// The author; the identity in front is the same for everybody.
    fn author(&self) -> &str {
        author(&self.actor)
    }
}

#[derive(Serialize)]
struct Document {
    redrives: Vec<Line>,
}

/// `--status`: what is under way, and what has become of the ones before.
pub(super) async fn status(services: &Services, target: &Target, output: &ListOutput) -> Result<Outcome> {
    let answers = latest(services).await?;
    let redrives = answers
        .each
        .iter()
        .flat_map(|(service, redrives)| redrives.iter().map(|redrive| Line::of(redrive, service.name)))
        .collect();
    let document = Document { redrives };
    show(&document, output)?;
    if document.redrives.is_empty() {
        say!("nothing was redriven{} in the last 90 days", answers.elsewhere());
        return Ok(answers.outcome(Outcome::NothingMatched));
    }
    let running: Vec<&Line> = document.redrives.iter().filter(|line| line.state == "running").collect();
    if running.is_empty() {
        say!("none is under way{}", answers.elsewhere());
    }
    for line in running {
        let cancel = target.hint(&format!("dlq redrive --cancel --service {}", line.service))?;
        say!("{} redrives at {}; {cancel} ends it", line.author(), line.service);
    }
    Ok(answers.outcome(Outcome::Done))
}

/// `--cancel`: ends those that are under way. Whoever has begun them is told so.
pub(super) async fn cancel(services: &Services, by: &By, output: &ListOutput) -> Result<Outcome> {
    let answers = latest(services).await?;
    let now = OffsetDateTime::now_utc();
    let mut cancelled = Vec::new();
    for (service, redrives) in &answers.each {
        for redrive in redrives.iter().filter(|redrive| may_go_on(redrive, now)) {
            cancelled.push(Line::of(&cancel_at(service, redrive, by).await?, service.name));
        }
    }
    let document = Document { redrives: cancelled };
    show(&document, output)?;
    for line in &document.redrives {
        let Line { service, redriven, left, .. } = line;
        say!(
            "{service}: cancelled; {redriven} were redriven, {left} were not tried, and nothing more is done"
        );
    }
    let nothing = document.redrives.is_empty();
    if nothing {
        say!("none is under way{}", answers.elsewhere());
    }
    Ok(answers.outcome(if nothing { Outcome::NothingMatched } else { Outcome::Done }))
}

async fn cancel_at(service: &Service, redrive: &pb::Redrive, by: &By) -> Result<pb::Redrive> {
    let request = service.request(pb::CancelRedriveRequest { id: redrive.id.clone(), author: by.name() })?;
    let answer = service.answer(service.dead_letters().cancel_redrive(request).await)?;
    answer.redrive.context("a response without a redrive")
}

/// How many letters this service has redriven under the id of a command; `None` if it knows no such redrive.
pub(super) async fn redriven_at(service: &Service, id: Uuid) -> Result<Option<u64>> {
    let id = id.to_string();
    let redrives = latest_at(service).await?;
    Ok(redrives.iter().find(|redrive| redrive.id == id).map(|redrive| redrive.redriven))
}

/// The latest redrives of each service, the last one first.
async fn latest(services: &Services) -> Result<Answers<'_, Vec<pb::Redrive>>> {
    services.ask(latest_at).await
}

async fn latest_at(service: &Service) -> Result<Vec<pb::Redrive>> {
    let request = service.request(pb::ListRedrivesRequest { page_size: SHOWN_MAX })?;
    Ok(service.answer(service.dead_letters().list_redrives(request).await)?.redrives)
}

fn show(document: &Document, output: &ListOutput) -> Result<()> {
    let ids = document.redrives.iter().map(|line| line.id.as_str());
    output.print(document, ids, |is_wide| match document.redrives.as_slice() {
        [] => Ok(()),
        lines => print(lines, is_wide),
    })
}

fn print(lines: &[Line], is_wide: bool) -> io::Result<()> {
    data!("{}", if is_wide { wide(lines) } else { narrow(lines) })
}

fn narrow(lines: &[Line]) -> Table {
    let mut table =
        Table::new(&["SERVICE", "STATE", "BEGAN", "ENDED", "REDRIVEN", "STAYED", "LEFT", "BY", "SELECTED"])
            .cutting(&["SELECTED", "BY"])
            .sparing(&["ENDED", "SELECTED", "STAYED"]);
    for line in lines {
        table.add_row([
            line.service,
            line.state,
            &line.began_ago,
            &line.ended_ago,
            &line.redriven.to_string(),
            &line.stayed().to_string(),
            &line.left.to_string(),
            line.author(),
            &line.selection,
        ]);
    }
    table
}

fn wide(lines: &[Line]) -> Table {
    let mut table = Table::new(&[
        "ID",
        "SERVICE",
        "STATE",
        "STARTED",
        "SEEN",
        "ENDED",
        "REDRIVEN",
        "FAILED",
        "REFUSED",
        "BEHIND",
        "LEFT",
        "BY",
        "CANCELLED BY",
        "SELECTED",
    ]);
    for line in lines {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.add_row([
            line.id.clone(),
            line.service.to_owned(),
            line.state.to_owned(),
            line.started_at.clone(),
            line.seen_at.clone(),
            text(&line.ended_at),
            line.redriven.to_string(),
            line.failed.to_string(),
            line.refused.to_string(),
            line.behind.to_string(),
            line.left.to_string(),
            line.actor.clone(),
            text(&line.cancelled_by),
            line.selection.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row says how far it is: done, not done although it was their turn, and left.
    #[test]
    fn a_row_says_how_far_it_is() {
        let redrive = pb::Redrive {
            actor: "operator (alice)".to_owned(),
            state: pb::RedriveState::Running.into(),
            dead_letters: 800,
            redriven: 279,
            failed: 1,
            behind: 1,
            ..pb::Redrive::default()
        };
        let line = Line::of(&redrive, "payment");
        assert_eq!((line.redriven, line.stayed(), line.left, line.author()), (279, 2, 519, "alice"));
        let json = serde_json::to_value(&line).expect("JSON");
        assert!(
            json["ended_at"].is_null() && json["state"] == "running" && json["actor"] == "operator (alice)"
        );
    }
}
