//! Redrive: parked letters are handled again by the consumer's own handler, whole aggregates in order.
//!
//! - **Order.** The letters of an aggregate are handled oldest first. If one fails again, those behind it wait.
//! - **Once.** A letter is locked while it is `parked`; its effects, its new state and its audit row are one
//!   transaction. So a redrive can be killed at any point, and run again.
//! - **One at a time.** A redrive holds an advisory lock of its group on a connection of its own, so the lock ends with
//!   the process that holds it, however that ends.
//! - **Seen and cancelled by others.** Its row ([`super::progress`]) is counted up in the transactions of its letters, and
//!   asked in each of them whether it was cancelled.
//! - **Nothing else is touched.** Nothing is published but what the handler writes, so other groups see nothing; the
//!   consumer keeps running beside it, and parks what arrives for an aggregate that still has parked letters.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use sqlx::{Connection as _, PgConnection};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use super::{
    Action, Filter, Letter, REDRIVES_MAX, Summary,
    progress::{self, Counts, RedriveState, Turn},
    store::{self, RedriveGroup},
};
use crate::{
    backoff::Backoff,
    consumer::{Accepted, Answer, Class, Handler, Poison, group::Group, is_in_the_data, trace},
    database::{self, BACKGROUND_TIME_MAX, DatabaseError, after_commit, bounded, mark, undo_since},
    deadline::Deadline,
    error::chain,
    event::Metadata,
    trace::{SpanUntilDropped, TraceContext, within},
};

/// Letters per transaction; an aggregate with more is redriven in several, in order.
pub(super) const LETTERS_PER_TRANSACTION_MAX: i64 = 100;
/// Bytes of the letters of a transaction, which are in memory at the same time; the one that reaches it still belongs to it.
pub(super) const BYTES_PER_TRANSACTION_MAX: i64 = 8 * 1024 * 1024;
/// Attempts of a transaction while the database is away; then the command fails, and the operator runs it again.
const ATTEMPTS_MAX: u32 = 8;
/// A redrive that waits looks this often whether it was cancelled.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whether anything is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only reports what would be done.
    DryRun,
    /// Does it.
    Execute,
}

/// What to do with letters that were redriven [`REDRIVES_MAX`] times without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// Leave them.
    Refuse,
    /// The operator insists.
    RedriveToo,
}

/// What an operator asks for.
#[derive(Debug, Clone)]
pub struct Redrive {
    /// Of the command, the same in each of its calls; `None`: nobody follows it, as a dry run.
    pub id: Option<Uuid>,
    /// Aggregates with a parked letter that matches.
    pub filter: Filter,
    /// Whether anything is done.
    pub mode: Mode,
    /// Letters per second; `None`: as fast as they go.
    pub rate_per_second: Option<f64>,
    /// At most this many letters.
    pub letters_max: Option<u64>,
    /// See [`Exhausted`].
    pub exhausted: Exhausted,
    /// For the audit.
    pub actor: String,
    /// The operator's call: what is handled again belongs to its trace, and links to the one that the letter comes from.
    pub trace: Option<TraceContext>,
}

/// What happened to a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A dry run: it would be redriven.
    Planned,
    /// It was handled after all.
    Redriven,
    /// A dry run: it would fail, because this is wrong with what a redrive would handle.
    WouldFail(Poison),
    /// It failed again and stays parked.
    Failed(Poison),
    /// It was redriven too often.
    Refused,
    /// An earlier letter of its aggregate failed or was refused.
    Behind,
}

/// A message to the operator.
#[derive(Debug)]
pub enum Step {
    /// The first: what matches.
    Plan {
        /// Letters.
        letters: u64,
        /// Aggregates, and letters without one.
        aggregates: u64,
    },
    /// One for each letter.
    Letter {
        /// The letter as it was.
        letter: Box<Summary>,
        /// What happened to it.
        outcome: Outcome,
    },
}

