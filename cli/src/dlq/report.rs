//! `dlq stats` and `dlq audit`.

use anyhow::{Context as _, Result};
use holdfast_proto::{from_timestamp, ops::v1 as pb};
use serde::Serialize;
use time::OffsetDateTime;

use super::{
    PAGE_SIZE,
    arguments::{DlqAudit, DlqStats},
    client::Services,
    table, time_text,
};
use crate::{Outcome, arguments::Format, output::data};

pub(super) async fn stats(stats: &DlqStats) -> Result<Outcome> {
    #[derive(Serialize)]
    struct Stop {
        service: &'static str,
        reason: String,
        stopped_at: String,
    }
    #[derive(Serialize)]
    struct Line {
        service: &'static str,
        topic: String,
        class: String,
        parked: u64,
        oldest_parked_at: String,
        oldest_age_seconds: i64,
    }
    #[derive(Serialize)]
    struct Document {
        stats: Vec<Line>,
        stopped_consumers: Vec<Stop>,
    }
    let services = Services::connect(&stats.at, None)?;
    let now = OffsetDateTime::now_utc();
    let (mut lines, mut stops) = (Vec::new(), Vec::new());
    for service in &services.all {
        let request = service.request(pb::GetDeadLetterStatsRequest {})?;
        let answer = service.client().get_dead_letter_stats(request).await;
        let answer = answer.with_context(|| service.failed())?.into_inner();
        stops.extend(answer.stops.into_iter().map(|stop| Stop {
            service: service.name,
            reason: stop.reason,
            stopped_at: time_text(stop.stopped_at.as_ref()),
        }));
        lines.extend(answer.stats.into_iter().map(|line| Line {
            service: service.name,
            topic: line.topic,
            class: line.class,
            parked: line.parked,
            oldest_age_seconds:
                from_timestamp(line.oldest_parked_at.as_ref()).map_or(0, |at| (now - at).whole_seconds()),
            oldest_parked_at: time_text(line.oldest_parked_at.as_ref()),
        }));
    }
    for Stop { service, reason, stopped_at } in &stops {
        eprintln!(
            "{service}: a consumer stopped at {stopped_at}: {reason}. See `holdfast dlq resume --help`"
        );
    }
    match stats.output {
        Format::Json => {
            let document = Document { stats: lines, stopped_consumers: stops };
            data!("{}", serde_json::to_string_pretty(&document)?)?;
        }
        Format::Table => {
            let mut table = table(&["SERVICE", "TOPIC", "CLASS", "PARKED", "OLDEST", "AGE"]);
            for line in lines {
                table.add_row([
                    line.service.to_owned(),
                    line.topic,
                    line.class,
                    line.parked.to_string(),
                    line.oldest_parked_at,
                    format!("{} s", line.oldest_age_seconds),
                ]);
            }
            data!("{table}")?;
        }
    }
    Ok(Outcome::Done)
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

pub(super) async fn audit(audit: &DlqAudit) -> Result<Outcome> {
    #[derive(Serialize)]
    struct Document {
        audit: Vec<AuditLine>,
    }
    let services = Services::connect(&audit.at, None)?;
    let since = audit.since.map(holdfast_proto::to_timestamp);
    let mut entries = Vec::new();
    let most = audit.limit as usize;
    for service in &services.all {
        let mut page_token = String::new();
        loop {
            let request = pb::ListDeadLetterAuditRequest {
                dead_letter_id: audit.id.map(|id| id.to_string()).unwrap_or_default(),
                since,
                page_size: PAGE_SIZE,
                page_token,
            };
            let page = service.client().list_dead_letter_audit(service.request(request)?).await;
            let page = page.with_context(|| service.failed())?.into_inner();
            entries.extend(page.entries.into_iter().map(|entry| (entry, service.name)));
            page_token = page.next_page_token;
            if page_token.is_empty() || entries.len() > most {
                break;
            }
        }
    }
    entries.sort_by(|(a, _), (b, _)| b.id.cmp(&a.id));
    entries.truncate(most);
    let lines: Vec<AuditLine> =
        entries.into_iter().map(|(entry, service)| audit_line(entry, service)).collect();
    let nothing = lines.is_empty();
    if nothing {
        eprintln!("nothing was done to any dead letter that matches");
    }
    match audit.output {
        Format::Json => data!("{}", serde_json::to_string_pretty(&Document { audit: lines })?)?,
        Format::Table if nothing => {}
        Format::Table => {
            let mut table = table(&["AT", "SERVICE", "ACTOR", "ACTION", "DEAD LETTER", "DETAIL"]);
            for line in lines {
                table.add_row([
                    line.at,
                    line.service.to_owned(),
                    line.actor,
                    line.action,
                    Some(line.dead_letter_id).filter(|id| !id.is_empty()).unwrap_or_else(|| "-".to_owned()),
                    line.detail,
                ]);
            }
            data!("{table}")?;
        }
    }
    Ok(if nothing { Outcome::NothingMatched } else { Outcome::Done })
}

pub(super) fn audit_line(entry: pb::DeadLetterAuditEntry, service: &'static str) -> AuditLine {
    AuditLine {
        at: time_text(entry.at.as_ref()),
        service,
        actor: entry.actor,
        action: entry.action,
        dead_letter_id: entry.dead_letter_id,
        detail: entry.detail,
    }
}
