//! What is done to letters: first looked at, then confirmed, then done, and read back.
//!
//! A preview says exactly what would be done, and has a digest of that. What is confirmed is the digest: if anything has changed
//! meanwhile, nothing is done. A confirmation has an id, so that a second click finds what the first one began. What was done is
//! known by the services, in their audit; here is only what this process has seen of it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use holdfast_operator::{
    service::{CallError, Service},
    ticket::digest_of,
};
use holdfast_proto::{
    ops::v1::{self as pb, redrive_dead_letters_response::Step},
    to_timestamp,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    ask::{Asked, answers},
    state::Console,
    view::word,
    when::When,
};

/// Letters of one job; what is more is done by the next one.
pub(crate) const LETTERS_MAX: u32 = 1_000;
/// For a dry run, which reads the letters.
const PREVIEW_TIME_MAX: Duration = Duration::from_secs(5);
/// For the work itself, without the pauses of its rate. What is left then stays parked.
const WORK_TIME_MAX: Duration = Duration::from_secs(120);
/// The highest rate that can be asked for, in letters per second.
const RATE_MAX: u32 = 1_000;
/// Redrives of one service that are shown; there is one at a time.
const REDRIVES_MAX: u32 = 20;
/// Of which the results are kept.
const JOBS_MAX: usize = 64;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// Handle letters again, whole aggregates in order.
    Redrive,
    /// Give them up.
    Discard,
    /// Take that back.
    Restore,
}

impl Action {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Discard => "discard",
            Self::Restore => "restore",
        }
    }
}

/// To which letters of a service. Empty fields match everything; one of them must not be empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Selection {
    pub(crate) action: Action,
    pub(crate) service: String,
    #[serde(default)]
    pub(crate) topic: String,
    #[serde(default)]
    pub(crate) class: String,
    #[serde(default)]
    pub(crate) order: String,
    #[serde(default)]
    pub(crate) id: String,
    /// Parked at or after.
    #[serde(default)]
    pub(crate) since: When,
    /// Parked before.
    #[serde(default)]
    pub(crate) until: When,
    #[serde(default = "one")]
    pub(crate) max: u32,
    /// Of a redrive: letters per second; 0: as fast as they go.
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) rate: u32,
    /// Of a redrive: also letters that were redriven 3 times without success.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) force: bool,
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_none(rate: &u32) -> bool {
    *rate == 0
}

impl Selection {
    /// Why it can't be meant; an empty value must never match everything.
    pub(crate) fn wrong(&self) -> Option<&'static str> {
        let fields = [&self.topic, &self.class, &self.order, &self.id];
        let is_any_time = self.since.at().or(self.until.at()).is_none();
        if fields.iter().all(|field| field.is_empty()) && is_any_time {
            return Some("a topic, a class, an order, a time or a letter must be chosen");
        }
        let is_id = |text: &str| text.is_empty() || Uuid::try_parse(text).is_ok_and(|id| !id.is_nil());
        if !is_id(&self.id) || !is_id(&self.order) {
            return Some("orders and letters are named by their ids");
        }
        if !(1..=LETTERS_MAX).contains(&self.max) {
            return Some("1 to 1,000 letters at a time");
        }
        if self.action != Action::Redrive && (self.rate > 0 || self.force) {
            return Some("only a redrive has a rate, or can be forced");
        }
        (self.rate > RATE_MAX).then_some("at most 1,000 letters per second")
    }

    fn ids(&self) -> Vec<String> {
        if self.id.is_empty() { Vec::new() } else { vec![self.id.clone()] }
    }

    fn filter(&self) -> pb::DeadLetterFilter {
        pb::DeadLetterFilter {
            ids: self.ids(),
            topic: self.topic.clone(),
            class: self.class.clone(),
            subject: self.order.clone(),
            since: self.since.at().map(to_timestamp),
            until: self.until.at().map(to_timestamp),
        }
    }

    /// The letters that it is about, and no others.
    fn list(&self, state: pb::DeadLetterState) -> pb::ListDeadLettersRequest {
        pb::ListDeadLettersRequest {
            topic: self.topic.clone(),
            class: self.class.clone(),
            subject: self.order.clone(),
            ids: self.ids(),
            since: self.since.at().map(to_timestamp),
            until: self.until.at().map(to_timestamp),
            state: state.into(),
            page_size: self.max,
            ..pb::ListDeadLettersRequest::default()
        }
    }

    /// The state of letters to which it can be done.
    pub(crate) const fn state(&self) -> pb::DeadLetterState {
        match self.action {
            Action::Redrive | Action::Discard => pb::DeadLetterState::Parked,
            Action::Restore => pb::DeadLetterState::Discarded,
        }
    }

    /// How long it may take.
    fn work_time_max(&self) -> Duration {
        let pauses = self.max.checked_div(self.rate).unwrap_or_default();
        WORK_TIME_MAX + Duration::from_secs(u64::from(pauses))
    }

    /// With times that stay the same while it is looked at and confirmed.
    pub(crate) fn fixed(self) -> Self {
        Self { since: self.since.fixed(), until: self.until.fixed(), ..self }
    }

    /// The filter as options of a command.
    fn options(&self) -> String {
        let options = [
            ("--service", self.service.as_str()),
            ("--topic", &self.topic),
            ("--class", &self.class),
            ("--order", &self.order),
            ("--since", self.since.text()),
            ("--until", self.until.text()),
        ];
        let given = options.into_iter().filter(|(_, value)| !value.is_empty());
        given.fold(String::new(), |words, (option, value)| format!("{words} {option} {value}"))
    }

    /// The commands that do the same.
    pub(crate) fn commands(&self) -> Vec<String> {
        let name = self.action.name();
        let which = if self.id.is_empty() { self.options() } else { format!(" {}", self.id) };
        match self.action {
            Action::Redrive => {
                let rate = if self.rate > 0 { format!(" --rate {}/s", self.rate) } else { String::new() };
                let force = if self.force { " --force" } else { "" };
                vec![format!("dlq {name}{which} --max {}{rate}{force} --execute", self.max)]
            }
            // It takes ids only.
            Action::Restore if self.id.is_empty() => vec![
                format!("dlq list{which} --state discarded --limit {} -o id", self.max),
                format!("dlq {name} - --reason TEXT"),
            ],
            Action::Discard | Action::Restore => vec![format!("dlq {name}{which} --reason TEXT")],
        }
    }
}