/// Why a redrive did not begin, or did not finish.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    /// One at a time. Which one, if it is known: replicas of an earlier version don't say.
    #[error("{}", running(.0.as_deref()))]
    Running(Option<String>),
    /// By this operator.
    #[error("cancelled by {0}")]
    Cancelled(String),
    /// The database is away; what was redriven stays redriven.
    #[error("redrive was interrupted")]
    Database(#[from] DatabaseError),
}

fn running(which: Option<&str>) -> &str {
    which.unwrap_or("another redrive of this service is running")
}

/// Why a redrive ended that nothing has kept from going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All that was selected was tried.
    Done,
    /// Nobody listens any more.
    CallerGone,
}

/// What became of the first letters of a group.
#[derive(Debug)]
struct Done {
    outcomes: Vec<(Summary, Outcome)>,
    /// A limit was reached, so there may be further ones.
    may_have_more: bool,
}

/// The right to redrive. The server releases it when the connection is gone, a moment after this is dropped;
/// [`RedriveLock::release`] returns when the next redrive can begin.
pub struct RedriveLock(PgConnection);

impl RedriveLock {
    /// Gives the lock back.
    pub async fn release(mut self) {
        // If this fails, the connection is broken, and the server releases the lock on its own.
        let _ = bounded(
            database::query("-- dead_letter.release\nselect pg_advisory_unlock_all()").execute(&mut self.0),
        )
        .await;
    }
}

/// Redrives the letters of a group.
pub struct Redriver<H: Handler> {
    pub(super) group: Group<H>,
}

impl<H: Handler> Clone for Redriver<H> {
    fn clone(&self) -> Self {
        Self { group: self.group.clone() }
    }
}

impl<H: Handler> Redriver<H> {
    /// A redriver for `group`.
    #[must_use]
    pub const fn new(group: Group<H>) -> Self {
        Self { group }
    }

    /// Takes the lock of this group, and says that a redrive begins, or that another call of it does.
    pub async fn begin(&self, request: &Redrive) -> Result<RedriveLock, RedriveError> {
        let group = self.group.name;
        let mut connection = self.group.database.connect().await?;
        if !bounded(progress::lock(&mut connection, group)).await? {
            let open = progress::open(&mut connection, group);
            let open = tokio::time::timeout(BACKGROUND_TIME_MAX, open).await;
            // Whoever it is: this one does not begin.
            let which = open.ok().and_then(Result::ok).flatten();
            return Err(RedriveError::Running(which.map(|progress| progress.to_string())));
        }
        let lock = RedriveLock(connection);
        match self.open(lock, request).await? {
            (lock, Turn::Go) => Ok(lock),
            (lock, Turn::Cancelled { by }) => {
                lock.release().await;
                Err(RedriveError::Cancelled(by))
            }
        }
    }

    async fn open(
        &self,
        mut lock: RedriveLock,
        request: &Redrive,
    ) -> Result<(RedriveLock, Turn), DatabaseError> {
        let Some(id) = request.id else { return Ok((lock, Turn::Go)) };
        let selection = progress::selection(&request.filter);
        let begun = bounded(async {
            let mut transaction = lock.0.begin().await?;
            let begun =
                progress::begin(&mut transaction, self.group.name, id, &request.actor, &selection).await?;
            transaction.commit().await?;
            Ok(begun)
        })
        .await?;
        Ok((lock, begun))
    }

    /// Says how a redrive ended, and gives the lock back. If the first fails, it looks as if the service had died: nobody holds the lock.
    pub async fn end(&self, mut lock: RedriveLock, request: &Redrive, outcome: &Result<Ended, RedriveError>) {
        let state = match outcome {
            Ok(Ended::Done) => RedriveState::Finished,
            Ok(Ended::CallerGone) => RedriveState::Interrupted,
            Err(RedriveError::Cancelled(_)) => RedriveState::Cancelled,
            Err(RedriveError::Running(_) | RedriveError::Database(_)) => RedriveState::Failed,
        };
        // Whoever has cancelled it has written that.
        if let Some(id) = request.id.filter(|_| state != RedriveState::Cancelled)
            && let Err(error) = bounded(progress::end(&mut lock.0, self.group.name, id, state)).await
        {
            tracing::debug!(error = chain(&error), "cannot write how a redrive ended");
        }
        lock.release().await;
    }

