//! `dlq redrive`.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use holdfast_proto::ops::v1::{self as pb, redrive_dead_letters_response::Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tonic::Code;
use uuid::Uuid;

use super::filter::{Filter, parse_id};
use crate::{
    options::{By, Output},
    output::{Outcome, data, say, table},
    services::{Service, Services},
    target::Target,
};

/// A service that dies in the middle is waited for: this many attempts without any progress, with this pause.
const INTERRUPTIONS_MAX: u32 = 30;
const INTERRUPTION_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Redrive {
    #[command(flatten)]
    target: Target,
    /// These letters; others that are parked for the same orders go with them
    #[arg(value_parser = parse_id)]
    ids: Vec<Uuid>,
    #[command(flatten)]
    filter: Filter,
    /// All parked letters
    #[arg(long)]
    all: bool,
    /// Do it; without this, only show the plan
    #[arg(long)]
    execute: bool,
    /// At most this many per second: 50/s
    #[arg(long, value_name = "N/s", value_parser = parse_rate)]
    rate: Option<f64>,
    /// At most this many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max: Option<u32>,
    /// Include letters that were redriven 3 times without success
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    output: Output,
}

fn parse_rate(text: &str) -> Result<f64> {
    let rate: f64 =
        text.strip_suffix("/s").unwrap_or(text).parse().context("must be a number such as 50/s")?;
    anyhow::ensure!(rate.is_finite() && rate > 0.0, "must be more than 0");
    Ok(rate)
}

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
struct Document {
    executed: bool,
    redriven: usize,
    failed: usize,
    refused: usize,
    behind: usize,
    planned: usize,
    dead_letters: Vec<Line>,
}

impl Document {
    fn of(lines: Vec<Line>, executed: bool) -> Self {
        let count = |result: &str| lines.iter().filter(|line| line.result == result).count();
        Self {
            executed,
            redriven: count("redriven"),
            failed: count("failed"),
            refused: count("refused"),
            behind: count("behind"),
            planned: count("planned"),
            dead_letters: lines,
        }
    }
}

impl Redrive {
    pub(super) async fn run(&self) -> Result<Outcome> {
        if self.ids.is_empty() && self.filter.is_empty() && !self.all {
            bail!("which? Name ids, a filter, or --all");
        }
        let services = Services::connect(&self.target, self.filter.service.as_deref())?;
        let bar = progress();
        let mut lines = Vec::new();
        for service in &services.all {
            let left = self.max.map(|max| max.saturating_sub(u32::try_from(lines.len()).unwrap_or(u32::MAX)));
            if left == Some(0) {
                break;
            }
            self.redrive_service(service, left, &bar, &mut lines).await?;
        }
        bar.finish_and_clear();
        let document = Document::of(lines, self.execute);
        self.output.print(&document, || print(&document.dead_letters))?;
        Ok(conclude(&document))
    }

    /// Redrives the letters of one service. If it dies in the middle, the rest is asked for again once it is back: what was
    /// redriven is no longer parked.
    async fn redrive_service(
        &self,
        service: &Service,
        mut left: Option<u32>,
        bar: &ProgressBar,
        lines: &mut Vec<Line>,
    ) -> Result<()> {
        let mut interruptions = 0;
        loop {
            let before = lines.len();
            let Err(status) = self.stream(service, left, bar, lines).await? else { return Ok(()) };
            let progress = lines.len() - before;
            left = left.map(|left| left.saturating_sub(u32::try_from(progress).unwrap_or(u32::MAX)));
            interruptions = if progress > 0 { 0 } else { interruptions + 1 };
            let again = self.execute
                && matches!(
                    status.code(),
                    Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
                )
                && interruptions <= INTERRUPTIONS_MAX
                && left != Some(0);
            if !again {
                return Err(status).with_context(|| {
                    format!(
                        "{} stopped after {} letters; what was redriven stays redriven, run the command again",
                        service.name,
                        lines.len()
                    )
                });
            }
            // Letters that failed, or wait behind one, would be tried again, and the service counts each redrive.
            if lines.iter().any(|line| line.service == service.name && line.result != "redriven") {
                bail!(
                    "{} was interrupted after letters had failed; run the command again for the rest",
                    service.name
                );
            }
            tokio::time::sleep(INTERRUPTION_PAUSE).await;
        }
    }

    /// One stream. The inner error says how it was interrupted.
    async fn stream(
        &self,
        service: &Service,
        left: Option<u32>,
        bar: &ProgressBar,
        lines: &mut Vec<Line>,
    ) -> Result<Result<(), tonic::Status>> {
        let mode = if self.execute { pb::RedriveMode::Execute } else { pb::RedriveMode::DryRun };
        let filter = pb::DeadLetterFilter {
            ids: self.ids.iter().map(Uuid::to_string).collect(),
            ..self.filter.to_proto()
        };
        let request = pb::RedriveDeadLettersRequest {
            filter: Some(filter),
            mode: mode.into(),
            rate_per_second: self.rate.unwrap_or_default(),
            letters_max: left.unwrap_or_default(),
            force: self.force,
            author: self.by.name(),
        };
        let mut steps = match service.dead_letters().redrive_dead_letters(service.request(request)?).await {
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
}

/// On a terminal only.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta} left") {
        bar.set_style(style);
    }
    bar
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

fn print(lines: &[Line]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut table = table(&["ID", "SERVICE", "TOPIC", "KEY", "RESULT", "REASON"]);
    for line in lines {
        let key = if line.key.is_empty() { "-" } else { &line.key };
        table.add_row([&line.id, line.service, &line.topic, key, line.result, &line.reason]);
    }
    data!("{table}")
}

fn conclude(document: &Document) -> Outcome {
    let Document { redriven, failed, refused, behind, planned, .. } = document;
    if document.dead_letters.is_empty() {
        say!("no parked dead letter matches");
        return Outcome::NothingMatched;
    }
    if !document.executed {
        say!(
            "dry run: {planned} would be redriven, {refused} refused, {behind} wait behind; do it with --execute"
        );
        return Outcome::Done;
    }
    say!(
        "{redriven} redriven, {failed} failed again, {refused} refused (3 redrives, see --force), {behind} wait behind"
    );
    match (redriven, failed + refused + behind) {
        (_, 0) => Outcome::Done,
        (0, _) => Outcome::Failed,
        _ => Outcome::Partly,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates are read as the help says, and garbage is refused.
    #[test]
    fn rates_are_read_as_the_help_says() {
        assert!((parse_rate("50/s").expect("a rate") - 50.0).abs() < f64::EPSILON);
        assert!((parse_rate("0.5").expect("a rate") - 0.5).abs() < f64::EPSILON);
        for wrong in ["", "fast", "0/s", "-1/s", "inf/s", "50/m"] {
            assert!(parse_rate(wrong).is_err(), "{wrong:?}");
        }
    }
}