/// A letter, and what would happen or has happened to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) topic: String,
    pub(crate) order: String,
    pub(crate) result: String,
    pub(crate) why: String,
}

impl Line {
    fn of_outcome(outcome: pb::RedriveOutcome) -> Self {
        let result = outcome.result();
        let why = match result {
            pb::RedriveResult::Refused => "redriven 3 times without success".to_owned(),
            pb::RedriveResult::Behind => "waits behind an earlier letter of its order".to_owned(),
            _ if outcome.class.is_empty() => outcome.reason,
            _ => format!("{}: {}", outcome.class, outcome.reason),
        };
        Self {
            id: outcome.dead_letter_id,
            topic: outcome.topic,
            order: outcome.subject,
            result: word(result.as_str_name(), "REDRIVE_RESULT_"),
            why,
        }
    }

    fn of_letter(letter: pb::DeadLetter, result: &str) -> Self {
        let why = format!("{}: {}", letter.class, letter.reason);
        Self { id: letter.id, topic: letter.topic, order: letter.subject, result: result.to_owned(), why }
    }
}

/// What would be done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Preview {
    /// Parked letters that match, with those that go with them; at most `max` of them are in `lines`.
    pub(crate) letters: u64,
    pub(crate) lines: Vec<Line>,
    pub(crate) digest: String,
}

impl Preview {
    fn of(selection: &Selection, letters: u64, lines: Vec<Line>) -> Self {
        let text = format!("{selection:?}\n{letters}\n{lines:?}");
        Self { letters, lines, digest: digest_of(&text) }
    }
}

/// Looks what would be done; changes nothing.
pub(crate) async fn preview(service: &Service, selection: &Selection) -> Result<Preview> {
    match selection.action {
        Action::Redrive => {
            let mut seen = Redriven::default();
            let mode = pb::RedriveMode::DryRun;
            let begun = Begun { mode, author: String::new(), id: String::new() };
            redrive(service, selection, begun, PREVIEW_TIME_MAX, |step| seen.take(step)).await?;
            Ok(Preview::of(selection, seen.planned, seen.lines))
        }
        Action::Discard | Action::Restore => {
            let request = selection.list(selection.state());
            let request = service.request_within(request, PREVIEW_TIME_MAX)?;
            let answer = service.answer(service.dead_letters().list_dead_letters(request).await)?;
            let letters = answer.dead_letters.into_iter();
            let lines: Vec<Line> = letters.map(|letter| Line::of_letter(letter, "planned")).collect();
            let count = lines.len() as u64;
            Ok(Preview::of(selection, count, lines))
        }
    }
}