    /// Redrives, and reports each letter to `steps`. Ends after the current transaction when nobody listens any more, or when it was
    /// cancelled.
    pub async fn redrive(
        &self,
        request: &Redrive,
        steps: &mpsc::Sender<Step>,
    ) -> Result<Ended, RedriveError> {
        let (group, filter) = (self.group.name, request.filter.clone());
        let deadline = Deadline::after(BACKGROUND_TIME_MAX);
        let groups = self
            .group
            .database
            .read(deadline, move |connection| {
                Box::pin(async move { store::groups(connection, group, &filter).await })
            })
            .await?;
        let letters: i64 = groups.iter().map(|(_, letters)| letters).sum();
        self.plan(request, letters).await?;
        let plan = Step::Plan { letters: letters.unsigned_abs(), aggregates: groups.len() as u64 };
        if steps.send(plan).await.is_err() {
            return Ok(Ended::CallerGone);
        }
        match request.mode {
            Mode::DryRun => self.foresee(&groups, request, steps).await,
            Mode::Execute => self.execute(groups, request, steps).await,
        }
    }

    async fn execute(
        &self,
        groups: Vec<(RedriveGroup, i64)>,
        request: &Redrive,
        steps: &mpsc::Sender<Step>,
    ) -> Result<Ended, RedriveError> {
        let mut left = request.letters_max.unwrap_or(u64::MAX);
        let mut rate_limit = RateLimit::new(request.rate_per_second);
        for (redrive_group, _) in groups {
            // An aggregate may need several transactions; after a failure the next aggregate follows.
            loop {
                if left == 0 {
                    return Ok(Ended::Done);
                }
                if steps.is_closed() {
                    return Ok(Ended::CallerGone);
                }
                let most = i64::try_from(left).unwrap_or(i64::MAX).min(LETTERS_PER_TRANSACTION_MAX);
                // At a low rate, small steps keep it even.
                let most = most.min(rate_limit.letters_at_once());
                let done = retried(|| self.redrive_group(&redrive_group, most, request).boxed()).await?;
                let Done { outcomes, may_have_more } = done.map_err(RedriveError::Cancelled)?;
                let all_redriven = outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Redriven);
                let done = outcomes.len();
                count(&outcomes);
                // All that was done is reported, cancelled or not, however slowly it is taken in.
                tokio::select! {
                    () = report(outcomes, steps) => {}
                    () = self.stay_alive(request) => {}
                }
                tokio::select! {
                    () = rate_limit.wait_for(done) => {}
                    () = steps.closed() => return Ok(Ended::CallerGone),
                    by = self.cancelled(request) => return Err(RedriveError::Cancelled(by)),
                }
                left = left.saturating_sub(done as u64);
                if done == 0 || !all_redriven || !may_have_more {
                    break;
                }
            }
        }
        Ok(Ended::Done)
    }

    /// Says again and again that the redrive is alive; never returns.
    async fn stay_alive(&self, request: &Redrive) {
        loop {
            self.cancelled(request).await;
        }
    }

    /// Says again and again that the redrive is alive, until somebody has cancelled it. Returns who.
    async fn cancelled(&self, request: &Redrive) -> String {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Some(Turn::Cancelled { by }) = self.look(request).await {
                return by;
            }
        }
    }

    /// Whether the redrive may go on; `None` if that is not known now, and then the next transaction asks again.
    async fn look(&self, request: &Redrive) -> Option<Turn> {
        let (group, id) = (self.group.name, request.id?);
        let turn: Result<Turn, DatabaseError> = self
            .group
            .database
            .transaction(
                "dead_letter.look",
                Deadline::after(BACKGROUND_TIME_MAX),
                (),
                move |connection, ()| progress::turn(connection, group, id).boxed(),
            )
            .await;
        // The database component says that the database is away.
        turn.inspect_err(|error| tracing::debug!(error = chain(error), "cannot look for a cancellation")).ok()
    }

    /// Says how many letters are left.
    async fn plan(&self, request: &Redrive, letters: i64) -> Result<(), DatabaseError> {
        let (group, Some(id)) = (self.group.name, request.id) else { return Ok(()) };
        let most = request.letters_max.and_then(|most| i64::try_from(most).ok()).unwrap_or(i64::MAX);
        let letters = letters.min(most);
        self.group
            .database
            .transaction(
                "dead_letter.plan",
                Deadline::after(BACKGROUND_TIME_MAX),
                (),
                move |connection, ()| progress::plan(connection, group, id, letters).boxed(),
            )
            .await
    }

    /// One transaction: the first letters of a group, in order, up to the first that fails. The inner error is who has cancelled it.
    async fn redrive_group(
        &self,
        redrive_group: &RedriveGroup,
        most: i64,
        request: &Redrive,
    ) -> Result<Result<Done, String>, DatabaseError> {
        let input = Arc::new((self.clone(), redrive_group.clone(), request.clone()));
        let deadline = Deadline::after(BACKGROUND_TIME_MAX);
        self.group
            .database
            .transaction("dead_letter.redrive", deadline, input, move |connection, input| {
                async move {
                    let (redriver, redrive_group, request) = &*input;
                    let group = redriver.group.name;
                    if let Some(id) = request.id
                        && let Turn::Cancelled { by } = progress::turn(connection, group, id).await?
                    {
                        return Ok(Err(by));
                    }
                    let done = redriver.redrive_letters(connection, redrive_group, most, request).await?;
                    if let Some(id) = request.id {
                        let mut counts = Counts::default();
                        done.outcomes.iter().for_each(|(_, outcome)| counts.count(outcome));
                        progress::count(connection, group, id, counts).await?;
                    }
                    Ok(Ok(done))
                }
                .boxed()
            })
            .await
    }

    async fn redrive_letters(
        &self,
        connection: &mut PgConnection,
        redrive_group: &RedriveGroup,
        most: i64,
        request: &Redrive,
    ) -> Result<Done, DatabaseError> {
        let group = self.group.name;
        let store::Locked { letters, may_have_more } =
            store::lock_parked(connection, group, redrive_group, most, BYTES_PER_TRANSACTION_MAX).await?;
        let mut outcomes = Vec::with_capacity(letters.len());
        let mut line = Line::new(request.exhausted);
        for letter in letters {
            let outcome = match line.stopped_at(letter.redrive_count) {
                Some(outcome) => outcome,
                None => line.passed(self.handle_in_a_span(connection, &letter, request.trace).await?),
            };
            match &outcome {
                Outcome::Redriven => {
                    store::mark_redriven(connection, letter.id).await?;
                    let detail = format!("redrive {}", letter.redrive_count + 1);
                    self.audit(connection, request, Action::Redrive, letter.id, &detail).await?;
                }
                Outcome::Failed(poison) => {
                    let class = poison.class.as_str();
                    store::mark_failed(connection, letter.id, class, poison.reason()).await?;
                    let detail =
                        format!("redrive {}: {class}: {}", letter.redrive_count + 1, poison.reason());
                    self.audit(connection, request, Action::RedriveFailed, letter.id, &detail).await?;
                }
                Outcome::Planned | Outcome::WouldFail(_) | Outcome::Refused | Outcome::Behind => {}
            }
            outcomes.push((letter.summary(), outcome));
        }
        Ok(Done { outcomes, may_have_more })
    }

    /// Handles a letter again, below the operator's call.
    async fn handle_in_a_span(
        &self,
        connection: &mut PgConnection,
        letter: &Letter,
        operator: Option<TraceContext>,
    ) -> Result<Result<(), Poison>, DatabaseError> {
        let mut span = trace::process(operator, &letter.record, self.group.name);
        let origins =
            [Metadata::trace_in(&letter.record.headers), trace::of_parking(&letter.record, letter.id)];
        for origin in origins.into_iter().flatten() {
            span.link(origin);
        }
        span.set("holdfast.dead_letter.id", || letter.id.to_string());
        let (before, context, is_recorded) = (mark(), span.context(), span.is_recorded());
        // Its statements are below it, so it ends even if the transaction is rolled back, as cancelled.
        let span = SpanUntilDropped::new(span);
        let handled = within(context, self.handle_again(connection, letter, context)).await?;
        let failed = handled.as_ref().err().map(|poison| poison.class.as_str());
        if failed.is_some() {
            undo_since(before);
        }
        if is_recorded {
            after_commit(move |_| span.finish(|span| failed.into_iter().for_each(|class| span.fail(class))));
        }
        Ok(handled)
    }

    /// Form, then effects, in a savepoint: a letter that fails leaves nothing, and those before it stay.
    async fn handle_again(
        &self,
        connection: &mut PgConnection,
        letter: &Letter,
        cause: Option<TraceContext>,
    ) -> Result<Result<(), Poison>, DatabaseError> {
        let record = letter.effective_record();
        let mut accepted = match self.group.check(&record) {
            Ok(accepted) => accepted,
            Err(poison) => return Ok(Err(poison)),
        };
        if cause.is_some() {
            accepted.metadata.trace = cause;
        }
        let mut savepoint = connection.begin().await?;
        // It was parked under an id derived from its place, because its own could not be read or was taken; it enters
        // the inbox under its own now, if that is free.
        if accepted.metadata.id != letter.event_id
            && !self.group.record_in_inbox(&mut savepoint, &record).await?
        {
            savepoint.rollback().await?;
            return Ok(Err(id_is_taken()));
        }
        let poison = match self.apply(&mut savepoint, accepted).await {
            Ok(Answer::Applied) => {
                savepoint.commit().await?;
                return Ok(Ok(()));
            }
            Ok(Answer::DeadLetter(poison)) => poison,
            Err(error) if is_in_the_data(&error) => Poison::new(Class::AttemptsExhausted, error.to_string()),
            Err(error) => return Err(error),
        };
        savepoint.rollback().await?;
        Ok(Err(poison))
    }

    /// The handler's answer to one event, whose effects are in the transaction if it is accepted.
    async fn apply(
        &self,
        connection: &mut PgConnection,
        accepted: Accepted<H::Event>,
    ) -> Result<Answer, DatabaseError> {
        let handler = &self.group.handler;
        let (answers, changes) = handler.decide(connection, &[accepted]).await?;
        let [answer] = <[Answer; 1]>::try_from(answers)
            .map_err(|_| DatabaseError::Corrupt("the handler did not answer for each event".into()))?;
        if answer == Answer::Applied {
            handler.write(connection, changes).await?;
        }
        Ok(answer)
    }

    async fn audit(
        &self,
        connection: &mut PgConnection,
        request: &Redrive,
        action: Action,
        letter: Uuid,
        detail: &str,
    ) -> Result<(), DatabaseError> {
        store::audit(connection, self.group.name, &request.actor, action, Some(letter), detail).await
    }
}

