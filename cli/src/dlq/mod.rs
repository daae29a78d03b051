//! `dlq`: what operators do with dead letters. The work is done by the services; this asks them as the identity
//! `operator` and shows their answers.

mod arguments;
mod client;
mod redrive;
mod schema;
mod show;

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, Result, bail};
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use holdfast_proto::{from_timestamp, ops::v1 as pb};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tonic::Code;

pub(crate) use self::arguments::DlqAction;
use self::{
    arguments::{DlqAudit, DlqDiscard, DlqEdit, DlqList, DlqResume, DlqStats},
    client::Services,
};
use crate::{Outcome, arguments::Format, output::data};

/// Letters of one page.
const PAGE_SIZE: u32 = 500;

pub(crate) fn run(action: &DlqAction) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match action {
            DlqAction::List(list) => self::list(list).await,
            DlqAction::Show(show) => show::run(show).await,
            DlqAction::Redrive(redrive) => redrive::run(redrive).await,
            DlqAction::Edit(edit) => self::edit(edit).await,
            DlqAction::Discard(discard) => self::discard(discard).await,
            DlqAction::Resume(resume) => self::resume(resume).await,
            DlqAction::Stats(stats) => self::stats(stats).await,
            DlqAction::Audit(audit) => self::audit(audit).await,
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
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

async fn list(list: &DlqList) -> Result<Outcome> {
    let services = Services::connect(&list.at, list.filter.service.as_deref())?;
    let filter = list.filter.to_proto();
    let mut letters = Vec::new();
    let most = list.limit as usize;
    for service in &services.all {
        let mut page_token = String::new();
        loop {
            let request = pb::ListDeadLettersRequest {
                topic: filter.topic.clone(),
                class: filter.class.clone(),
                subject: filter.subject.clone(),
                state: list.state.map_or(pb::DeadLetterState::Unspecified, Into::into).into(),
                since: filter.since,
                until: filter.until,
                page_size: PAGE_SIZE,
                page_token,
                ids: Vec::new(),
            };
            let page = service.client().list_dead_letters(service.request(request)?).await;
            let page = page.with_context(|| service.failed())?.into_inner();
            letters.extend(page.dead_letters.iter().map(LetterLine::of));
            page_token = page.next_page_token;
            if page_token.is_empty() || letters.len() > most {
                break;
            }
        }
    }
    // The ids are of version 7, so this is the order of parking over all services.
    letters.sort_by(|a, b| a.id.cmp(&b.id));
    if letters.len() > most {
        letters.truncate(most);
        eprintln!("only the first {most}: narrow the filter, or raise --limit");
    }
    if letters.is_empty() {
        eprintln!("no dead letter matches");
    }
    match list.output {
        Format::Json => {
            #[derive(Serialize)]
            struct Document<'a> {
                dead_letters: &'a [LetterLine],
            }
            data!("{}", serde_json::to_string_pretty(&Document { dead_letters: &letters })?)?;
        }
        Format::Table if letters.is_empty() => {}
        Format::Table => {
            let mut table = table(&["ID", "SERVICE", "TOPIC", "CLASS", "KEY", "PARKED", "STATE", "REASON"]);
            for letter in &letters {
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
            data!("{table}")?;
        }
    }
    Ok(if letters.is_empty() { Outcome::NothingMatched } else { Outcome::Done })
}

async fn edit(edit: &DlqEdit) -> Result<Outcome> {
    let services = Services::connect(&edit.at, None)?;
    let Some((service, letter)) = services.find(&edit.id).await? else {
        eprintln!("no service has a dead letter {}", edit.id);
        return Ok(Outcome::NothingMatched);
    };
    let value = match edit.value.as_deref() {
        None => None,
        Some("-") => Some(std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?),
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?),
    };
    let header = |(name, value): &(String, String)| pb::RecordHeader {
        name: name.clone(),
        value: value.clone().into_bytes(),
    };
    let request = pb::EditDeadLetterRequest {
        id: edit.id.clone(),
        value: value.map(|text| schema::encode(&letter.topic, &text)).transpose()?.unwrap_or_default(),
        key: edit.record_key.clone().map(String::into_bytes),
        headers: edit.header.iter().map(header).collect(),
        reason: edit.reason.clone(),
        author: edit.by.name(),
    };
    let edited = service.client().edit_dead_letter(service.request(request)?).await;
    edited.with_context(|| service.failed())?;
    eprintln!("edited; the original is kept. Next: holdfast dlq redrive {} --execute", edit.id);
    Ok(Outcome::Done)
}

async fn discard(discard: &DlqDiscard) -> Result<Outcome> {
    let services = Services::connect(&discard.at, None)?;
    eprintln!("{} dead letters are given up for good: {}", discard.ids.len(), discard.ids.join(" "));
    if !discard.yes {
        if !std::io::stdin().is_terminal() {
            bail!("nobody to ask: say --yes");
        }
        eprint!("discard them? [y/N] ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
            eprintln!("nothing was done");
            return Ok(Outcome::Failed);
        }
    }
    let mut discarded = Vec::new();
    for service in &services.all {
        let request = pb::DiscardDeadLettersRequest {
            ids: discard.ids.clone(),
            reason: discard.reason.clone(),
            author: discard.by.name(),
        };
        let done = service.client().discard_dead_letters(service.request(request)?).await;
        discarded.extend(done.with_context(|| service.failed())?.into_inner().discarded);
    }
    for id in &discarded {
        data!("{id}")?;
    }
    Ok(match discarded.len() {
        0 => {
            eprintln!("none of them is parked");
            Outcome::NothingMatched
        }
        some if some < discard.ids.len() => {
            eprintln!("{} of {} were parked", some, discard.ids.len());
            Outcome::Partly
        }
        _ => Outcome::Done,
    })
}

async fn resume(resume: &DlqResume) -> Result<Outcome> {
    let services = Services::connect(&resume.at, Some(&resume.service))?;
    for service in &services.all {
        let request = pb::ResumeConsumersRequest {
            dead_letters_max: resume.park,
            reason: resume.reason.clone(),
            author: resume.by.name(),
        };
        match service.client().resume_consumers(service.request(request)?).await {
            Ok(answer) => eprintln!("{}: {} stopped go on", service.name, answer.into_inner().resumed),
            Err(status) if status.code() == Code::FailedPrecondition => {
                eprintln!("{}: {}", service.name, status.message());
                return Ok(Outcome::NothingMatched);
            }
            Err(status) => return Err(status).with_context(|| service.failed()),
        }
    }
    Ok(Outcome::Done)
}

async fn stats(stats: &DlqStats) -> Result<Outcome> {
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
struct AuditLine {
    at: String,
    service: &'static str,
    actor: String,
    action: String,
    dead_letter_id: String,
    detail: String,
}

async fn audit(audit: &DlqAudit) -> Result<Outcome> {
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
                dead_letter_id: audit.id.clone().unwrap_or_default(),
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
                    line.dead_letter_id,
                    line.detail,
                ]);
            }
            data!("{table}")?;
        }
    }
    Ok(if nothing { Outcome::NothingMatched } else { Outcome::Done })
}

fn audit_line(entry: pb::DeadLetterAuditEntry, service: &'static str) -> AuditLine {
    AuditLine {
        at: time_text(entry.at.as_ref()),
        service,
        actor: entry.actor,
        action: entry.action,
        dead_letter_id: entry.dead_letter_id,
        detail: entry.detail,
    }
}
