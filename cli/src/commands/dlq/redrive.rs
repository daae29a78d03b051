//! `dlq redrive`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use holdfast_proto::{
    ops::v1::{self as pb, redrive_dead_letters_response::Step},
    to_timestamp,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tonic::Code;
use uuid::Uuid;

use super::{
    filter::Filter,
    letter::LetterLine,
    listing::of_service,
    named::{Named, parse_named},
    redrives,
};
use crate::{
    options::{By, ListOutput},
    output::{Outcome, UsageError, data, say},
    services::{Service, Services},
    table::Table,
    target::Target,
};

/// A service that dies in the middle is waited for: this many attempts without any progress, with this pause.
const INTERRUPTIONS_MAX: u32 = 30;
const INTERRUPTION_PAUSE: Duration = Duration::from_millis(500);
/// Where no bar is drawn, a line says this often how far it is.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Letters of one call.
const IDS_PER_CALL: usize = 1_000;
/// Letters that each service is asked for when those are looked for that a redrive has caused.
const CAUSED_MAX: usize = 1_000;
/// Of these, those that are said.
const SAID_MAX: usize = 10;
/// A plan with more letters is a summary.
const PLAN_ROWS_MAX: usize = 20;

/// Options that say what to redrive, and how.
const SELECTION: [&str; 12] =
    ["ids", "topic", "class", "order", "since", "until", "all", "execute", "rate", "max", "force", "verbose"];

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of a command line")]
pub(crate) struct Redrive {
    #[command(flatten)]
    target: Target,
    /// These letters, or `-` for ids on standard input; others that are parked for the same orders go with them
    #[arg(value_parser = parse_named, value_name = "ID|-")]
    ids: Vec<Named>,
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
    /// Show each letter of a long plan
    #[arg(short, long)]
    verbose: bool,
    /// Show redrives: which are under way, by whom, how far; and the latest that have ended
    #[arg(long, conflicts_with_all = SELECTION, conflicts_with = "cancel")]
    status: bool,
    /// End redrives that are under way, whoever has begun them; what they have redriven stays redriven
    #[arg(long, conflicts_with_all = SELECTION)]
    cancel: bool,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    output: ListOutput,
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
    /// Of a failure.
    class: Option<String>,
    /// Why it is not redriven.
    reason: Option<String>,
    /// Whether it was edited.
    edited: bool,
    /// Redrives since its last edit, before this one.
    redrives: i32,
}

#[derive(Serialize)]
struct Document {
    executed: bool,
    /// Those that are not named included.
    redriven: usize,
    /// Redriven, as their services say, but not named: the answer was lost with the connection, or with the service.
    unnamed: usize,
    failed: usize,
    refused: usize,
    behind: usize,
    planned: usize,
    would_fail: usize,
    dead_letters: Vec<Line>,
    /// Letters that were parked since, of orders that were redriven: what these have caused, as far as it was parked at the end.
    caused: Vec<LetterLine>,
}

impl Document {
    fn of(lines: Vec<Line>, unnamed: usize, executed: bool, caused: Vec<LetterLine>) -> Self {
        let count = |result: &str| lines.iter().filter(|line| line.result == result).count();
        Self {
            executed,
            redriven: count("redriven") + unnamed,
            unnamed,
            failed: count("failed"),
            refused: count("refused"),
            behind: count("behind"),
            planned: count("planned"),
            would_fail: count("would-fail"),
            dead_letters: lines,
            caused,
        }
    }
}

/// Whether a service did what was asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done,
    /// The operator has pressed Ctrl-C: the service ends after its current transaction.
    Interrupted,
    /// Another operator has cancelled it.
    Cancelled,
}