/// Tries again while the database is away, for a while.
pub(super) async fn retried<'a, T>(
    work: impl Fn() -> BoxFuture<'a, Result<T, DatabaseError>>,
) -> Result<T, DatabaseError> {
    let mut backoff = Backoff::for_infrastructure();
    loop {
        match work().await {
            Err(error) if !is_in_the_data(&error) && backoff.attempt() + 1 < ATTEMPTS_MAX => {
                tracing::warn!(error = chain(&error), "redrive waits for its database");
                tokio::time::sleep(backoff.next_pause()).await;
            }
            outcome => return outcome,
        }
    }
}

pub(super) fn count(outcomes: &[(Summary, Outcome)]) {
    for (_, outcome) in outcomes {
        metrics::counter!(crate::metric::DEAD_LETTERS_REDRIVEN_TOTAL, "outcome" => outcome.name())
            .increment(1);
    }
}

/// If nobody listens, what is done stays done.
pub(super) async fn report(outcomes: Vec<(Summary, Outcome)>, steps: &mpsc::Sender<Step>) {
    for (letter, outcome) in outcomes {
        let _ = steps.send(Step::Letter { letter: Box::new(letter), outcome }).await;
    }
}

pub(super) fn id_is_taken() -> Poison {
    Poison::new(Class::SchemaViolation, "event id was used for another event")
}

