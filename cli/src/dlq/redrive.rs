//! `dlq redrive`.

use std::{io::IsTerminal as _, time::Duration};

use anyhow::{Context as _, Result, bail};
use holdfast_proto::ops::v1::{self as pb, redrive_dead_letters_response::Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tonic::Code;
use uuid::Uuid;

use super::{
    arguments::DlqRedrive,
    client::{Service, Services},
    table,
};
use crate::{Outcome, arguments::Format, output::data};

/// A service that dies in the middle is waited for: so often without any progress, with this pause.
const INTERRUPTIONS_MAX: u32 = 30;
const INTERRUPTION_PAUSE: Duration = Duration::from_millis(500);

/// What happened to a letter, as `-o json` shows it.
#[derive(Serialize)]
struct Line {
    id: String,
    service: &'static str,
    topic: String,
    key: String,
    result: &'static str,
    class: String,
    reason: String,
}

#[derive(Serialize)]
struct Document<'a> {
    executed: bool,
    redriven: usize,
    failed: usize,
    refused: usize,
    behind: usize,
    planned: usize,
    dead_letters: &'a [Line],
}

pub(super) async fn run(redrive: &DlqRedrive) -> Result<Outcome> {
    if redrive.ids.is_empty() && redrive.filter.is_empty() && !redrive.all {
        bail!("which? Name ids, a filter, or --all");
    }
    let services = Services::connect(&redrive.at, redrive.filter.service.as_deref())?;
    let bar = progress();
    let mut lines = Vec::new();
    for service in &services.all {
        let left = redrive.max.map(|max| max.saturating_sub(u32::try_from(lines.len()).unwrap_or(u32::MAX)));
        if left == Some(0) {
            break;
        }
        one_service(service, redrive, left, &bar, &mut lines).await?;
    }
    bar.finish_and_clear();
    let count = |result: &str| lines.iter().filter(|line| line.result == result).count();
    let document = Document {
        executed: redrive.execute,
        redriven: count("redriven"),
        failed: count("failed"),
        refused: count("refused"),
        behind: count("behind"),
        planned: count("planned"),
        dead_letters: &lines,
    };
    match redrive.output {
        Format::Json => data!("{}", serde_json::to_string_pretty(&document)?)?,
        Format::Table => {
            let mut table = table(&["ID", "SERVICE", "TOPIC", "KEY", "RESULT", "REASON"]);
            for line in &lines {
                let key = if line.key.is_empty() { "-" } else { &line.key };
                table.add_row([&line.id, line.service, &line.topic, key, line.result, &line.reason]);
            }
            if !lines.is_empty() {
                data!("{table}")?;
            }
        }
    }
    Ok(conclude(&document))
}

fn conclude(document: &Document<'_>) -> Outcome {
    let Document { redriven, failed, refused, behind, planned, .. } = document;
    if document.dead_letters.is_empty() {
        eprintln!("no parked dead letter matches");
        return Outcome::NothingMatched;
    }
    if !document.executed {
        eprintln!(
            "dry run: {planned} would be redriven, {refused} refused, {behind} wait behind; do it with --execute"
        );
        return Outcome::Done;
    }
    eprintln!(
        "{redriven} redriven, {failed} failed again, {refused} refused (3 redrives, see --force), {behind} wait behind"
    );
    match (redriven, failed + refused + behind) {
        (_, 0) => Outcome::Done,
        (0, _) => Outcome::Failed,
        _ => Outcome::Partly,
    }
}

/// On a terminal only.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta} left") {
        bar.set_style(style);
    }
    bar
}

/// Redrives what one service has. If it dies in the middle it is waited for, and the rest is asked for again: what was
/// redriven is not parked any more.
async fn one_service(
    service: &Service,
    redrive: &DlqRedrive,
    mut left: Option<u32>,
    bar: &ProgressBar,
    lines: &mut Vec<Line>,
) -> Result<()> {
    let mut interruptions = 0;
    loop {
        let before = lines.len();
        let Err(status) = stream(service, redrive, left, bar, lines).await? else { return Ok(()) };
        let progress = lines.len() - before;
        left = left.map(|left| left.saturating_sub(u32::try_from(progress).unwrap_or(u32::MAX)));
        interruptions = if progress > 0 { 0 } else { interruptions + 1 };
        let again = redrive.execute
            && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled)
            && interruptions <= INTERRUPTIONS_MAX
            && left != Some(0);
        if !again {
            return Err(status).with_context(|| {
                format!(
                    "{} stopped after {} letters; what was redriven stays so, run the command again",
                    service.name,
                    lines.len()
                )
            });
        }
        // Letters that failed, or wait behind one, would come again: the service counts each redrive.
        if lines.iter().any(|line| line.service == service.name && line.result != "redriven") {
            bail!(
                "{} was interrupted after letters had failed; run the command again for the rest",
                service.name
            );
        }
        tokio::time::sleep(INTERRUPTION_PAUSE).await;
    }
}

/// One stream; the inner error is how it was interrupted.
async fn stream(
    service: &Service,
    redrive: &DlqRedrive,
    left: Option<u32>,
    bar: &ProgressBar,
    lines: &mut Vec<Line>,
) -> Result<Result<(), tonic::Status>> {
    let mode = if redrive.execute { pb::RedriveMode::Execute } else { pb::RedriveMode::DryRun };
    let filter = pb::DeadLetterFilter {
        ids: redrive.ids.iter().map(Uuid::to_string).collect(),
        ..redrive.filter.to_proto()
    };
    let request = pb::RedriveDeadLettersRequest {
        filter: Some(filter),
        mode: mode.into(),
        rate_per_second: redrive.rate.unwrap_or_default(),
        letters_max: left.unwrap_or_default(),
        force: redrive.force,
        author: redrive.by.name(),
    };
    let mut steps = match service.client().redrive_dead_letters(service.request(request)?).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    loop {
        match steps.message().await {
            Ok(Some(pb::RedriveDeadLettersResponse { step: Some(Step::Plan(plan)) })) => {
                bar.inc_length(plan.dead_letters);
            }
            Ok(Some(pb::RedriveDeadLettersResponse { step: Some(Step::Outcome(outcome)) })) => {
                bar.inc(1);
                lines.push(line(outcome, service.name));
            }
            Ok(Some(pb::RedriveDeadLettersResponse { step: None })) => {}
            Ok(None) => return Ok(Ok(())),
            Err(status) => return Ok(Err(status)),
        }
    }
}

fn line(outcome: pb::RedriveOutcome, service: &'static str) -> Line {
    Line {
        result: match outcome.result() {
            pb::RedriveResult::Unspecified => "unknown",
            pb::RedriveResult::Planned => "planned",
            pb::RedriveResult::Redriven => "redriven",
            pb::RedriveResult::Failed => "failed",
            pb::RedriveResult::Refused => "refused",
            pb::RedriveResult::Behind => "behind",
        },
        id: outcome.dead_letter_id,
        service,
        topic: outcome.topic,
        key: outcome.subject,
        class: outcome.class,
        reason: outcome.reason,
    }
}