impl Redrive {
    pub(super) async fn run(&self) -> Result<Outcome> {
        if self.status || self.cancel {
            let services = Services::connect(&self.target, self.filter.service.as_deref())?;
            return if self.status {
                redrives::status(&services, &self.target, &self.output).await
            } else {
                redrives::cancel(&services, &self.by, &self.output).await
            };
        }
        if self.ids.is_empty() && self.filter.is_empty() && !self.all {
            bail!(UsageError("which? Name ids, a filter, or --all".to_owned()));
        }
        let services = Services::connect(&self.target, self.filter.service.as_deref())?;
        let ids = services.resolve(&self.ids).await?;
        // What is redriven may be parked by other services, too.
        let everywhere = self.execute.then(|| Services::connect(&self.target, None).ok()).flatten();
        let before = parked_at_each(everywhere.as_ref()).await;
        let began = OffsetDateTime::now_utc();
        let mut progress = Progress::new();
        let mut failed = Vec::new();
        let mut ended = Ended::Done;
        // The same at all services, in each call.
        let id = Uuid::now_v7();
        for service in &services.all {
            let done = u32::try_from(progress.lines.len()).unwrap_or(u32::MAX);
            let left = self.max.map(|max| max.saturating_sub(done));
            if left == Some(0) {
                break;
            }
            match self.redrive_at(service, id, &ids, left, &mut progress).await {
                Ok(Ended::Done) => {}
                Ok(early) => {
                    ended = early;
                    break;
                }
                Err(error) => failed.push(error),
            }
        }
        progress.bar.finish_and_clear();
        let unnamed = if self.execute { unnamed(&services, id, &progress).await } else { 0 };
        let more = more_since(&before, everywhere.as_ref()).await;
        let caused = caused(everywhere.as_ref(), &more, &progress.lines, began).await;
        let document = Document::of(progress.lines, unnamed, self.execute, caused);
        let ids = document.dead_letters.iter().map(|line| line.id.as_str());
        self.output.print(&document, ids, |_| self.print(&document.dead_letters))?;
        let outcome = conclude(&document);
        for (service, more) in more {
            let stats = self.target.hint("dlq stats")?;
            say!("{service} has {more} more parked than before: {stats}");
        }
        for line in said_of(&document.caused) {
            say!("{line}");
        }
        match ended {
            Ended::Done => {}
            Ended::Interrupted => {
                say!("interrupted: what is left stays parked; run the command again for it");
                return Ok(Outcome::Partly);
            }
            // Who has cancelled it is said already.
            Ended::Cancelled => {
                say!("what is left stays parked");
                return Ok(Outcome::Partly);
            }
        }
        // Others were still redriven.
        let Some(last) = failed.pop() else { return Ok(outcome) };
        for error in &failed {
            say!("{error:#}");
        }
        if document.dead_letters.is_empty() {
            return Err(last);
        }
        say!("{last:#}");
        Ok(Outcome::Partly)
    }

    /// Redrives the letters of one service, as many ids at a time as a call may have.
    async fn redrive_at(
        &self,
        service: &Service,
        id: Uuid,
        ids: &[Uuid],
        left: Option<u32>,
        progress: &mut Progress,
    ) -> Result<Ended> {
        if ids.is_empty() {
            return self.redrive_service(service, id, ids, left, progress).await;
        }
        let before = progress.lines.len();
        for ids in ids.chunks(IDS_PER_CALL) {
            let done = u32::try_from(progress.lines.len() - before).unwrap_or(u32::MAX);
            let left = left.map(|left| left.saturating_sub(done));
            if left == Some(0) {
                break;
            }
            let ended = self.redrive_service(service, id, ids, left, progress).await?;
            if ended != Ended::Done {
                return Ok(ended);
            }
        }
        Ok(Ended::Done)
    }