#[derive(Debug, Default)]
struct Redriven {
    planned: u64,
    lines: Vec<Line>,
}

impl Redriven {
    fn take(&mut self, step: Step) {
        match step {
            Step::Plan(plan) => self.planned = plan.dead_letters,
            Step::Outcome(outcome) => self.lines.push(Line::of_outcome(outcome)),
        }
    }
}

/// How a redrive is begun, and by whom.
struct Begun {
    mode: pb::RedriveMode,
    author: String,
    /// Under which its service knows it; empty for a dry run.
    id: String,
}

/// Reads the stream of a redrive to its end.
async fn redrive(
    service: &Service,
    selection: &Selection,
    begun: Begun,
    time_max: Duration,
    mut take: impl FnMut(Step),
) -> Result<()> {
    // A dry run would take the pauses of a rate, too.
    let rate = if begun.mode == pb::RedriveMode::Execute { selection.rate } else { 0 };
    let request = pb::RedriveDeadLettersRequest {
        filter: Some(selection.filter()),
        mode: begun.mode.into(),
        rate_per_second: f64::from(rate),
        letters_max: selection.max,
        force: selection.force,
        author: begun.author,
        // What was interrupted is looked at and begun anew by a person, under another id.
        redrive_id: begun.id,
    };
    let request = service.request_within(request, time_max)?;
    let stream = service.dead_letters().redrive_dead_letters(request).await;
    let mut stream = service.answer(stream)?;
    let read = async {
        loop {
            match stream.message().await {
                Ok(Some(answer)) => answer.step.into_iter().for_each(&mut take),
                Ok(None) => return Ok(()),
                Err(status) => return Err(service.error(&status)),
            }
        }
    };
    // The deadline of a call ends with the head of its answer, so a stream has its own.
    match tokio::time::timeout(time_max, read).await {
        Ok(read) => Ok(read?),
        Err(_) => bail!("{} has not come to an end in {} s", service.name, time_max.as_secs()),
    }
}

/// How a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    Running,
    Done,
    /// It broke off, so what is in its lines need not be all that was done.
    Broken(String),
}

/// What was begun, and what was seen of it. A redrive has the id of its confirmation at its service, too.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) selection: Selection,
    pub(crate) author: String,
    pub(crate) reason: String,
    pub(crate) began_at: OffsetDateTime,
    pub(crate) planned: usize,
    pub(crate) progress: Progress,
    pub(crate) lines: Vec<Line>,
    /// Parked letters of each service when it began.
    pub(crate) parked_before: BTreeMap<&'static str, u64>,
}

/// A job that can be looked at while it runs.
pub(crate) type Shared = Arc<Mutex<Job>>;

pub(crate) fn locked(job: &Shared) -> MutexGuard<'_, Job> {
    job.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last jobs, by the ids of their confirmations.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<VecDeque<(Uuid, Shared)>>);

impl Jobs {
    pub(crate) fn of(&self, id: Uuid) -> Option<Shared> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(known, _)| *known == id).map(|(_, job)| job.clone())
    }

    /// Keeps a new job; `None` if its confirmation was used already.
    fn begin(&self, id: Uuid, job: Job) -> Option<Shared> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.iter().any(|(known, _)| *known == id) {
            return None;
        }
        if all.len() >= JOBS_MAX {
            all.pop_front();
        }
        let job = Arc::new(Mutex::new(job));
        all.push_back((id, job.clone()));
        Some(job)
    }
}

/// Begins what was confirmed, once. It goes on whether or not somebody waits for it.
pub(crate) async fn begin(console: &Console, id: Uuid, preview: &Preview, mut job: Job) -> Result<()> {
    let service = console.service(&job.selection.service).context("no such service")?.clone();
    job.parked_before = parked_of_each(console, &mut Vec::new()).await;
    job.planned = preview.lines.len();
    let ids: Vec<String> = preview.lines.iter().map(|line| line.id.clone()).collect();
    let Some(shared) = console.jobs.begin(id, job.clone()) else { return Ok(()) };
    tracing::info!(
        author = job.author,
        reason = job.reason,
        action = job.selection.action.name(),
        service = service.name,
        letters = job.planned,
        "an operator changes dead letters"
    );
    tokio::spawn(async move {
        let worked = work(&service, id, &job, &ids, &shared).await;
        locked(&shared).progress = match worked {
            Ok(()) => Progress::Done,
            Err(error) => Progress::Broken(format!("{error:#}")),
        };
    });
    Ok(())
}

