//! The relay: publishes outbox rows in their order and deletes those that the broker has acknowledged.
//!
//! One relay per database is the leader, by an advisory lock that lives and dies with the relay's own connection
//! (`docs/adr/0002-one-relay-leader.md`); several would reorder the events of a key (pitfalls P16). A row is claimed
//! because it exists, never because its id is greater than the last one, so a transaction that commits late is not
//! skipped (pitfalls P14). Published means acknowledged: a crash between acknowledgement and deletion publishes a row
//! twice, and the inbox of each consumer recognises it.
//!
//! Nothing waits for a timer: a commit of this process wakes the relay, and the relay of another process tells it of that one's commits
//! ([`super::wake`]). What was published is deleted with the look for what comes next, or a moment later.
//!
//! A row that can't be published holds back its own topic and key, and nothing else: no pass waits for it, and it leaves
//! the table that is claimed ([`super::store`]). A producer that is dead or deaf is replaced ([`super::publisher`]), and so is one whose
//! certificate was renewed.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::PgConnection;
use tokio::{sync::Notify, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    flight::{Answer, Failure, Flight, Lane, Offer, Place, Row, Sent},
    measure::{self, Taken},
    publisher::{Client, DEAF_AFTER, Publisher, Replaced, Witness},
    store::{self, CLAIM_ROWS_MAX, Measure, Refused},
    trace, wake,
};
use crate::{
    backoff::Backoff,
    database::{Database, DatabaseError, bounded},
    error::chain,
    health::{Component, Heartbeat},
    kafka::refusal::Refusal,
    planted::{Bug, crash_point, planted},
};

/// Rows of which nobody has told this relay are found after at most this time.
const POLL_EVERY: Duration = Duration::from_millis(100);
/// What was published waits so long for a look at the table that something else is the reason for, and then has one of its own: at low rates
/// that halves the relay's statements, and the deletion doesn't compete with those who handle what was published. A relay that dies
/// meanwhile publishes it twice.
const DELETE_AFTER: Duration = Duration::from_millis(50);
/// How often a relay that is not the leader tries to become it.
const LEADER_RETRY_EVERY: Duration = Duration::from_millis(500);
/// How often backlog and age are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// A pass waits this long for the answers to what it has sent; slower ones don't delay the others.
const PASS_TIME_MAX: Duration = Duration::from_millis(50);
/// Before a producer with an old certificate is replaced nothing more is sent, until all that was sent is answered, or this time is
/// over: then what is on its way is published twice.
pub(super) const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// Most rows on their way at a time; beyond that the relay waits for answers.
const IN_FLIGHT_ROWS_MAX: usize = 2_000;
/// Lanes that a round over the table remembers as passed over; beyond that a new round begins.
const PASSED_LANES_MAX: usize = 10_000;
/// How often held-back lanes are looked at.
const RETRY_LOOK_EVERY: Duration = Duration::from_millis(200);
/// Rows that wait for longer are reported in the component.
const WAIT_TIME_MAX: Duration = Duration::from_secs(10);
/// How often a fresh client is asked whether the broker answers.
const WITNESS_EVERY: Duration = Duration::from_secs(2);
/// A new producer that gets no answer either is given more time, up to this.
const DEAF_AFTER_MAX: Duration = Duration::from_secs(300);
/// How often the heart beats while the schema doesn't exist yet.
const MIGRATED_LOOK_EVERY: Duration = Duration::from_secs(5);
/// A relay that could publish and has not for this long has hung: the process is restarted.
pub const PROGRESS_TIME_MAX: Duration = Duration::from_secs(120);

/// The durable steps of one pass. A test stops the relay between two of them to see that nothing is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Rows were read, nothing was sent.
    Claimed,
    /// The broker has acknowledged the rows, they are still in the table.
    Acknowledged,
    /// The rows are gone.
    Deleted,
}

/// Called at each step.
pub type StepHook = Arc<dyn Fn(Step) + Send + Sync>;

/// Publishes the outbox of one database.
pub struct Relay {
    database: Database,
    publisher: Publisher,
    committed: Arc<Notify>,
    /// Rows of the outbox that the broker has, and that go with the next look at the table.
    acknowledged: Mutex<Vec<Sent>>,
    component: Component,
    heartbeat: Option<Heartbeat>,
    poll_every: Duration,
    hook: Option<StepHook>,
}