    /// Redrives letters of one service. If it dies in the middle, the rest is asked for again once it is back: what was
    /// redriven is no longer parked.
    async fn redrive_service(
        &self,
        service: &Service,
        id: Uuid,
        ids: &[Uuid],
        mut left: Option<u32>,
        progress: &mut Progress,
    ) -> Result<Ended> {
        let mut interruptions = 0;
        let mut has_said = false;
        loop {
            let before = progress.lines.len();
            let status = match self.stream(service, id, ids, left, progress).await? {
                Ok(ended) => return Ok(ended),
                Err(status) => status,
            };
            if status.code() == Code::Aborted {
                say!("{}", service.error(&status));
                return Ok(Ended::Cancelled);
            }
            progress.interrupted.insert(service.name);
            let done = progress.lines.len() - before;
            left = left.map(|left| left.saturating_sub(u32::try_from(done).unwrap_or(u32::MAX)));
            interruptions = if done > 0 { 0 } else { interruptions + 1 };
            let again = self.execute
                && matches!(
                    status.code(),
                    Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
                )
                && interruptions <= INTERRUPTIONS_MAX
                && left != Some(0);
            if !again {
                let of_service = progress.lines.iter().filter(|line| line.service == service.name).count();
                let mut error = anyhow::Error::from(service.error(&status));
                if status.code() == Code::FailedPrecondition {
                    let cancel =
                        self.target.hint(&format!("dlq redrive --cancel --service {}", service.name))?;
                    error = anyhow::anyhow!("{error}; wait, or end it with {cancel}");
                }
                return Err(match of_service {
                    0 => error,
                    done => error.context(format!(
                        "{} stopped after {done} letters; what was redriven stays redriven, run the command again",
                        service.name
                    )),
                });
            }
            // Letters that failed, or wait behind one, would be tried again, and the service counts each redrive.
            if progress.lines.iter().any(|line| line.service == service.name && line.result != "redriven") {
                bail!(
                    "{} was interrupted after letters had failed; run the command again for the rest",
                    service.name
                );
            }
            if interruptions > 1 && !has_said {
                say!("{} is away: it is waited for", service.name);
                has_said = true;
            }
            tokio::select! {
                () = sleep(INTERRUPTION_PAUSE) => {}
                _ = tokio::signal::ctrl_c() => return Ok(Ended::Interrupted),
            }
        }
    }

    /// One stream. The inner error says how it was interrupted.
    async fn stream(
        &self,
        service: &Service,
        id: Uuid,
        ids: &[Uuid],
        left: Option<u32>,
        progress: &mut Progress,
    ) -> Result<Result<Ended, tonic::Status>> {
        let mode = if self.execute { pb::RedriveMode::Execute } else { pb::RedriveMode::DryRun };
        let filter =
            pb::DeadLetterFilter { ids: ids.iter().map(Uuid::to_string).collect(), ..self.filter.to_proto() };
        let request = pb::RedriveDeadLettersRequest {
            filter: Some(filter),
            mode: mode.into(),
            rate_per_second: self.rate.unwrap_or_default(),
            letters_max: left.unwrap_or_default(),
            force: self.force,
            author: self.by.name(),
            redrive_id: id.to_string(),
        };
        let mut steps = match service.dead_letters().redrive_dead_letters(service.request(request)?).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        loop {
            let step = tokio::select! {
                step = steps.message() => step,
                // The end of the stream ends the redrive.
                _ = tokio::signal::ctrl_c() => return Ok(Ok(Ended::Interrupted)),
            };
            match step {
                Ok(Some(pb::RedriveDeadLettersResponse { step: Some(Step::Plan(plan)) })) => {
                    progress.planned(plan.dead_letters);
                }
                Ok(Some(pb::RedriveDeadLettersResponse { step: Some(Step::Outcome(outcome)) })) => {
                    progress.done(line(outcome, service.name));
                }
                Ok(Some(pb::RedriveDeadLettersResponse { step: None })) => {}
                Ok(None) => return Ok(Ok(Ended::Done)),
                Err(status) => return Ok(Err(status)),
            }
        }
    }

    fn print(&self, lines: &[Line]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if !self.execute && !self.verbose && lines.len() > PLAN_ROWS_MAX {
            return data!("{}", summary(lines));
        }
        data!("{}", table(lines))
    }
}

/// What was done so far, and how far that is.
struct Progress {
    lines: Vec<Line>,
    /// Services that were away in the middle.
    interrupted: BTreeSet<&'static str>,
    bar: ProgressBar,
    /// Letters of all plans, as the last one of each service has it.
    total: usize,
    said: Instant,
}

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        if !io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {rate} {eta} left") {
            // A whole number, as nobody reads more of it while it changes.
            let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = write!(out, "{:.0}/s", state.per_sec());
            };
            bar.set_style(style.with_key("rate", rate));
        }
        Self { lines: Vec::new(), interrupted: BTreeSet::new(), bar, total: 0, said: Instant::now() }
    }

    /// The plan of a stream has no letters of those before it: what was redriven is not parked any more.
    fn planned(&mut self, letters: u64) {
        self.total = self.lines.len() + usize::try_from(letters).unwrap_or(usize::MAX);
        self.bar.set_length(self.total as u64);
    }

    fn done(&mut self, line: Line) {
        self.lines.push(line);
        self.bar.set_position(self.lines.len() as u64);
        if self.bar.is_hidden() && self.said.elapsed() > SAY_EVERY {
            say!("{} of {}", self.lines.len(), self.total);
            self.said = Instant::now();
        }
    }
}

