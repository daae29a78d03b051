//! `dlq`: what operators do with dead letters. The work is done by the services; this asks them as the identity
//! `operator` and shows their answers.

mod arguments;
mod client;
mod list;
mod redrive;
mod repair;
mod report;
mod schema;
mod show;

use std::io::IsTerminal as _;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use holdfast_proto::{from_timestamp, ops::v1 as pb};
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

pub(crate) use self::{
    arguments::{By, DlqAction, parse_reason},
    client::Services,
};
use crate::Outcome;

/// Letters of one page.
const PAGE_SIZE: u32 = 500;

pub(crate) fn run(action: &DlqAction) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match action {
            DlqAction::List(list) => list::run(list).await,
            DlqAction::Show(show) => show::run(show).await,
            DlqAction::Redrive(redrive) => redrive::run(redrive).await,
            DlqAction::Edit(edit) => repair::edit(edit).await,
            DlqAction::Discard(discard) => repair::discard(discard).await,
            DlqAction::Resume(resume) => repair::resume(resume).await,
            DlqAction::Skip(skip) => repair::skip(skip).await,
            DlqAction::Stats(stats) => report::stats(stats).await,
            DlqAction::Audit(audit) => report::audit(audit).await,
        }
    })
}

/// A letter without its content, as `-o json` shows it.
#[derive(Serialize)]
struct LetterLine {
    id: String,
    service: String,
    state: &'static str,
    class: String,
    reason: String,
    topic: String,
    partition: i32,
    offset: i64,
    key: Option<String>,
    blocked_by: Option<String>,
    attempts: i32,
    redrive_count: i32,
    parked_at: String,
    first_failed_at: String,
}

impl LetterLine {
    fn of(letter: &pb::DeadLetter) -> Self {
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Self {
            id: letter.id.clone(),
            service: letter.service.clone(),
            state: match letter.state() {
                pb::DeadLetterState::Unspecified => "unknown",
                pb::DeadLetterState::Parked => "parked",
                pb::DeadLetterState::SetAside => "set-aside",
                pb::DeadLetterState::Redriven => "redriven",
                pb::DeadLetterState::Discarded => "discarded",
            },
            class: letter.class.clone(),
            reason: letter.reason.clone(),
            topic: letter.topic.clone(),
            partition: letter.partition,
            offset: letter.offset,
            key: given(&letter.subject),
            blocked_by: given(&letter.blocked_by),
            attempts: letter.attempts,
            redrive_count: letter.redrive_count,
            parked_at: time_text(letter.parked_at.as_ref()),
            first_failed_at: time_text(letter.first_failed_at.as_ref()),
        }
    }
}

fn time_text(timestamp: Option<&prost_types::Timestamp>) -> String {
    from_timestamp(timestamp)
        .and_then(|at| at.replace_nanosecond(at.nanosecond() / 1_000_000 * 1_000_000).ok())
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// A table that fits the terminal; elsewhere as wide as it needs.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}