/// The letters of one aggregate, oldest first: behind one that is not redriven none is. Pure.
#[derive(Debug)]
pub struct Line {
    exhausted: Exhausted,
    stopped: bool,
}

impl Line {
    /// At its first letter.
    #[must_use]
    pub const fn new(exhausted: Exhausted) -> Self {
        Self { exhausted, stopped: false }
    }

    /// Whether all that follow wait.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The outcome of the next letter, which was redriven so often, if it is not to be handled again.
    pub const fn stopped_at(&mut self, redrive_count: i32) -> Option<Outcome> {
        if self.stopped {
            return Some(Outcome::Behind);
        }
        if matches!(self.exhausted, Exhausted::Refuse) && redrive_count >= REDRIVES_MAX {
            self.stopped = true;
            return Some(Outcome::Refused);
        }
        None
    }

    /// The outcome of a letter that was handled again.
    pub fn passed(&mut self, handled: Result<(), Poison>) -> Outcome {
        match handled {
            Ok(()) => Outcome::Redriven,
            Err(poison) => {
                self.stopped = true;
                Outcome::Failed(poison)
            }
        }
    }
}

impl Outcome {
    /// Its name in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::WouldFail(_) => "would-fail",
            Self::Redriven => "redriven",
            Self::Failed(_) => "failed",
            Self::Refused => "refused",
            Self::Behind => "behind",
        }
    }
}