/// How many letters the services have redriven beyond those whose answers have arrived. They count in the transaction that redrives.
async fn unnamed(services: &Services, id: Uuid, progress: &Progress) -> usize {
    let mut unnamed = 0;
    for service in &services.all {
        let of_service = |line: &&Line| line.service == service.name && line.result == "redriven";
        let named = progress.lines.iter().filter(of_service).count();
        match redrives::redriven_at(service, id).await {
            Ok(Some(redriven)) => {
                unnamed += usize::try_from(redriven).unwrap_or(usize::MAX).saturating_sub(named);
            }
            // Only where an answer can have been lost: a service that was never interrupted may be of a version that doesn't count.
            Err(error) if progress.interrupted.contains(service.name) => {
                say!("whether {} has redriven more than is named is not known: {error:#}", service.name);
            }
            Ok(None) | Err(_) => {}
        }
    }
    unnamed
}

/// How many letters each service has parked; those that can't be asked are left out: this is only for a hint.
async fn parked_at_each(services: Option<&Services>) -> BTreeMap<&'static str, u64> {
    let mut parked = BTreeMap::new();
    for service in services.into_iter().flat_map(|services| &services.all) {
        let Ok(request) = service.request(pb::GetDeadLetterStatsRequest {}) else { continue };
        if let Ok(answer) = service.answer(service.dead_letters().get_dead_letter_stats(request).await) {
            parked.insert(service.name, answer.stats.iter().map(|stats| stats.parked).sum());
        }
    }
    parked
}

/// Services that have more parked than before.
async fn more_since(
    before: &BTreeMap<&'static str, u64>,
    services: Option<&Services>,
) -> Vec<(&'static str, u64)> {
    let now = parked_at_each(services).await;
    let more =
        now.into_iter().filter_map(|(service, now)| Some((service, now.checked_sub(*before.get(service)?)?)));
    more.filter(|(_, more)| *more > 0).collect()
}

