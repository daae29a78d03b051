//! The service's own PostgreSQL: a pool, transactions that a caller can't break, and errors that say what comes next.
//!
//! A transaction runs in a task of its own that is never dropped ([`Database::transaction`]). If it ran in the caller's
//! future, a caller that goes away in `begin()` would hand an open transaction to the next borrower of the connection
//! (pitfalls P12), and every gRPC timeout is such a caller.

use std::{borrow::Cow, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use secrecy::ExposeSecret as _;
use sqlx::{
    Connection as _, PgConnection, PgPool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{backoff::Backoff, config::DatabaseConfig, health::Component, service::chain};

/// The tables of this library; a service's own migrations begin at version 1001.
static COMMON_MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Time to get a connection; below the edge's deadline, so that a full pool is UNAVAILABLE rather than a timeout.
const ACQUIRE_TIME_MAX: Duration = Duration::from_secs(2);
/// No statement outlives the edge's deadline (3 s).
const STATEMENT_TIME_MAX: &str = "3000";
/// A transaction whose task hangs gives its locks back.
const IDLE_IN_TRANSACTION_TIME_MAX: &str = "10000";
/// A server that neither answers nor breaks the connection (stopped, half-open TCP) holds a transaction this long; the
/// server's own timeouts end it long before in all other cases.
const TRANSACTION_TIME_MAX: Duration = Duration::from_secs(10);
/// Connections are renewed, so that a failover or a changed password is noticed.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(1800);
/// A connection that was idle for this long is tested before it is used.
const TEST_AFTER_IDLE: Duration = Duration::from_secs(1);
/// How often readiness is checked.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Attempts of a transaction that lost against another one (deadlock, serialization).
const CONFLICT_ATTEMPTS_MAX: u32 = 5;

/// A failed statement or transaction; the variant says what comes next.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The database is away, full, read-only or too busy: try again later. Nothing was done.
    #[error("database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// Lost against another transaction: run the whole transaction again. Nothing was done.
    #[error("transaction lost against another one")]
    Conflict(#[source] sqlx::Error),
    /// The connection broke while committing: done or not, look it up by key (pitfalls P11).
    #[error("outcome of the commit is unknown")]
    CommitUnknown(#[source] sqlx::Error),
    /// The data can't be stored as it is (a constraint, a range): trying again won't help.
    #[error("data was refused by the database")]
    Data(#[source] sqlx::Error),
    /// A statement that doesn't fit the schema: a defect of ours.
    #[error("statement failed")]
    Defect(#[source] sqlx::Error),
    /// Stored data that our own code can't read: a defect of ours.
    #[error("stored data is not valid: {0}")]
    Corrupt(Cow<'static, str>),
}

impl From<sqlx::Error> for DatabaseError {
    /// Sorts by SQLSTATE (PostgreSQL documentation, appendix A).
    fn from(error: sqlx::Error) -> Self {
        let code = match &error {
            sqlx::Error::Database(database) => database.code(),
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::BeginFailed => return Self::Unavailable(error),
            _ => return Self::Defect(error),
        };
        match code.as_deref() {
            Some("40001" | "40P01") => Self::Conflict(error),
            // Connection exceptions, resources (disk full, too many connections), operator intervention (shutdown,
            // statement timeout), lock timeout, read-only transaction, system errors.
            Some("55P03" | "25006" | "25P03") => Self::Unavailable(error),
            Some(code) if ["08", "53", "57", "58"].contains(&&code[..2]) => Self::Unavailable(error),
            Some(code) if ["22", "23"].contains(&&code[..2]) => Self::Data(error),
            _ => Self::Defect(error),
        }
    }
}

/// The pool of one process; clones share it.
#[derive(Debug, Clone)]
pub struct Database {
    pool: PgPool,
    /// True once the schema is there.
    migrated: Arc<watch::Sender<bool>>,
    /// Woken after each commit; the relay sleeps on it.
    committed: Arc<Notify>,
}

impl Database {
    /// Prepares a pool. Nothing is connected yet, so start needs no order.
    pub fn new(config: &DatabaseConfig) -> Result<Self, sqlx::Error> {
        let options: PgConnectOptions = config.url.expose_secret().parse()?;
        let options = options.options([
            ("statement_timeout", STATEMENT_TIME_MAX),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIME_MAX),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(config.connections_max)
            .acquire_timeout(ACQUIRE_TIME_MAX)
            .max_lifetime(CONNECTION_AGE_MAX)
            // Connections of a server that was restarted are dead (pitfalls P13). One that was used a moment ago needs no
            // round trip to prove that it lives; if it died since, the transaction fails as unavailable.
            .test_before_acquire(false)
            .before_acquire(|connection, metadata| {
                Box::pin(
                    async move { Ok(metadata.idle_for < TEST_AFTER_IDLE || connection.ping().await.is_ok()) },
                )
            })
            .connect_lazy_with(options);
        Ok(Self { pool, migrated: Arc::new(watch::Sender::new(false)), committed: Arc::default() })
    }

    /// For reads of one statement, and for tests.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Woken after each commit of this process.
    #[must_use]
    pub fn committed(&self) -> Arc<Notify> {
        self.committed.clone()
    }

    /// Returns once the schema is there.
    pub async fn migrated(&self) {
        // The sender lives as long as `self`.
        let _ = self.migrated.subscribe().wait_for(|migrated| *migrated).await;
    }

    /// Creates or upgrades the schema: the tables of this library, then the service's own.
    pub async fn migrate(&self, own: &Migrator) -> Result<(), MigrateError> {
        let all = COMMON_MIGRATIONS.iter().chain(own.iter()).cloned().collect();
        // Replicas that start together take turns: the migrator holds an advisory lock.
        Migrator::with_migrations(all).run(&self.pool).await?;
        self.migrated.send_replace(true);
        Ok(())
    }

    /// Migrates as soon as the database is there, then keeps `component` in step with whether it answers, until `stop`.
    pub async fn follow(self, own: &'static Migrator, component: Component, stop: CancellationToken) {
        let mut backoff = Backoff::for_infrastructure();
        loop {
            let migrated = *self.migrated.borrow();
            let checked = if migrated {
                self.probe().await.map_err(|error| chain(&error))
            } else {
                self.migrate(own).await.map_err(|error| chain(&error))
            };
            let pause = match checked {
                Ok(()) => {
                    backoff.reset();
                    component.ready();
                    PROBE_EVERY
                }
                Err(error) => {
                    component.waiting(error);
                    backoff.next_pause()
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn probe(&self) -> Result<(), DatabaseError> {
        bounded(sqlx::query("-- database.probe\nselect 1").execute(&self.pool)).await.map(drop)
    }

    /// Runs `work` in one transaction and commits it if it answers `Ok`. Transactions that lose against another are run
    /// again, so `work` must have no effect outside of the connection. `name` is for metrics.
    ///
    /// The transaction is finished even if the caller goes away. Wakes the relay after the commit.
    pub async fn transaction<T, E, W>(&self, name: &'static str, work: W) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<DatabaseError> + Conflicting + Send + 'static,
        W: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>> + Send + Sync + 'static,
    {
        let database = self.clone();
        let task = tokio::spawn(async move {
            let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(50));
            loop {
                let outcome = database.attempt(&work).await;
                let lost = outcome.as_ref().err().is_some_and(Conflicting::is_conflict);
                if lost && backoff.attempt() + 1 < CONFLICT_ATTEMPTS_MAX {
                    metrics::counter!("transaction_conflicts_total", "name" => name).increment(1);
                    tokio::time::sleep(backoff.next_pause()).await;
                    continue;
                }
                return outcome;
            }
        });
        match task.await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that shuts down cancels it; the outcome is as unknown as after a crash.
                Err(_) => Err(DatabaseError::CommitUnknown(sqlx::Error::WorkerCrashed).into()),
            },
        }
    }

    async fn attempt<T, E, W>(&self, work: &W) -> Result<T, E>
    where
        E: From<DatabaseError>,
        W: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>>,
    {
        if !*self.migrated.borrow() {
            return Err(DatabaseError::Unavailable(sqlx::Error::PoolClosed).into());
        }
        let mut connection = self.pool.acquire().await.map_err(DatabaseError::from)?;
        let outcome = tokio::time::timeout(TRANSACTION_TIME_MAX, async {
            let mut transaction = connection.begin().await.map_err(DatabaseError::from)?;
            match work(&mut transaction).await {
                Ok(value) => {
                    transaction.commit().await.map_err(commit_error)?;
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
        if outcome.is_err() {
            // Cut off in the middle, so it must not go back to the pool with an open transaction.
            connection.close_on_drop();
        }
        match outcome {
            Ok(Ok(value)) => {
                self.committed.notify_one();
                Ok(value)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(DatabaseError::CommitUnknown(sqlx::Error::PoolTimedOut).into()),
        }
    }
}

/// Time for one statement outside of a transaction, if the server neither answers nor breaks the connection.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(4);

/// A statement outside of a transaction that doesn't wait for ever.
pub(crate) async fn bounded<T>(
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DatabaseError> {
    match tokio::time::timeout(ANSWER_TIME_MAX, statement).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(DatabaseError::Unavailable(sqlx::Error::PoolTimedOut)),
    }
}

/// Whether a transaction's error means that it should be run again.
pub trait Conflicting {
    /// Lost against another transaction.
    fn is_conflict(&self) -> bool;
}

impl Conflicting for DatabaseError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }
}

/// The server's own refusal means that nothing was done; a broken connection leaves it open.
fn commit_error(error: sqlx::Error) -> DatabaseError {
    if matches!(error, sqlx::Error::Database(_)) {
        DatabaseError::from(error)
    } else {
        DatabaseError::CommitUnknown(error)
    }
}

impl From<DatabaseError> for tonic::Status {
    /// Unknown outcomes are `UNAVAILABLE`: every write carries a key, so the caller may send it again and learns which.
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Unavailable(_) | DatabaseError::Conflict(_) | DatabaseError::CommitUnknown(_) => {
                tracing::warn!(error = chain(&error), "database call failed");
                Self::unavailable("database is not available")
            }
            DatabaseError::Data(_) | DatabaseError::Defect(_) | DatabaseError::Corrupt(_) => {
                tracing::error!(error = chain(&error), "database call failed");
                Self::internal("internal error")
            }
        }
    }
}