/// Keeps a rate on average: each letter makes the next one due later.
#[derive(Debug)]
struct RateLimit {
    rate_per_second: Option<f64>,
    due: Instant,
}

impl RateLimit {
    fn new(rate_per_second: Option<f64>) -> Self {
        Self { rate_per_second: rate_per_second.filter(|rate| *rate > 0.0), due: Instant::now() }
    }

    /// A tenth of a second's worth.
    fn letters_at_once(&self) -> i64 {
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and is bounded by the caller")]
        self.rate_per_second.map_or(i64::MAX, |rate| ((rate / 10.0) as i64).max(1))
    }

    async fn wait_for(&mut self, letters: usize) {
        let Some(rate) = self.rate_per_second else { return };
        // After a slow letter the next ones may catch up, but by no more than a second.
        self.due = self.due.max(Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or(self.due));
        #[expect(clippy::cast_precision_loss, reason = "a few letters")]
        let time = Duration::try_from_secs_f64(letters as f64 / rate).unwrap_or(Duration::from_secs(3600));
        self.due += time;
        sleep_until(self.due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rate is kept on average, whatever the steps, and without one there is no waiting.
    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_on_average() {
        for (rate, letters) in [(10.0, 50), (0.5, 5), (1000.0, 5000)] {
            let begin = Instant::now();
            let mut rate_limit = RateLimit::new(Some(rate));
            let mut left: i64 = letters;
            while left > 0 {
                let step = rate_limit.letters_at_once().min(left).min(100);
                // Handling the letters takes part of the time.
                tokio::time::sleep(Duration::from_millis(1)).await;
                rate_limit.wait_for(usize::try_from(step).expect("small")).await;
                left -= step;
            }
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let measured = letters as f64 / begin.elapsed().as_secs_f64();
            assert!((rate * 0.9..=rate * 1.1).contains(&measured), "{measured} instead of {rate}");
        }
        let begin = Instant::now();
        RateLimit::new(None).wait_for(1_000_000).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