/// Letters of orders that were redriven which services have parked since `began`, by their clocks. Those that can't be asked are left
/// out: this is only for a hint.
async fn caused(
    services: Option<&Services>,
    more: &[(&'static str, u64)],
    redriven: &[Line],
    began: OffsetDateTime,
) -> Vec<LetterLine> {
    let redriven = || redriven.iter().filter(|line| line.result == "redriven");
    let orders: BTreeSet<&str> = redriven().map(|line| line.key.as_str()).collect();
    let wanted = pb::ListDeadLettersRequest {
        state: pb::DeadLetterState::Parked.into(),
        since: Some(to_timestamp(began)),
        ..pb::ListDeadLettersRequest::default()
    };
    let mut caused = Vec::new();
    for service in services.into_iter().flat_map(|services| &services.all) {
        if !more.iter().any(|(name, _)| *name == service.name) {
            continue;
        }
        let letters = of_service(service, &wanted, CAUSED_MAX).await.unwrap_or_default();
        let of_these = letters.iter().filter(|letter| orders.contains(letter.subject.as_str()));
        caused.extend(of_these.map(LetterLine::of));
    }
    caused
}

/// The first of them, one on a line.
fn said_of(caused: &[LetterLine]) -> Vec<String> {
    let line = |of: &LetterLine| {
        let LetterLine { id, service, class, topic, .. } = of;
        format!("{service} has parked {id} ({class} of {topic}) of an order that was redriven")
    };
    let more = caused.len().saturating_sub(SAID_MAX);
    let more = (more > 0).then(|| format!("and {more} more of these orders"));
    caused.iter().take(SAID_MAX).map(line).chain(more).collect()
}

/// What a dry run foresees, by service and topic: how many letters of each kind.
fn summary(lines: &[Line]) -> Table {
    let mut kinds: BTreeMap<(&str, &str, String), usize> = BTreeMap::new();
    for line in lines {
        *kinds.entry((line.service, line.topic.as_str(), foreseen(line))).or_default() += 1;
    }
    let mut table = Table::new(&["LETTERS", "SERVICE", "TOPIC", "FORESEEN"]).cutting(&["FORESEEN"]);
    for ((service, topic, foreseen), letters) in &kinds {
        table.add_row([&letters.to_string(), *service, *topic, foreseen]);
    }
    table
}

/// What a dry run foresees of a letter, without what is its own.
fn foreseen(line: &Line) -> String {
    match (line.result, &line.class) {
        ("planned", _) if line.edited => "would be tried, was edited".to_owned(),
        ("planned", _) => "would be tried".to_owned(),
        ("would-fail", Some(class)) => format!("would fail: {class}"),
        ("behind", _) => "would wait behind one of these".to_owned(),
        (result, _) => result.to_owned(),
    }
}

/// What is known of a letter that would be tried.
fn known(outcome: &pb::RedriveOutcome) -> Option<String> {
    let edited = outcome.edited.then(|| "edited".to_owned());
    let redrives =
        (outcome.redrive_count > 0).then(|| format!("redriven {} times in vain", outcome.redrive_count));
    let known: Vec<String> = [edited, redrives].into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.join(", "))
}

fn line(outcome: pb::RedriveOutcome, service: &'static str) -> Line {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let why = match outcome.result() {
        pb::RedriveResult::Refused => Some("redriven 3 times without success".to_owned()),
        pb::RedriveResult::Planned => known(&outcome),
        pb::RedriveResult::Behind => Some("waits behind an earlier letter of its order".to_owned()),
        _ => given(&outcome.reason),
    };
    Line {
        result: match outcome.result() {
            pb::RedriveResult::Unspecified => "unknown",
            pb::RedriveResult::Planned => "planned",
            pb::RedriveResult::WouldFail => "would-fail",
            pb::RedriveResult::Redriven => "redriven",
            pb::RedriveResult::Failed => "failed",
            pb::RedriveResult::Refused => "refused",
            pb::RedriveResult::Behind => "behind",
        },
        class: given(&outcome.class),
        reason: why,
        edited: outcome.edited,
        redrives: outcome.redrive_count,
        id: outcome.dead_letter_id,
        service,
        topic: outcome.topic,
        key: outcome.subject,
    }
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new(&["ID", "RESULT", "SERVICE", "TOPIC", "ORDER", "REASON"])
        .cutting(&["REASON"])
        .sparing(&["SERVICE", "TOPIC", "ORDER"]);
    for line in lines {
        let key = if line.key.is_empty() { "-" } else { &line.key };
        let reason = line.reason.as_deref().unwrap_or_default();
        table.add_row([&line.id, line.result, line.service, &line.topic, key, reason]);
    }
    table
}

