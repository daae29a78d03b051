//! `outbox`: rows that can't be published and hold back their topic and key.

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use holdfast_proto::{from_timestamp, ops::v1 as pb};
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use crate::{
    Outcome,
    arguments::{At, Format, service_names},
    dlq::{By, Services, parse_reason, table},
    output::data,
};

/// Rows of one page.
const PAGE_SIZE: u32 = 500;

#[derive(Debug, Subcommand)]
pub(crate) enum OutboxAction {
    /// Show the oldest row of each topic and key that is held back, and why
    List(OutboxList),
    /// Have rows tried now rather than after their pause
    Retry(OutboxRetry),
    /// Give rows up: they are never published, and what waits behind them goes
    Drop(OutboxDrop),
}

#[derive(Debug, Args)]
pub(crate) struct OutboxList {
    #[command(flatten)]
    pub(crate) at: At,
    /// Of this service
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    pub(crate) service: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct OutboxRetry {
    #[command(flatten)]
    pub(crate) at: At,
    /// The service whose rows they are
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    pub(crate) service: String,
    /// Their ids
    #[arg(num_args = 1..=1000, required_unless_present = "all", conflicts_with = "all", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) ids: Vec<i64>,
    /// All that are held back
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) by: By,
}

#[derive(Debug, Args)]
pub(crate) struct OutboxDrop {
    #[command(flatten)]
    pub(crate) at: At,
    /// The service whose rows they are
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    pub(crate) service: String,
    /// Their ids
    #[arg(required = true, num_args = 1..=1000, value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) ids: Vec<i64>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    pub(crate) reason: String,
    /// Don't ask
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) by: By,
}

/// A row, as `-o json` shows it.
#[derive(Serialize)]
struct RowLine {
    service: String,
    id: i64,
    topic: String,
    key: String,
    value_bytes: i64,
    written_at: String,
    retry_at: String,
    attempts: i32,
    waiting_behind: i64,
    last_error: String,
}

fn text_of(time: Option<&prost_types::Timestamp>) -> String {
    from_timestamp(time).and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

impl From<pb::HeldBackRow> for RowLine {
    fn from(row: pb::HeldBackRow) -> Self {
        Self {
            written_at: text_of(row.written_at.as_ref()),
            retry_at: text_of(row.retry_at.as_ref()),
            key: String::from_utf8_lossy(&row.key).escape_debug().to_string(),
            service: row.service,
            id: row.id,
            topic: row.topic,
            value_bytes: row.value_bytes,
            attempts: row.attempts,
            waiting_behind: row.waiting_behind,
            last_error: row.last_error,
        }
    }
}

pub(crate) fn run(action: &OutboxAction) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match action {
            OutboxAction::List(arguments) => list(arguments).await,
            OutboxAction::Retry(arguments) => retry(arguments).await,
            OutboxAction::Drop(arguments) => drop_rows(arguments).await,
        }
    })
}

async fn list(list: &OutboxList) -> Result<Outcome> {
    #[derive(Serialize)]
    struct Document {
        rows: Vec<RowLine>,
    }
    let services = Services::connect(&list.at, list.service.as_deref())?;
    let mut rows: Vec<RowLine> = Vec::new();
    for service in &services.all {
        let mut page_token = String::new();
        loop {
            let request = pb::ListHeldBackRowsRequest { page_size: PAGE_SIZE, page_token };
            let answer = service.outbox().list_held_back_rows(service.request(request)?).await;
            let answer = answer.with_context(|| service.failed())?.into_inner();
            rows.extend(answer.rows.into_iter().map(RowLine::from));
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    let none = rows.is_empty();
    match list.output {
        Format::Json => data!("{}", serde_json::to_string_pretty(&Document { rows })?)?,
        Format::Table if none => {}
        Format::Table => {
            let mut table =
                table(&["SERVICE", "ID", "TOPIC", "KEY", "BYTES", "WRITTEN", "ATTEMPTS", "BEHIND", "ERROR"]);
            for row in rows {
                table.add_row([
                    row.service,
                    row.id.to_string(),
                    row.topic,
                    row.key,
                    row.value_bytes.to_string(),
                    row.written_at,
                    row.attempts.to_string(),
                    row.waiting_behind.to_string(),
                    row.last_error,
                ]);
            }
            data!("{table}")?;
        }
    }
    if none {
        eprintln!("nothing is held back");
        return Ok(Outcome::NothingMatched);
    }
    Ok(Outcome::Done)
}

async fn retry(retry: &OutboxRetry) -> Result<Outcome> {
    let services = Services::connect(&retry.at, Some(&retry.service))?;
    let mut retried = 0;
    for service in &services.all {
        let request =
            pb::RetryHeldBackRowsRequest { ids: retry.ids.clone(), all: retry.all, author: retry.by.name() };
        let answer = service.outbox().retry_held_back_rows(service.request(request)?).await;
        retried += answer.with_context(|| service.failed())?.into_inner().retried;
    }
    if retried == 0 {
        eprintln!("none of them is held back");
        return Ok(Outcome::NothingMatched);
    }
    eprintln!("{retried} topics and keys are tried now: see holdfast outbox list");
    Ok(Outcome::Done)
}

async fn drop_rows(arguments: &OutboxDrop) -> Result<Outcome> {
    let services = Services::connect(&arguments.at, Some(&arguments.service))?;
    if !arguments.yes {
        if !std::io::stdin().is_terminal() {
            bail!("nobody to ask: say --yes");
        }
        eprint!("never publish {} rows of {}? [y/N] ", arguments.ids.len(), arguments.service);
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
            eprintln!("nothing was done");
            return Ok(Outcome::Failed);
        }
    }
    let mut dropped = Vec::new();
    for service in &services.all {
        let request = pb::DropHeldBackRowsRequest {
            ids: arguments.ids.clone(),
            reason: arguments.reason.clone(),
            author: arguments.by.name(),
        };
        let answer = service.outbox().drop_held_back_rows(service.request(request)?).await;
        dropped.extend(answer.with_context(|| service.failed())?.into_inner().dropped);
    }
    for id in &dropped {
        data!("{id}")?;
    }
    Ok(match dropped.len() {
        0 => {
            eprintln!("none of them is held back");
            Outcome::NothingMatched
        }
        some if some < arguments.ids.len() => {
            eprintln!("{some} of {} were held back", arguments.ids.len());
            Outcome::Partly
        }
        _ => Outcome::Done,
    })
}
