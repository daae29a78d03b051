//! The service's own PostgreSQL: a pool, transactions that a caller can't break, and errors that say what comes next.
//!
//! A transaction runs in a task of its own that is never dropped ([`Database::transaction`]). If it ran in the caller's
//! future, a caller that goes away in `begin()` would hand an open transaction to the next user of the connection
//! (pitfalls P12), and every gRPC timeout is such a caller. When the caller of a read ([`Database::read`]) goes away,
//! its connection is closed.
//!
//! Nothing outlives its deadline: transactions get the time that is left as `statement_timeout`, an operation that is
//! cut off closes its connection, and the server checks every 100 ms whether its client is still there.

mod after;
mod error;
mod grants;
mod kept;
pub mod migrations;
mod password;
mod schema;
mod statement;
mod tables;
mod tls;

use std::{
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::{FutureExt as _, TryFutureExt as _, future::BoxFuture};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, PgPool, Postgres,
    migrate::{MigrateError, Migrator},
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use self::after::{mark, undo_since, wake_relay_after_commit};
pub use self::{
    after::{Fate, after_commit},
    error::{Conflicting, DatabaseError},
    password::PasswordError,
    schema::SchemaError,
    statement::{Statement, query},
    tables::Tables,
};
use self::{
    after::{with_effects, writes_events},
    error::{commit_error, may_have_stale_plans},
    password::PasswordFile,
    tls::Renewed,
};
use crate::{
    backoff::Backoff, config::DatabaseConfig, deadline::Deadline, error::chain, handles::Histograms,
    health::Component, planted::crash_point, stop::sleep_unless_stopped, trace,
};

static TRANSACTION_TIMES: LazyLock<Histograms<()>> = LazyLock::new(Histograms::default);

/// The tables of this library; a service's own migrations begin at version 1001.
static COMMON_MIGRATIONS: LazyLock<Migrator> = crate::migrations![
    "0001_outbox.sql",
    "0002_inbox.sql",
    "0003_dead_letters.sql",
    "0004_dead_letter_operations.sql",
    "0005_consumer_stops.sql",
    "0006_dead_letter_edits.sql",
    "0007_positions.sql",
    "0010_outbox_held.sql",
    "0011_reemitted_events.sql",
    "0012_audit_insert_only.sql",
    "0013_redrives.sql",
    "0014_allowances.sql"
];

/// Time to get a connection; shorter than the edge's deadline, so that an exhausted pool is UNAVAILABLE rather than a
/// timeout.
pub const ACQUIRE_TIME_MAX: Duration = Duration::from_secs(2);
/// For statements without a deadline of their own.
const STATEMENT_TIME_MAX: &str = "10000";
/// A migration may have to go through everything that is stored. What it waits for, others may wait for behind it: it gives up soon, and is tried
/// again.
const MIGRATION_STATEMENT_TIME_MAX: &str = "0";
const MIGRATION_LOCK_TIME_MAX: &str = "10000";
/// A statement whose client is gone is ended after this time.
const CLIENT_CHECK_EVERY: &str = "100";
/// A transaction whose task hangs gives its locks back.
const IDLE_IN_TRANSACTION_TIME_MAX: &str = "10000";
/// The deadline of background work, which has no caller: a server that neither answers nor breaks the connection
/// (stopped, half-open TCP) can hold a transaction up for this long.
pub const BACKGROUND_TIME_MAX: Duration = Duration::from_secs(10);
/// Connections are renewed, so that a failover or a changed password is noticed.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(1800);
/// A connection that was idle for this long is tested before it is used.
const TEST_AFTER_IDLE: Duration = Duration::from_secs(1);
/// How often readiness is checked.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Attempts of a transaction that lost against another one (deadlock, serialization).
const CONFLICT_ATTEMPTS_MAX: u32 = 5;

/// How far a transaction is. Every durable step of a service is a transaction (a batch, a redrive, an order, a delivery
/// that moves on) or an acknowledged publish ([`crate::outbox::relay::Step`]); crash tests stop it between these
/// points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStep {
    /// The work is done, nothing is committed.
    Worked,
    /// It is committed, and its caller does not know yet.
    Committed,
}