fn conclude(document: &Document) -> Outcome {
    let Document { redriven, failed, refused, behind, planned, would_fail, .. } = document;
    if document.dead_letters.is_empty() && document.unnamed == 0 {
        say!("no parked dead letter matches");
        return Outcome::NothingMatched;
    }
    let counted = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let parts = [
        counted(*would_fail, "would fail as they are (see `dlq edit`)"),
        counted(*failed, "failed again"),
        counted(*refused, "refused (redriven 3 times without success, see --force)"),
        counted(*behind, "wait behind"),
    ];
    let mut rest = String::new();
    for part in parts.into_iter().flatten() {
        rest.push_str(", ");
        rest.push_str(&part);
    }
    if !document.executed {
        let edited =
            document.dead_letters.iter().filter(|line| line.result == "planned" && line.edited).count();
        let edited = if edited > 0 { format!(" ({edited} edited)") } else { String::new() };
        say!("dry run: {planned} would be tried{edited}{rest}; do it with --execute");
        return Outcome::Done;
    }
    say!("{redriven} redriven{rest}");
    if document.unnamed > 0 {
        say!(
            "{} of them were redriven, but their answers were lost, so they are not named",
            document.unnamed
        );
    }
    match (redriven, failed + refused + behind) {
        (_, 0) => Outcome::Done,
        (0, _) => Outcome::Failed,
        _ => Outcome::Partly,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{output::json, snapshot};

    /// Rates are read as the help says, and garbage is refused.
    #[test]
    fn rates_are_read_as_the_help_says() {
        assert!((parse_rate("50/s").expect("a rate") - 50.0).abs() < f64::EPSILON);
        assert!((parse_rate("0.5").expect("a rate") - 0.5).abs() < f64::EPSILON);
        for wrong in ["", "fast", "0/s", "-1/s", "inf/s", "50/m"] {
            assert!(parse_rate(wrong).is_err(), "{wrong:?}");
        }
    }

    /// After a reconnection nothing is counted twice: the new plan has what is left.
    #[test]
    fn progress_counts_each_letter_once() {
        let mut progress = Progress::new();
        let done = |progress: &mut Progress| progress.done(line(pb::RedriveOutcome::default(), "payment"));
        progress.planned(45);
        (0..9).for_each(|_| done(&mut progress));
        progress.planned(36);
        assert_eq!((progress.bar.position(), progress.bar.length()), (9, Some(45)));
        // The next service.
        (0..36).for_each(|_| done(&mut progress));
        progress.planned(5);
        assert_eq!((progress.bar.position(), progress.bar.length()), (45, Some(50)));
    }

    /// Each letter that is not redriven says why.
    #[test]
    fn what_is_not_redriven_says_why() {
        let of = |result: pb::RedriveResult, reason: &str| {
            let outcome = pb::RedriveOutcome {
                result: result.into(),
                reason: reason.to_owned(),
                ..pb::RedriveOutcome::default()
            };
            line(outcome, "payment").reason
        };
        assert_eq!(of(pb::RedriveResult::Redriven, ""), None);
        assert_eq!(of(pb::RedriveResult::Failed, "no such order").as_deref(), Some("no such order"));
        assert_eq!(of(pb::RedriveResult::Refused, "").as_deref(), Some("redriven 3 times without success"));
        assert!(of(pb::RedriveResult::Behind, "").is_some_and(|reason| reason.starts_with("waits behind")));
        assert_eq!(of(pb::RedriveResult::WouldFail, "no key").as_deref(), Some("no key"));
    }

    /// A plan of many letters is a few lines: what would be tried, and what would not, and why.
    #[test]
    fn a_long_plan_is_summarised() {
        let planned = |result: pb::RedriveResult, class: &str, edited: bool, redrive_count: i32| {
            let class = class.to_owned();
            let result = result.into();
            line(pb::RedriveOutcome { result, class, edited, redrive_count, ..Default::default() }, "payment")
        };
        let lines = [
            planned(pb::RedriveResult::Planned, "", true, 0),
            planned(pb::RedriveResult::Planned, "", false, 2),
            planned(pb::RedriveResult::WouldFail, "decode", false, 0),
            planned(pb::RedriveResult::Behind, "", false, 0),
            planned(pb::RedriveResult::Refused, "", false, 3),
        ];
        let foreseen = lines.each_ref().map(foreseen);
        assert_eq!(
            foreseen,
            [
                "would be tried, was edited",
                "would be tried",
                "would fail: decode",
                "would wait behind one of these",
                "refused"
            ]
        );
        assert_eq!(lines[0].reason.as_deref(), Some("edited"));
        assert_eq!(lines[1].reason.as_deref(), Some("redriven 2 times in vain"));
        let table = summary(&lines).to_string();
        assert!(table.contains("1        payment         would fail: decode"), "{table}");
        let document = Document::of(lines.into(), 0, false, Vec::new());
        assert_eq!((document.planned, document.would_fail, document.refused, document.behind), (2, 1, 1, 1));
        snapshot::check("json/dlq-redrive.json", &json(&document));
    }

    /// What a redrive has caused elsewhere is named, but not without end.
    #[test]
    fn what_was_caused_is_named() {
        let letter = |n: usize| {
            LetterLine::of(&pb::DeadLetter {
                id: format!("01a21190-0000-7000-8000-0000000000{n:02}"),
                service: "order".to_owned(),
                class: "business-invariant".to_owned(),
                topic: "payment.completed".to_owned(),
                ..pb::DeadLetter::default()
            })
        };
        let letters: Vec<LetterLine> = (0..12).map(letter).collect();
        let said = said_of(&letters);
        assert_eq!(
            said[0],
            "order has parked 01a21190-0000-7000-8000-000000000000 (business-invariant of payment.completed) of an order that was redriven"
        );
        assert_eq!((said.len(), said[10].as_str()), (11, "and 2 more of these orders"));
        assert_eq!(said_of(&letters[..1]).len(), 1);
    }
}