impl Relay {
    /// A relay of `database`. `component` says whether it can publish.
    #[must_use]
    pub fn new(database: Database, publisher: Publisher, component: Component) -> Self {
        let committed = database.committed();
        Self {
            database,
            publisher,
            committed,
            acknowledged: Mutex::default(),
            component,
            heartbeat: None,
            poll_every: POLL_EVERY,
            hook: None,
        }
    }

    /// Beats when rows were published, when there are none, and when the fault is the database's or the broker's. Its
    /// limit should be [`PROGRESS_TIME_MAX`].
    #[must_use]
    pub fn with_heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.heartbeat = Some(heartbeat);
        self
    }

    /// Sets how often to look for rows of other replicas; for tests.
    #[must_use]
    pub const fn with_poll_every(mut self, poll_every: Duration) -> Self {
        self.poll_every = poll_every;
        self
    }

    /// Calls `hook` after each durable step; for tests.
    #[must_use]
    pub fn with_hook(mut self, hook: StepHook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// Publishes until `stop`. What is not acknowledged by then stays in the table.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.lead_forever() => {}
        }
        self.delete_acknowledged().await;
    }

    /// Whoever leads next would publish them again.
    async fn delete_acknowledged(&self) {
        let ids: Vec<i64> = self.acknowledged().drain(..).map(|sent| sent.id).collect();
        if ids.is_empty() {
            return;
        }
        let deleted = async {
            let mut connection = bounded(self.database.pool().acquire()).await?;
            store::delete_and_claim(&mut connection, &ids, 0, Vec::new(), 0).await
        };
        if let Err(error) = deleted.await {
            tracing::info!(
                error = chain(&error),
                rows = ids.len(),
                "published rows stay, and are published again"
            );
        }
    }

    fn acknowledged(&self) -> MutexGuard<'_, Vec<Sent>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn lead_forever(&self) {
        let mut backoff = Backoff::for_infrastructure();
        // An absent database is waited for as long as it takes; a new process would not help.
        while tokio::time::timeout(MIGRATED_LOOK_EVERY, self.database.migrated()).await.is_err() {
            self.beat();
        }
        loop {
            if let Err(error) = Box::pin(self.lead(&mut backoff)).await {
                metrics::counter!(crate::metric::OUTBOX_RELAY_FAILURES_TOTAL).increment(1);
                let text = chain(&error);
                tracing::warn!(error = text, "relay starts over");
                self.component.waiting(text);
                // The database's fault; a new process would not help.
                self.beat();
            }
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }

    /// Becomes the leader and publishes until the database fails.
    async fn lead(&self, backoff: &mut Backoff) -> Result<(), DatabaseError> {
        // A connection of its own rather than one of the pool: the lock must end with the relay, not go back with a
        // connection.
        let mut connection = self.database.connect().await?;
        store::wait_for_no_disk(&mut connection).await?;
        while !store::try_lock(&mut connection).await? {
            self.component.ready();
            self.progress();
            wake::tell_leader(&mut connection, &self.committed, LEADER_RETRY_EVERY).await?;
        }
        tracing::info!("relay leads");
        let measure = store::measure(&mut connection).await?;
        let mut leader = Leader {
            relay: self,
            connection,
            client: self.publisher.current(),
            flight: Flight::default(),
            after: 0,
            passed: HashSet::new(),
            is_table_read: false,
            holding: measure.lanes > 0,
            held_error: String::new(),
            retried: Instant::now() - RETRY_LOOK_EVERY,
            measured: Instant::now() - MEASURE_EVERY,
            deaf_after: DEAF_AFTER,
            draining: None,
            witness: None,
            witnessed: Instant::now(),
            silent: false,
        };
        let passes = async {
            loop {
                leader.pass().await?;
                backoff.reset();
            }
        };
        tokio::select! {
            ended = passes => ended,
            never = wake::listen(&self.database, &self.committed) => match never {},
        }
    }

    /// Something was published, or there is nothing to publish.
    fn progress(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        metrics::gauge!(crate::metric::OUTBOX_LAST_PROGRESS_TIMESTAMP_SECONDS).set(now.as_secs_f64());
        self.beat();
    }

    fn beat(&self) {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.beat();
        }
    }

    fn step(&self, step: Step) {
        if let Some(hook) = &self.hook {
            hook(step);
        }
        let moment = match step {
            Step::Claimed => "claimed",
            Step::Acknowledged => "acknowledged",
            Step::Deleted => "deleted",
        };
        crash_point("relay", moment);
    }
}