/// Called with the name of a transaction at each step; crash tests panic there.
pub type TransactionHook = Arc<dyn Fn(&'static str, TransactionStep) + Send + Sync>;

/// The pool of one process; clones share it.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    /// True once the schema exists.
    migrated: Arc<watch::Sender<bool>>,
    /// Woken after each commit that has written events; the relay sleeps on it.
    committed: Arc<Notify>,
    hook: Option<TransactionHook>,
    /// When the identity that connections show was last renewed.
    renewed: Renewed,
    /// Where the database itself is, if the pool leads to a pooler.
    direct: Option<Arc<ArcSwap<PgConnectOptions>>>,
    /// Who owns the tables, if that is not the pool's role.
    owner: Option<Arc<ArcSwap<PgConnectOptions>>>,
    /// Whether this process migrates, or waits until another one has.
    migrates: bool,
    password_file: Option<PasswordFile>,
    /// Options are read, changed and stored by one at a time.
    changing: Arc<Mutex<()>>,
}

/// Settings of connections to `url`.
fn options_of(url: &SecretString, password: Option<&SecretString>) -> Result<PgConnectOptions, sqlx::Error> {
    let options: PgConnectOptions = url.expose_secret().parse()?;
    let options = match password {
        Some(password) => options.password(password.expose_secret()),
        None => options,
    };
    let options = options.options([
        ("statement_timeout", STATEMENT_TIME_MAX),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIME_MAX),
        ("client_connection_check_interval", CLIENT_CHECK_EVERY),
    ]);
    Ok(tls::only_what_is_asked_for(options))
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl Database {
    /// Prepares a pool. Nothing is connected yet, so services can start in any order.
    pub fn new(config: &DatabaseConfig) -> Result<Self, sqlx::Error> {
        if config.password.is_some() && config.password_file.is_some() {
            return Err(sqlx::Error::Configuration("password and password_file are both set".into()));
        }
        let password_file = config.password_file.as_deref().map(PasswordFile::open).transpose();
        let password_file = password_file.map_err(|error| sqlx::Error::Configuration(error.into()))?;
        let password = password_file.as_ref().map(PasswordFile::password).or_else(|| config.password.clone());
        let options = options_of(&config.url, password.as_ref())?;
        statement::set_namespace(options.get_database().unwrap_or_else(|| options.get_username()));
        let direct = config.direct_url.as_ref().map(|url| options_of(url, password.as_ref())).transpose()?;
        // With a password of its own: the other one is that of another role.
        let owner_password = config.owner_password_file.as_deref().map(password::read).transpose();
        let owner_password = owner_password.map_err(|error| sqlx::Error::Configuration(error.into()))?;
        let owner =
            config.owner_url.as_ref().map(|url| options_of(url, owner_password.as_ref())).transpose()?;
        let renewed = Renewed::default();
        let since = renewed.clone();
        let pool = PgPoolOptions::new()
            .max_connections(config.connections_max)
            .acquire_timeout(ACQUIRE_TIME_MAX)
            .max_lifetime(CONNECTION_AGE_MAX)
            // Connections of a server that was restarted are dead (pitfalls P13). One that was used a moment ago is not
            // worth a round trip to test; if it has died since, the transaction fails as unavailable.
            .test_before_acquire(false)
            .before_acquire(move |connection, metadata| {
                let is_out_of_date =
                    may_have_stale_plans(metadata.age) || since.is_younger_than(metadata.age);
                Box::pin(async move {
                    if is_out_of_date {
                        return Ok(false);
                    }
                    Ok(metadata.idle_for < TEST_AFTER_IDLE || connection.ping().await.is_ok())
                })
            })
            .connect_lazy_with(options);
        Ok(Self {
            pool,
            migrated: Arc::new(watch::Sender::new(false)),
            committed: Arc::default(),
            hook: None,
            renewed,
            direct: direct.map(|options| Arc::new(ArcSwap::from_pointee(options))),
            owner: owner.map(|options| Arc::new(ArcSwap::from_pointee(options))),
            migrates: config.migrate,
            password_file,
            changing: Arc::default(),
        })
    }

    /// Changes how connections of the service's own role are made from now on.
    fn change_options(&self, change: impl Fn(PgConnectOptions) -> PgConnectOptions) {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.pool.set_connect_options(change((*self.pool.connect_options()).clone()));
        if let Some(direct) = &self.direct {
            direct.store(Arc::new(change((**direct.load()).clone())));
        }
    }

    /// The same for every role.
    fn change_options_of_all(&self, change: impl Fn(PgConnectOptions) -> PgConnectOptions) {
        self.change_options(&change);
        if let Some(owner) = &self.owner {
            owner.store(Arc::new(change((**owner.load()).clone())));
        }
    }

    /// Settings of connections to the database itself.
    fn direct_options(&self) -> Arc<PgConnectOptions> {
        match &self.direct {
            Some(direct) => direct.load_full(),
            None => self.pool.connect_options(),
        }
    }

    /// A connection of its own, to the database itself: for a lock that ends with its connection.
    pub(crate) async fn connect(&self) -> Result<PgConnection, DatabaseError> {
        bounded_by(DatabaseError::of_connecting, PgConnection::connect_with(&self.direct_options())).await
    }

    /// Listens to a channel, on a connection of its own to the database itself. What is said while that is lost is not heard.
    pub(crate) async fn listen(&self, channel: &str) -> Result<PgListener, DatabaseError> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with((*self.direct_options()).clone());
        let mut listener = bounded_by(DatabaseError::of_connecting, PgListener::connect_with(&pool)).await?;
        bounded(listener.listen(channel)).await?;
        Ok(listener)
    }

    /// For background statements that have no caller, and for tests. Calls use [`Database::read`].
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// For tests; see [`TransactionHook`].
    #[must_use]
    pub fn with_hook(mut self, hook: TransactionHook) -> Self {
        self.hook = Some(hook);
        self
    }

    fn step(&self, name: &'static str, step: TransactionStep) {
        if let Some(hook) = &self.hook {
            hook(name, step);
        }
        let moment = match step {
            TransactionStep::Worked => "worked",
            TransactionStep::Committed => "committed",
        };
        crash_point(name, moment);
    }

    /// Woken after each commit of this process that has written events.
    #[must_use]
    pub fn committed(&self) -> Arc<Notify> {
        self.committed.clone()
    }

    /// Returns once the schema exists.
    pub async fn migrated(&self) {
        // The sender lives as long as `self`.
        let _ = self.migrated.subscribe().wait_for(|migrated| *migrated).await;
    }

    /// Creates or upgrades the schema: the tables of this library, then the service's own.
    pub async fn migrate(&self, own: &Migrator) -> Result<(), MigrateError> {
        let all = COMMON_MIGRATIONS.iter().chain(own.iter()).cloned().collect();
        let mut migrator = Migrator::with_migrations(all);
        // Of its own, to the database itself: a pooler may give each statement another one, and a pool would keep to itself why it
        // can't connect.
        let options = self.owner.as_ref().map_or_else(|| self.direct_options(), |owner| owner.load_full());
        let options = (*options).clone().options([
            ("statement_timeout", MIGRATION_STATEMENT_TIME_MAX),
            ("lock_timeout", MIGRATION_LOCK_TIME_MAX),
        ]);
        let connected = tokio::time::timeout(ANSWER_TIME_MAX, PgConnection::connect_with(&options)).await;
        let mut connection = connected.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        let service = self.owner.as_ref().map(|_| self.pool.connect_options());
        if let Some(service) = &service {
            grants::lock(&mut connection).await?;
            grants::take_over(&mut connection, service.get_username()).await?;
        }
        schema::refuse_missing(&mut connection, &migrator).await?;
        migrator.set_ignore_missing(true);
        // Replicas that start together take turns: the migrator holds an advisory lock.
        migrator.run_direct(None, &mut connection, false).await?;
        if let Some(service) = &service {
            grants::rows_to(&mut connection, service.get_username()).await?;
        }
        // All is done: a server that does not hear this must not keep the service from starting.
        let _ = bounded(connection.close()).await;
        self.migrated.send_replace(true);
        Ok(())
    }

    /// Returns once the schema is as this program needs it, which another process sees to ([`Database::migrate`]).
    async fn await_migration(&self, own: &Migrator) -> Result<(), SchemaError> {
        let mut connection = self.connect().await?;
        let known = Migrator::with_migrations(COMMON_MIGRATIONS.iter().chain(own.iter()).cloned().collect());
        schema::check(&mut connection, &known).await?;
        bounded(connection.close()).await?;
        self.migrated.send_replace(true);
        Ok(())
    }

    /// Migrates as soon as the database answers, or waits until another process has, then keeps `component` up to date with whether it
    /// answers, until `stop`.
    pub async fn migrate_and_probe(
        self,
        own: &'static Migrator,
        component: Component,
        stop: CancellationToken,
    ) {
        let mut backoff = Backoff::for_infrastructure();
        loop {
            // Before the check, which takes one itself.
            self.report_connections();
            let migrated = *self.migrated.borrow();
            let checked = if migrated {
                self.probe().await.map_err(|error| chain(&error))
            } else if !self.migrates {
                self.await_migration(own).await.map_err(|error| chain(&error))
            } else {
                self.migrate(own).await.map_err(|error| chain(&error))
            };
            let pause = match checked {
                Ok(()) => {
                    backoff.reset();
                    component.ready();
                    kept::open_missing(&self.pool).await;
                    PROBE_EVERY
                }
                Err(error) => {
                    component.waiting(error);
                    backoff.next_pause()
                }
            };
            if sleep_unless_stopped(&stop, pause).await.is_break() {
                return;
            }
        }
    }

    /// How many connections of the pool are open.
    fn report_connections(&self) {
        let (open, idle) = (self.pool.size(), u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX));
        for (state, connections) in [("idle", idle), ("used", open.saturating_sub(idle))] {
            metrics::gauge!(crate::metric::DB_CLIENT_CONNECTION_COUNT, "db_client_connection_state" => state)
                .set(connections);
        }
    }

    /// A pool keeps to itself why it can't connect: somebody refuses connections, or the name is not known. A connection of its own
    /// finds out, so that readiness says it.
    async fn probe(&self) -> Result<(), DatabaseError> {
        let probed = bounded(query("-- database.probe\nselect 1").execute(&self.pool)).await;
        if let Err(DatabaseError::Unavailable(sqlx::Error::PoolTimedOut)) = probed {
            let options = self.pool.connect_options();
            let connecting = PgConnection::connect_with(&options);
            let connection = bounded_by(DatabaseError::of_connecting, connecting).await?;
            // Over TLS it waits for the server, which may be silent again.
            bounded(connection.close()).await?;
        }
        probed.map(drop)
    }

    /// Runs `work` in one transaction and commits it if it returns `Ok`. Transactions that lose against another one are
    /// run again, each time with a clone of `input`, so `work` must have no effect outside of the connection. `name` is
    /// for metrics, which have the time of each attempt.
    ///
    /// The transaction is finished even if the caller goes away, and rolled back at the deadline. Wakes the relay after
    /// the commit if events were written, and runs what `work` has left with [`after_commit`].
    pub async fn transaction<I, T, E, W>(
        &self,
        name: &'static str,
        deadline: Deadline,
        input: I,
        work: W,
    ) -> Result<T, E>
    where
        I: Clone + Send + Sync + 'static,
        T: Send + 'static,
        E: From<DatabaseError> + Conflicting + Send + 'static,
        W: for<'c> Fn(&'c mut PgConnection, I) -> BoxFuture<'c, Result<T, E>> + Send + Sync + 'static,
    {
        self.commit_as(Form::Transaction, name, deadline, input, work).await
    }

    /// Like [`Database::transaction`] for work that is **one** statement, which commits by itself: one round trip instead of three.
    ///
    /// A connection that breaks leaves the outcome unknown ([`DatabaseError::CommitUnknown`]) from the first byte on. At the deadline the
    /// connection is closed, and the server ends the statement, as it does for a [`Database::read`].
    pub async fn single_statement<I, T, W>(
        &self,
        name: &'static str,
        deadline: Deadline,
        input: I,
        work: W,
    ) -> Result<T, DatabaseError>
    where
        I: Clone + Send + Sync + 'static,
        T: Send + 'static,
        W: for<'c> Fn(&'c mut PgConnection, I) -> BoxFuture<'c, Result<T, DatabaseError>>
            + Send
            + Sync
            + 'static,
    {
        self.commit_as(Form::Statement, name, deadline, input, move |connection, input| {
            work(connection, input).map_err(DatabaseError::of_single_statement).boxed()
        })
        .await
    }

    async fn commit_as<I, T, E, W>(
        &self,
        form: Form,
        name: &'static str,
        deadline: Deadline,
        input: I,
        work: W,
    ) -> Result<T, E>
    where
        I: Clone + Send + Sync + 'static,
        T: Send + 'static,
        E: From<DatabaseError> + Conflicting + Send + 'static,
        W: for<'c> Fn(&'c mut PgConnection, I) -> BoxFuture<'c, Result<T, E>> + Send + Sync + 'static,
    {
        let database = self.clone();
        let attempts = async move {
            let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(50));
            loop {
                let outcome = with_effects(database.attempt(form, name, deadline, &input, &work)).await;
                let lost = outcome.as_ref().err().is_some_and(Conflicting::is_conflict);
                if lost && backoff.attempt() + 1 < CONFLICT_ATTEMPTS_MAX {
                    metrics::counter!(crate::metric::TRANSACTION_CONFLICTS_TOTAL, "name" => name)
                        .increment(1);
                    tokio::time::sleep(backoff.next_pause()).await;
                    continue;
                }
                return outcome;
            }
        };
        let task = tokio::spawn(trace::within(trace::current(), attempts));
        match task.await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only the shutdown of the runtime cancels it; the outcome is as unknown as after a crash.
                Err(_) => Err(DatabaseError::CommitUnknown(sqlx::Error::WorkerCrashed).into()),
            },
        }
    }

    /// One attempt, and how far it came: `None` if nothing is committed.
    async fn attempt<I, T, E, W>(
        &self,
        form: Form,
        name: &'static str,
        deadline: Deadline,
        input: &I,
        work: &W,
    ) -> (Option<Fate>, Result<T, E>)
    where
        I: Clone,
        E: From<DatabaseError> + Conflicting,
        W: for<'c> Fn(&'c mut PgConnection, I) -> BoxFuture<'c, Result<T, E>>,
    {
        let connection = match self.acquire(deadline).await {
            Ok(connection) => connection,
            Err(error) => return (None, Err(error.into())),
        };
        let mut lease = Lease::begin(connection);
        let begun = Instant::now();
        let mut fate = None;
        let outcome = tokio::time::timeout_at(deadline.instant(), async {
            if let Form::Statement = form {
                fate = Some(Fate::Unknown);
                let outcome = work(lease.connection(), input.clone()).await;
                fate = fate_of(&outcome);
                if outcome.is_ok() {
                    self.step(name, TransactionStep::Committed);
                }
                return outcome;
            }
            // The limit travels with BEGIN, so it costs no round trip. At least 1: 0 would mean no limit.
            let time_ms = deadline.remaining().as_millis().max(1);
            let begin = AssertSqlSafe(format!("begin; set local statement_timeout = {time_ms}"));
            let mut transaction = lease.connection().begin_with(begin).await.map_err(DatabaseError::from)?;
            match work(&mut transaction, input.clone()).await {
                Ok(value) => {
                    self.step(name, TransactionStep::Worked);
                    fate = Some(Fate::Unknown);
                    statement::commit(transaction).await.map_err(commit_error)?;
                    fate = Some(Fate::Committed);
                    self.step(name, TransactionStep::Committed);
                    Ok(value)
                }
                Err(error) => {
                    // A failed rollback means a broken connection, which rolls back by itself.
                    let _ = transaction.rollback().await;
                    Err(error)
                }
            }
        })
        .await;
        TRANSACTION_TIMES.record(
            name,
            (),
            begun.elapsed().as_secs_f64(),
            || metrics::histogram!(crate::metric::TRANSACTION_DURATION_SECONDS, "name" => name),
        );
        let Ok(outcome) = outcome else {
            return (fate, Err(DatabaseError::CommitUnknown(sqlx::Error::PoolTimedOut).into()));
        };
        lease.outcome = Outcome::Finished;
        if outcome.is_ok() && writes_events() {
            self.committed.notify_one();
        }
        (fate, outcome)
    }

    /// Runs a statement that changes nothing. If the deadline passes or the caller goes away, the connection is closed
    /// and the server ends the statement.
    pub async fn read<T, W>(&self, deadline: Deadline, work: W) -> Result<T, DatabaseError>
    where
        W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, DatabaseError>>,
    {
        let mut lease = Lease::begin(self.acquire(deadline).await?);
        let answer = tokio::time::timeout_at(deadline.instant(), work(lease.connection())).await;
        let answer = answer.map_err(|_| DatabaseError::Unavailable(sqlx::Error::PoolTimedOut))?;
        lease.outcome = Outcome::Finished;
        answer
    }

    // Not asynchronous itself, so that how a connection is made is compiled here once, and not by each crate that has a statement.
    fn acquire(&self, deadline: Deadline) -> BoxFuture<'_, Result<PoolConnection<Postgres>, DatabaseError>> {
        async move {
            if !*self.migrated.borrow() {
                return Err(DatabaseError::Unavailable(sqlx::Error::PoolClosed));
            }
            let begun = Instant::now();
            let connection = tokio::time::timeout_at(deadline.instant(), self.pool.acquire()).await;
            let connection = connection.unwrap_or(Err(sqlx::Error::PoolTimedOut));
            match &connection {
                Ok(_) => metrics::histogram!(crate::metric::DB_CLIENT_CONNECTION_WAIT_TIME_SECONDS)
                    .record(begun.elapsed()),
                Err(sqlx::Error::PoolTimedOut) => {
                    metrics::counter!(crate::metric::DB_CLIENT_CONNECTION_TIMEOUTS_TOTAL).increment(1);
                }
                Err(_) => {}
            }
            connection.map_err(DatabaseError::of_connecting)
        }
        .boxed()
    }
}

