//! Schema changes while programs run: prepared plans that can't run any more, and programs that are older than the
//! schema.

mod support;

use futures_util::{FutureExt as _, future::join_all};
use holdfast_common::{
    database::{BACKGROUND_TIME_MAX, Database, DatabaseError},
    deadline::Deadline,
};
use sqlx::{
    SqlSafeStr as _,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};
use support::{Lab, business, eventually};

/// Each connection of the pool reads `effects`, so that each has a plan for it.
async fn read_everywhere(database: &Database) -> Vec<Result<(), DatabaseError>> {
    let reads = (0..10).map(|_| {
        database.transaction("test.read", Deadline::after(BACKGROUND_TIME_MAX), (), |connection, ()| {
            async move {
                sqlx::query("select subject, payload from effects").fetch_all(&mut *connection).await?;
                // Long enough that all connections are in use.
                sqlx::query("select pg_sleep(0.05)").execute(connection).await?;
                Ok(())
            }
            .boxed()
        })
    });
    join_all(reads).await
}

/// A column that changes its type while connections have plans for it fails no transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_widens_fails_no_transaction() {
    let lab = Lab::new("schema-plan").await;
    for outcome in read_everywhere(&lab.database).await {
        outcome.expect("read");
    }
    let before = lab.database.pool().size();
    assert!(before > 1, "several connections have the plan: {before}");
    lab.alter("alter table effects alter column subject type varchar(4000)").await;
    for outcome in read_everywhere(&lab.database).await {
        outcome.expect("read again on a new connection");
    }
}

fn newer() -> Migrator {
    let sql = "alter table effects add column note text; alter table outbox add column note text";
    let added = Migration::new(1002, "note".into(), MigrationType::Simple, sql.into_sql_str(), false);
    Migrator::with_migrations(business().iter().cloned().chain([added]).collect())
}

/// Another program on the same database.
fn second(lab: &Lab) -> Database {
    Database::new(&lab.database_config).expect("a URL")
}

/// An older program starts and works on the schema of a newer one, beside it.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_program_runs_on_a_newer_schema() {
    let lab = Lab::new("schema-newer").await;
    let new = second(&lab);
    new.migrate(&newer()).await.expect("the newer program expands the schema");
    let old = second(&lab);
    old.migrate(&business()).await.expect("the older one starts on it");
    for database in [&new, &old] {
        for outcome in read_everywhere(database).await {
            outcome.expect("both work");
        }
    }
    let relay = lab.start_relay();
    lab.write((0..5).map(|n| lab.event("key", &n.to_string())).collect()).await;
    eventually("the older one publishes", || async { lab.count("select count(*) from outbox").await == 0 })
        .await;
    relay.end().await;
}

/// A migration that the program should know but is missing or changed stops it.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_of_the_past_that_does_not_fit_is_an_error() {
    let lab = Lab::new("schema-past").await;
    lab.alter(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        values (0, 'nobody knows it', true, '', 0)",
    )
    .await;
    let refused = second(&lab).migrate(&business()).await;
    assert!(matches!(refused, Err(MigrateError::VersionMissing(0))), "{refused:?}");
    lab.alter("delete from _sqlx_migrations where version = 0").await;
    second(&lab).migrate(&business()).await.expect("fits again");
    lab.alter("update _sqlx_migrations set checksum = 'other' where version = 2").await;
    let refused = second(&lab).migrate(&business()).await;
    assert!(matches!(refused, Err(MigrateError::VersionMismatch(2))), "{refused:?}");
}
