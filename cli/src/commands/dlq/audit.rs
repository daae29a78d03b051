//! `dlq audit`.

use anyhow::Result;
use clap::Args;
use holdfast_operator::moment::parse_time;
use holdfast_proto::{ops::v1 as pb, to_timestamp};
use serde::Serialize;
use time::OffsetDateTime;

use super::{
    letter::{PAGE_SIZE, time_text},
    named::{Named, parse_named},
};
use crate::{
    options::Output,
    output::{Outcome, data, say},
    services::{Answers, Services},
    table::Table,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    target: Target,
    /// Of this dead letter
    #[arg(value_parser = parse_named)]
    id: Option<Named>,
    /// Since: 2026-01-31T12:00:00Z, 2026-01-31, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<OffsetDateTime>,
    /// Until: 2026-01-31T12:00:00Z, 2026-01-31, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<OffsetDateTime>,
    /// At most this many
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    output: Output,
}

/// An action, as `-o json` shows it.
#[derive(Serialize)]
pub(super) struct AuditLine {
    pub(super) at: String,
    pub(super) service: &'static str,
    pub(super) actor: String,
    pub(super) action: String,
    pub(super) dead_letter_id: String,
    pub(super) detail: String,
}

impl AuditLine {
    pub(super) fn of(entry: pb::DeadLetterAuditEntry, service: &'static str) -> Self {
        Self {
            at: time_text(entry.at.as_ref()),
            service,
            actor: entry.actor,
            action: entry.action,
            dead_letter_id: entry.dead_letter_id,
            detail: entry.detail,
        }
    }
}

#[derive(Serialize)]
struct Document {
    audit: Vec<AuditLine>,
}

impl Audit {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, None)?;
        let answers = self.entries(&services).await?;
        let mut entries: Vec<_> = answers
            .each
            .iter()
            .flat_map(|(service, entries)| entries.iter().map(|entry| (entry.clone(), service.name)))
            .collect();
        entries.sort_by(|(a, _), (b, _)| b.id.cmp(&a.id));
        entries.truncate(self.limit as usize);
        let audit = entries.into_iter().map(|(entry, service)| AuditLine::of(entry, service)).collect();
        let document = Document { audit };
        let nothing = document.audit.is_empty();
        if nothing {
            say!("nothing was done{} to any dead letter that matches", answers.elsewhere());
        }
        self.output
            .print(&document, || if nothing { Ok(()) } else { data!("{}", table(&document.audit)) })?;
        Ok(answers.outcome(if nothing { Outcome::NothingMatched } else { Outcome::Done }))
    }

    /// The entries of each service, newest first.
    async fn entries<'s>(
        &self,
        services: &'s Services,
    ) -> Result<Answers<'s, Vec<pb::DeadLetterAuditEntry>>> {
        let (since, until) = (self.since.map(to_timestamp), self.until.map(to_timestamp));
        let ids = services.resolve(self.id.as_slice()).await?;
        let dead_letter_id = ids.first().map(ToString::to_string).unwrap_or_default();
        services
            .ask(async |service| {
                let mut entries = Vec::new();
                let mut page_token = String::new();
                loop {
                    let request = service.request(pb::ListDeadLetterAuditRequest {
                        dead_letter_id: dead_letter_id.clone(),
                        since,
                        until,
                        page_size: PAGE_SIZE,
                        page_token,
                    })?;
                    let page =
                        service.answer(service.dead_letters().list_dead_letter_audit(request).await)?;
                    entries.extend(page.entries);
                    page_token = page.next_page_token;
                    if page_token.is_empty() || entries.len() > self.limit as usize {
                        return Ok(entries);
                    }
                }
            })
            .await
    }
}

pub(super) fn table(lines: &[AuditLine]) -> Table {
    let mut table = Table::new(&["AT", "SERVICE", "ACTOR", "ACTION", "DEAD LETTER", "DETAIL"])
        .cutting(&["DETAIL", "ACTOR"])
        .sparing(&["ACTOR", "SERVICE"]);
    for line in lines {
        let letter = if line.dead_letter_id.is_empty() { "-" } else { &line.dead_letter_id };
        table.add_row([&line.at, line.service, &line.actor, &line.action, letter, &line.detail]);
    }
    table
}