/// What commits the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// BEGIN before it and COMMIT behind it.
    Transaction,
    /// Its only statement does.
    Statement,
}

/// How far a statement came that commits by itself.
fn fate_of<T, E: Conflicting>(outcome: &Result<T, E>) -> Option<Fate> {
    match outcome {
        Ok(_) => Some(Fate::Committed),
        Err(error) if error.is_unknown() => Some(Fate::Unknown),
        Err(_) => None,
    }
}

/// A connection in use. One that was cut off in the middle must not go back to the pool: a statement may run on it, and
/// a transaction may be open.
struct Lease {
    /// Taken when the lease is dropped.
    connection: Option<PoolConnection<Postgres>>,
    outcome: Outcome,
}

#[derive(PartialEq, Eq)]
enum Outcome {
    CutOff,
    Finished,
}

impl Lease {
    const fn begin(connection: PoolConnection<Postgres>) -> Self {
        Self { connection: Some(connection), outcome: Outcome::CutOff }
    }

    fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("it is taken when the lease is dropped, and not before")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let connection = self.connection.take();
        if self.outcome == Outcome::CutOff {
            metrics::counter!(crate::metric::DATABASE_CONNECTIONS_CUT_OFF_TOTAL).increment(1);
            // Its socket is closed here and now, so that the server notices. To take leave of the server, as the pool does, waits over
            // TLS until it says something, which it does only when the statement has ended; the pool gives that up after 5 s, and as long
            // the statement would hold its locks.
            drop(connection.map(PoolConnection::detach));
        }
    }
}

/// Time for one statement outside of a transaction, if the server neither answers nor breaks the connection.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(4);

/// A statement outside of a transaction that doesn't wait forever.
pub(crate) async fn bounded<T>(
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DatabaseError> {
    bounded_by(DatabaseError::from, statement).await
}

async fn bounded_by<T>(
    meaning: impl FnOnce(sqlx::Error) -> DatabaseError,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DatabaseError> {
    match tokio::time::timeout(ANSWER_TIME_MAX, work).await {
        Ok(answer) => answer.map_err(meaning),
        Err(_) => Err(DatabaseError::Unavailable(sqlx::Error::PoolTimedOut)),
    }
}