async fn work(service: &Service, id: Uuid, job: &Job, ids: &[String], shared: &Shared) -> Result<()> {
    let (author, reason, ids) = (job.author.clone(), job.reason.clone(), ids.to_vec());
    let (mut letters, within) = (service.dead_letters(), job.selection.work_time_max());
    let done = match job.selection.action {
        Action::Redrive => {
            // A redrive has no reason of its own in the audit, but names its author.
            let author = with_reason(&job.author, &reason);
            let begun = Begun { mode: pb::RedriveMode::Execute, author, id: id.to_string() };
            return redrive(service, &job.selection, begun, within, |step| {
                if let Step::Outcome(outcome) = step {
                    locked(shared).lines.push(Line::of_outcome(outcome));
                }
            })
            .await;
        }
        Action::Discard => {
            let request = pb::DiscardDeadLettersRequest { ids, reason, author };
            let request = service.request_within(request, within)?;
            service.answer(letters.discard_dead_letters(request).await)?.discarded
        }
        Action::Restore => {
            let request = pb::RestoreDeadLettersRequest { ids, reason, author };
            let request = service.request_within(request, within)?;
            service.answer(letters.restore_dead_letters(request).await)?.restored
        }
    };
    let result = if job.selection.action == Action::Discard { "discarded" } else { "restored" };
    let line = |id: String| Line {
        id,
        topic: job.selection.topic.clone(),
        order: job.selection.order.clone(),
        result: result.to_owned(),
        why: String::new(),
    };
    locked(shared).lines = done.into_iter().map(line).collect();
    Ok(())
}

/// Whom the audit names, with a reason where an action has none of its own there.
pub(crate) fn with_reason(author: &str, reason: &str) -> String {
    format!("{author}: {reason}")
}

/// The latest redrives of a service, the last one first.
pub(crate) async fn redrives(service: &Service) -> Result<Vec<pb::Redrive>> {
    let request = service.request(pb::ListRedrivesRequest { page_size: REDRIVES_MAX })?;
    Ok(service.answer(service.dead_letters().list_redrives(request).await)?.redrives)
}

/// How many letters each service has parked.
pub(crate) async fn parked_of_each(
    console: &Console,
    missing: &mut Vec<String>,
) -> BTreeMap<&'static str, u64> {
    let asked = console.ask(|service| async move { stats(&service).await }).await;
    let counted = answers(asked, missing).into_iter();
    counted.map(|(service, stats)| (service, stats.stats.iter().map(|stats| stats.parked).sum())).collect()
}

/// What a service has parked, by topic and class.
pub(crate) async fn stats(service: &Service) -> Result<pb::GetDeadLetterStatsResponse> {
    let request = service.request(pb::GetDeadLetterStatsRequest {})?;
    Ok(service.answer(service.dead_letters().get_dead_letter_stats(request).await)?)
}

/// The state of letters as their service has it now, by their ids.
pub(crate) async fn read_back(service: &Service, ids: &[String]) -> Asked<BTreeMap<String, String>> {
    let ask = async {
        let mut states = BTreeMap::new();
        for ids in ids.chunks(LETTERS_MAX as usize) {
            let request = pb::ListDeadLettersRequest {
                ids: ids.to_vec(),
                page_size: LETTERS_MAX,
                ..pb::ListDeadLettersRequest::default()
            };
            let answer = service.dead_letters().list_dead_letters(service.request(request)?).await;
            for letter in service.answer(answer)?.dead_letters {
                let state = word(letter.state().as_str_name(), "DEAD_LETTER_STATE_");
                states.insert(letter.id, state);
            }
        }
        Ok(states)
    };
    ask.await.into()
}