/// The relay that has the lock.
struct Leader<'a> {
    relay: &'a Relay,
    connection: PgConnection,
    client: Arc<Client>,
    flight: Flight,
    /// The round over the table: rows up to this id were looked at.
    after: i64,
    /// Lanes with a row that this round has passed over: their later rows are passed over too.
    passed: HashSet<Lane>,
    /// Whether the last look has found all rows, and all of them were sent.
    is_table_read: bool,
    /// Whether lanes may be held back.
    holding: bool,
    held_error: String,
    retried: Instant,
    measured: Instant,
    deaf_after: Duration,
    /// Since when nothing is sent, because the producer has an old certificate.
    draining: Option<Instant>,
    witness: Option<JoinHandle<Witness>>,
    witnessed: Instant,
    /// The broker answered no fresh client either.
    silent: bool,
}

impl Leader<'_> {
    async fn pass(&mut self) -> Result<(), DatabaseError> {
        self.watch().await;
        let relay = self.relay;
        if self.is_table_read && self.flight.len() == 0 && !relay.acknowledged().is_empty() {
            self.rest(relay.committed.notified(), DELETE_AFTER).await;
        }
        // Before the read: a commit during the read wakes the wait below.
        let woken = relay.committed.notified();
        let mut rows = self.due().await?;
        let room = self.flight.len() < IN_FLIGHT_ROWS_MAX;
        let page = self.delete_and_claim(if room { CLAIM_ROWS_MAX } else { 0 }).await?;
        let claimed = page.len();
        if room {
            self.after = match page.last() {
                Some(last) if page.len() >= CLAIM_ROWS_MAX => last.id,
                _ => 0,
            };
            rows.extend(self.without_held(page).await?);
        }
        // Without those that are published and were still there.
        if self.measured.elapsed() >= MEASURE_EVERY {
            self.measured = Instant::now();
            let measure = store::measure(&mut self.connection).await?;
            self.report(&measure);
        }
        if !rows.is_empty() {
            relay.step(Step::Claimed);
        }
        if planted(Bug::OutboxDeleteBeforeAck) {
            let busy = self.flight.lanes();
            rows.retain(|row| !busy.contains(&row.lane()) && !self.passed.contains(&row.lane()));
            let sent: Vec<i64> = rows.iter().map(|row| row.id).collect();
            store::delete_and_claim(&mut self.connection, &sent, 0, Vec::new(), 0).await?;
            tokio::time::sleep(POLL_EVERY).await;
        }
        let fresh = self.send(&rows);
        self.is_table_read = room && self.after == 0 && fresh.len() == rows.len();
        drop(rows);
        if self.after == 0 || self.passed.len() > PASSED_LANES_MAX {
            self.after = 0;
            self.passed.clear();
        }
        if claimed == 0 && room && self.flight.len() == 0 && !self.holding {
            relay.progress();
        }
        if fresh.is_empty() && self.after == 0 {
            self.rest(woken, self.relay.poll_every).await;
        }
        let answers = self.flight.answers(fresh, Instant::now() + PASS_TIME_MAX).await;
        self.settle(answers).await
    }

    /// Deletes what was acknowledged, and reads what comes next.
    async fn delete_and_claim(&mut self, limit: usize) -> Result<Vec<Row>, DatabaseError> {
        let gone = std::mem::take(&mut *self.relay.acknowledged());
        let ids: Vec<i64> = gone.iter().map(|sent| sent.id).collect();
        let in_flight = self.flight.ids();
        let page = store::delete_and_claim(&mut self.connection, &ids, self.after, in_flight, limit).await?;
        self.published(&gone);
        Ok(page)
    }

    /// Rows are in Kafka and no longer here.
    fn published(&mut self, gone: &[Sent]) {
        if gone.is_empty() {
            return;
        }
        measure::count(gone.iter().map(|sent| sent.topic.as_str()), Taken::Yes);
        self.relay.step(Step::Deleted);
        self.relay.progress();
        self.deaf_after = DEAF_AFTER;
    }

    /// Waits for a commit, an answer, or the next look, which is due after `pause` at the latest.
    async fn rest(&mut self, woken: impl Future<Output = ()>, mut pause: Duration) {
        if self.holding || self.flight.len() > 0 {
            pause = pause.min(RETRY_LOOK_EVERY);
        }
        let landed = tokio::select! {
            () = woken => None,
            () = tokio::time::sleep(pause) => None,
            landed = self.flight.landed() => landed,
        };
        if let Some(answer) = landed {
            self.flight.put_back(answer);
        }
    }

    /// Rows of held-back lanes that may be tried now.
    async fn due(&mut self) -> Result<Vec<Row>, DatabaseError> {
        if !self.holding
            || self.retried.elapsed() < RETRY_LOOK_EVERY
            || self.flight.len() >= IN_FLIGHT_ROWS_MAX
        {
            return Ok(Vec::new());
        }
        let rows = store::due(&mut self.connection, &self.flight.lanes()).await?;
        if rows.is_empty() {
            self.retried = Instant::now();
        }
        Ok(rows)
    }

    /// The rows of a page without those of held-back lanes, which are moved behind the others of their lane.
    async fn without_held(&mut self, page: Vec<Row>) -> Result<Vec<Row>, DatabaseError> {
        if !self.holding || page.is_empty() {
            return Ok(page);
        }
        let lanes: HashSet<Lane> = page.iter().map(Row::lane).collect();
        let lanes: Vec<Lane> = lanes.into_iter().collect();
        let held = store::held_back(&mut self.connection, &lanes).await?;
        if held.is_empty() {
            return Ok(page);
        }
        let (behind, free): (Vec<Row>, Vec<Row>) =
            page.into_iter().partition(|row| held.contains(&row.lane()));
        let behind: Vec<(i64, Lane)> = behind.iter().map(|row| (row.id, row.lane())).collect();
        store::queue_behind(&mut self.connection, &behind).await?;
        Ok(free)
    }

    /// Gives rows to the producer, except those whose lane still waits for an earlier answer. Returns the rows that
    /// were sent.
    fn send(&mut self, rows: &[Row]) -> HashSet<i64> {
        let mut fresh = HashSet::new();
        if self.draining.is_some() {
            // They are read again.
            self.after = 0;
            return fresh;
        }
        let mut busy: HashSet<Lane> = self.flight.lanes().into_iter().collect();
        for row in rows {
            let lane = row.lane();
            if busy.contains(&lane) || (row.place == Place::Outbox && self.passed.contains(&lane)) {
                self.passed.insert(lane);
                continue;
            }
            match self.flight.send(&self.client, row) {
                Offer::Taken => {
                    fresh.insert(row.id);
                }
                Offer::Refused => {
                    fresh.insert(row.id);
                    busy.insert(lane);
                }
                Offer::Full => {
                    // Back-pressure: wait for those that were sent; the rest is read again.
                    self.after = 0;
                    break;
                }
            }
        }
        fresh
    }

    /// Deletes what the broker has acknowledged, and holds back what it refuses.
    async fn settle(&mut self, answers: Vec<Answer>) -> Result<(), DatabaseError> {
        let dead = self.is_fatal();
        let (mut acknowledged, mut refused, mut ended) = (Vec::new(), Vec::new(), false);
        for Answer { sent, outcome } in answers {
            match outcome {
                Ok(()) => acknowledged.push(sent),
                Err(Failure::Ended) => ended = true,
                // Whatever error a dead producer reports for a row, the row is not to blame.
                Err(Failure::Refused(_)) if dead => ended = true,
                Err(failure) => {
                    if let Failure::Refused(error) = &failure
                        && let Some(refusal) = Refusal::of(error, "")
                    {
                        refusal.count();
                    }
                    let error = chain(&failure);
                    if sent.place == Place::Outbox {
                        tracing::warn!(
                            outbox.id = sent.id,
                            topic = sent.topic,
                            error,
                            "outbox row is held back"
                        );
                    }
                    measure::count(std::iter::once(sent.topic.as_str()), Taken::No);
                    refused.push(Refused { id: sent.id, lane: sent.lane, error });
                }
            }
        }
        if !acknowledged.is_empty() {
            self.relay.step(Step::Acknowledged);
            trace::report(&acknowledged);
            let (held, acknowledged): (Vec<Sent>, Vec<Sent>) =
                acknowledged.into_iter().partition(|sent| sent.place == Place::HeldBack);
            self.relay.acknowledged().extend(acknowledged);
            if !held.is_empty() {
                let rows: Vec<_> = held.iter().map(|sent| (sent.id, sent.lane)).collect();
                store::delete_held(&mut self.connection, &rows).await?;
                self.published(&held);
            }
        }
        if let Some(last) = refused.last() {
            self.held_error.clone_from(&last.error);
            store::hold_back(&mut self.connection, &refused).await?;
            self.holding = true;
            // An answer of the broker, or an error of the row itself: the relay makes progress.
            self.relay.beat();
        }
        if ended && !dead {
            // The next producer is there at the next look, or is being created.
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }

    fn is_fatal(&self) -> bool {
        use rdkafka::producer::Producer as _;
        self.client.client().fatal_error().is_some()
    }

    /// Has a dead or deaf producer replaced, and continues with the current one.
    async fn watch(&mut self) {
        if self.is_fatal() {
            self.replace(Replaced::Fatal);
        }
        self.renew();
        let waiting = self.flight.oldest().map(|(sent, age)| (sent.topic.clone(), age));
        match (&self.witness, waiting) {
            (Some(asked), waiting) if asked.is_finished() => {
                let seen = match self.witness.take() {
                    Some(asked) => asked.await.unwrap_or(Witness::Silent),
                    None => Witness::Silent,
                };
                self.witnessed = Instant::now();
                self.silent = seen == Witness::Silent;
                if self.silent {
                    // The broker's fault; a new process would not help.
                    self.relay.beat();
                } else if waiting.is_some_and(|(_, age)| age >= self.deaf_after) {
                    self.replace(Replaced::Deaf);
                    self.deaf_after = (self.deaf_after * 2).min(DEAF_AFTER_MAX);
                }
            }
            (None, Some((topic, age))) if age >= DEAF_AFTER && self.witnessed.elapsed() >= WITNESS_EVERY => {
                let publisher = self.relay.publisher.clone();
                self.witness = Some(tokio::task::spawn_blocking(move || publisher.witness(Some(&topic))));
            }
            _ => {}
        }
        if !self.relay.publisher.is_current(&self.client) {
            // What the old one had was discarded with it: those rows are read again.
            self.client = self.relay.publisher.current();
            self.flight = Flight::default();
            self.after = 0;
            self.passed.clear();
        }
    }

    /// Has a producer with an old certificate replaced, once nothing of it is on its way.
    fn renew(&mut self) {
        if !self.relay.publisher.is_outdated() {
            self.draining = None;
            return;
        }
        let since = *self.draining.get_or_insert_with(Instant::now);
        if self.flight.len() == 0 || since.elapsed() >= DRAIN_TIME_MAX {
            self.replace(Replaced::Renewed);
            self.draining = None;
        }
    }

    fn replace(&self, why: Replaced) {
        if let Err(error) = self.relay.publisher.replace(&self.client, why) {
            tracing::error!(error = chain(&error), "cannot create a new producer");
        }
    }

    /// Updates the metrics and the component.
    fn report(&mut self, measure: &Measure) {
        self.holding = measure.lanes > 0;
        metrics::gauge!(crate::metric::OUTBOX_OLDEST_AGE_SECONDS).set(measure.oldest_age_s);
        metrics::gauge!(crate::metric::OUTBOX_HELD_BACK_ROWS).set(as_f64(measure.held_rows));
        metrics::gauge!(crate::metric::OUTBOX_HELD_BACK_KEYS).set(as_f64(measure.lanes));
        metrics::gauge!(crate::metric::OUTBOX_HELD_BACK_OLDEST_AGE_SECONDS).set(measure.held_age_s);
        metrics::gauge!(crate::metric::OUTBOX_DEAD_ROWS).set(as_f64(measure.dead_rows));
        metrics::gauge!(crate::metric::DATABASE_OLDEST_TRANSACTION_SECONDS).set(measure.transaction_age_s);
        let waited = self.flight.oldest().map_or(Duration::ZERO, |(_, age)| age);
        if waited >= WAIT_TIME_MAX {
            let why = if self.silent { "the broker does not answer" } else { "no acknowledgement" };
            self.relay.component.degraded(format!("rows wait for {} s: {why}", waited.as_secs()));
        } else if measure.oldest_age_s >= WAIT_TIME_MAX.as_secs_f64() {
            self.relay.component.degraded(format!("rows wait for {:.0} s", measure.oldest_age_s));
        } else if self.holding {
            self.relay.component.degraded(format!(
                "{} rows of {} keys are held back: {}",
                measure.held_rows, measure.lanes, self.held_error
            ));
        } else {
            self.relay.component.ready();
        }
    }
}

/// Exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "a gauge")]
const fn as_f64(count: i64) -> f64 {
    count as f64
}