/// Whether a service has refused what was asked, which is no failure of the console.
pub(crate) fn refusal(error: &anyhow::Error) -> Option<&CallError> {
    error.downcast_ref::<CallError>().filter(|error| matches!(error, CallError::Refused { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection() -> Selection {
        Selection {
            action: Action::Redrive,
            service: "payment".to_owned(),
            topic: String::new(),
            class: "decode".to_owned(),
            order: String::new(),
            id: String::new(),
            since: When::default(),
            until: When::default(),
            max: 5,
            rate: 0,
            force: false,
        }
    }

    /// A selection that would match everything, or more than one job may do, is refused.
    #[test]
    fn a_selection_selects_something() {
        assert_eq!(selection().wrong(), None);
        let since = When::parse("1h").expect("a time");
        let of_a_time = Selection { class: String::new(), since: since.clone(), ..selection() };
        assert_eq!(of_a_time.wrong(), None);
        assert_eq!(of_a_time.filter().since, since.at().map(to_timestamp));
        assert_eq!(of_a_time.list(pb::DeadLetterState::Parked).since, since.at().map(to_timestamp));
        for wrong in [
            Selection { class: String::new(), ..selection() },
            Selection { id: "x".to_owned(), ..selection() },
            Selection { order: Uuid::nil().to_string(), ..selection() },
            Selection { max: 0, ..selection() },
            Selection { max: LETTERS_MAX + 1, ..selection() },
            Selection { rate: RATE_MAX + 1, ..selection() },
            Selection { rate: 1, action: Action::Discard, ..selection() },
            Selection { force: true, action: Action::Restore, ..selection() },
        ] {
            assert!(wrong.wrong().is_some(), "{wrong:?}");
        }
    }

    /// Each action has its command, with the same letters, rate and force; a rate has the time that it needs.
    #[test]
    fn each_action_has_its_command() {
        let slow = Selection { rate: 1, force: true, ..selection() };
        assert_eq!(slow.work_time_max(), WORK_TIME_MAX + Duration::from_secs(5));
        let letter = Selection { id: Uuid::nil().to_string(), class: String::new(), ..selection() };
        let between = Selection {
            since: When::parse("2026-01-31").expect("a date").fixed(),
            until: When::parse("2026-01-31T12:00:00Z").expect("a time"),
            ..selection()
        };
        let of = |action, of: &Selection| Selection { action, ..of.clone() }.commands().join("; ");
        for (commands, expected) in [
            (
                slow.commands().join("; "),
                "dlq redrive --service payment --class decode --max 5 --rate 1/s --force --execute",
            ),
            (
                of(Action::Discard, &between),
                "dlq discard --service payment --class decode --since 2026-01-31T00:00:00Z --until 2026-01-31T12:00:00Z --reason TEXT",
            ),
            (of(Action::Discard, &selection()), "dlq discard --service payment --class decode --reason TEXT"),
            (
                of(Action::Restore, &selection()),
                "dlq list --service payment --class decode --state discarded --limit 5 -o id; dlq restore - --reason TEXT",
            ),
            (of(Action::Restore, &letter), "dlq restore 00000000-0000-0000-0000-000000000000 --reason TEXT"),
        ] {
            assert_eq!(commands, expected);
        }
    }

    /// Whatever of a preview changes, its digest does.
    #[test]
    fn a_digest_is_of_all_that_is_shown() {
        let line = |id: &str, result: &str| Line {
            id: id.to_owned(),
            topic: "t".to_owned(),
            order: "o".to_owned(),
            result: result.to_owned(),
            why: String::new(),
        };
        let digest = |selection: &Selection, letters, lines: &[Line]| {
            Preview::of(selection, letters, lines.to_vec()).digest
        };
        let first = digest(&selection(), 2, &[line("1", "planned"), line("2", "planned")]);
        assert_eq!(first, digest(&selection(), 2, &[line("1", "planned"), line("2", "planned")]));
        for other in [
            digest(&Selection { rate: 6, ..selection() }, 2, &[line("1", "planned"), line("2", "planned")]),
            digest(
                &Selection { force: true, ..selection() },
                2,
                &[line("1", "planned"), line("2", "planned")],
            ),
            digest(&Selection { max: 6, ..selection() }, 2, &[line("1", "planned"), line("2", "planned")]),
            digest(&selection(), 3, &[line("1", "planned"), line("2", "planned")]),
            digest(&selection(), 2, &[line("1", "planned"), line("2", "behind")]),
            digest(&selection(), 2, &[line("1", "planned")]),
        ] {
            assert_ne!(other, first);
        }
    }

    /// A confirmation is used once, and only the last jobs are kept.
    #[test]
    fn a_confirmation_begins_one_job() {
        let job = Job {
            selection: selection(),
            author: "alice".to_owned(),
            reason: "why".to_owned(),
            began_at: OffsetDateTime::UNIX_EPOCH,
            planned: 0,
            progress: Progress::Running,
            lines: Vec::new(),
            parked_before: BTreeMap::new(),
        };
        let (jobs, first) = (Jobs::default(), Uuid::from_u128(1));
        assert!(jobs.begin(first, job.clone()).is_some());
        assert!(jobs.begin(first, job.clone()).is_none(), "a second click");
        assert!(jobs.of(first).is_some());
        for id in 2..=JOBS_MAX as u128 + 1 {
            assert!(jobs.begin(Uuid::from_u128(id), job.clone()).is_some());
        }
        assert!(jobs.of(first).is_none());
    }
}
