//! Deadlines and callers that go away, on a real PostgreSQL: no statement outlives its deadline, and no connection of the
//! pool is left with somebody else's transaction.

mod support;

use std::{
    future::poll_fn,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use holdfast_common::{
    database::{Conflicting as _, Database, DatabaseError},
    deadline::Deadline,
    health::Health,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use sqlx::{Connection as _, PgConnection, Row as _, migrate::Migrator};
use support::{CONNECTIONS_MAX, Lab, business, eventually};
use tokio_util::sync::CancellationToken;

/// Sessions of this lab's database that run a statement or have an open transaction.
async fn busy(observer: &mut PgConnection) -> i64 {
    sqlx::query(
        "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
         and (state = 'active' or state like 'idle in transaction%')",
    )
    .fetch_one(observer)
    .await
    .expect("asked")
    .get(0)
}

async fn observer(database: &Database) -> PgConnection {
    PgConnection::connect_with(&database.pool().connect_options()).await.expect("connected")
}

/// Far less than a statement takes if it is not ended, far more than a busy machine needs to end it.
const ENDED_WITHIN: Duration = Duration::from_secs(10);

fn slow(connection: &mut PgConnection) -> BoxFuture<'_, Result<(), DatabaseError>> {
    async move {
        sqlx::query("select pg_sleep(30)").execute(connection).await?;
        Ok(())
    }
    .boxed()
}

/// The same effect in one statement, which commits by itself.
fn half_at_once(connection: &mut PgConnection) -> BoxFuture<'_, Result<(), DatabaseError>> {
    async move {
        sqlx::query("insert into effects (subject, payload) select 'half', '' from pg_sleep(30)")
            .execute(connection)
            .await?;
        Ok(())
    }
    .boxed()
}

/// Writes a row, then sleeps: half an effect, if it stayed.
fn half(connection: &mut PgConnection) -> BoxFuture<'_, Result<(), DatabaseError>> {
    async move {
        sqlx::query("insert into effects (subject, payload) values ('half', '')")
            .execute(&mut *connection)
            .await?;
        slow(connection).await
    }
    .boxed()
}

async fn halves(observer: &mut PgConnection) -> i64 {
    let row = sqlx::query("select count(*) from effects where subject = 'half'").fetch_one(observer).await;
    row.expect("counted").get(0)
}

/// Work ends with its deadline, at the caller and in the database, and leaves nothing. The statements would take 30 s.
#[tokio::test(flavor = "multi_thread")]
async fn no_statement_outlives_its_deadline() {
    let lab = Lab::new("deadline").await;
    let mut observer = observer(&lab.database).await;
    let time = Duration::from_millis(300);
    for kind in ["read", "transaction", "statement"] {
        let begin = Instant::now();
        let deadline = Deadline::after(time);
        let ended = match kind {
            "read" => lab.database.read(deadline, slow).await,
            "statement" => {
                let database = &lab.database;
                database.single_statement("test.half", deadline, (), |one, ()| half_at_once(one)).await
            }
            _ => lab.database.transaction("test.half", deadline, (), |connection, ()| half(connection)).await,
        };
        let error = ended.expect_err("too slow");
        // It was cut off, and may have been committing.
        assert!(kind != "statement" || error.is_unknown(), "{error:?}");
        let took = begin.elapsed();
        assert!(took <= ENDED_WITHIN, "{kind}: {took:?}");
        while busy(&mut observer).await > 0 {
            assert!(begin.elapsed() <= 2 * ENDED_WITHIN, "{kind}: a statement is still running");
        }
        println!(
            "{kind}: the caller was free {:?} after the deadline, the database {:?}",
            took.saturating_sub(time),
            begin.elapsed().saturating_sub(time)
        );
        assert_eq!(halves(&mut observer).await, 0);
    }
}

/// When the caller of a read goes away, its statement ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_takes_its_statement_along() {
    let lab = Lab::new("gone").await;
    let mut observer = observer(&lab.database).await;
    let database = lab.database.clone();
    let caller =
        tokio::spawn(async move { database.read(Deadline::after(Duration::from_secs(20)), slow).await });
    while busy(&mut observer).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    caller.abort();
    let begin = Instant::now();
    while busy(&mut observer).await > 0 {
        assert!(begin.elapsed() < ENDED_WITHIN, "the statement is still running");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Writes two rows.
fn pair(connection: &mut PgConnection) -> BoxFuture<'_, Result<(), DatabaseError>> {
    async move {
        for _ in 0..2 {
            sqlx::query("insert into effects (subject, payload) values ('pair', '')")
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }
    .boxed()
}

fn quick(connection: &mut PgConnection) -> BoxFuture<'_, Result<(), DatabaseError>> {
    async move {
        sqlx::query("select 1").execute(connection).await?;
        Ok(())
    }
    .boxed()
}

/// Connections that died while nobody used them, as when the server restarts, fail no caller (pitfalls P13).
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_died_idle_fail_no_caller() {
    let lab = Lab::new("restarted").await;
    let mut observer = observer(&lab.database).await;
    let read = || lab.database.read(Deadline::after(Duration::from_secs(5)), quick);
    read().await.expect("answered");
    let killed = sqlx::query(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()",
    );
    let killed: i64 = killed.fetch_one(&mut observer).await.expect("killed").get(0);
    assert!(killed > 0, "the pool has connections");
    // A connection that was used within the last second is lent without a test.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    for _ in 0..5 {
        read().await.expect("a live connection");
    }
}

/// A few connections are open before a call needs them, and those that are lost are replaced although nobody calls.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_open_before_they_are_needed() {
    let lab = Lab::new("kept").await;
    let pool = lab.database.pool();
    let (health, stop) = (Health::default(), CancellationToken::new());
    let own: &'static Migrator = Box::leak(Box::new(business()));
    let component = health.component("database");
    let probing = tokio::spawn(lab.database.clone().migrate_and_probe(own, component, stop.clone()));
    let are_idle = || async { pool.num_idle() == CONNECTIONS_MAX as usize };
    eventually("they are open", are_idle).await;
    for _ in 0..2 {
        drop(pool.acquire().await.expect("one of them").detach());
    }
    eventually("they are open again", are_idle).await;
    stop.cancel();
    probing.await.expect("no panic");
}

/// Polls a future this often, then drops it.
async fn poll_times<F: Future>(future: F, times: usize) {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(|cx| {
        if left == 0 || future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        left -= 1;
        Poll::Pending
    })
    .await;
}

/// A transaction that has begun is finished, although its caller goes away: nobody drops it in the middle (pitfalls P12).
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_outlives_its_caller() {
    let lab = Lab::new("outlives").await;
    let deadline = Deadline::after(Duration::from_secs(10));
    let transaction = lab.database.transaction("test.pair", deadline, (), |connection, ()| pair(connection));
    poll_times(transaction, 1).await;
    eventually("it is committed", || async {
        lab.count("select count(*) from effects where subject = 'pair'").await == 2
    })
    .await;
}

/// A caller that goes away at any of its polls leaves no transaction open on a connection that the next caller gets
/// (pitfalls P12), and no half of an effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_poisons_no_connection() {
    let lab = Lab::new("poison").await;
    let mut observer = observer(&lab.database).await;
    let deadline = || Deadline::after(Duration::from_secs(5));
    for polls in 0..60 {
        poll_times(
            lab.database.transaction("test.pair", deadline(), (), |connection, ()| pair(connection)),
            polls,
        )
        .await;
        poll_times(lab.database.read(deadline(), quick), polls).await;
    }
    eventually("the running transactions have ended", || {
        let database = lab.database.clone();
        async move { busy(&mut self::observer(&database).await).await == 0 }
    })
    .await;
    // Each connection of the pool works, and none is still in an old transaction.
    for _ in 0..20 {
        lab.database
            .transaction("test.pair", deadline(), (), |connection, ()| pair(connection))
            .await
            .expect("a clean connection");
        lab.database.read(deadline(), quick).await.expect("a clean connection");
    }
    let odd = sqlx::query("select count(*) % 2 from effects where subject = 'pair'").fetch_one(&mut observer);
    assert_eq!(odd.await.expect("counted").get::<i64, _>(0), 0, "only whole pairs");
}

/// A pool shows how long one waits for a connection, who got none in time, what is in use, and how long each transaction takes.
#[test]
fn the_pool_is_measured() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = || recorder.handle().render();
    // The recorder is that of this thread, which runs everything.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let work = async {
        let lab = Lab::new("measured").await;
        let database = &lab.database;
        let health = Health::default();
        let (component, stop) = (health.component("database"), CancellationToken::new());
        let own: &'static Migrator = Box::leak(Box::new(business()));
        let probing = tokio::spawn(database.clone().migrate_and_probe(own, component, stop.clone()));
        let (release, time_max) = (CancellationToken::new(), Duration::from_secs(60));
        // A read, because the server ends a transaction that rests; again, because a busy server may open no connection in time.
        let hold = async || {
            loop {
                let released = release.clone();
                let held = database.read(Deadline::after(time_max), move |_| {
                    async move {
                        released.cancelled().await;
                        Ok(())
                    }
                    .boxed()
                });
                if held.await.is_ok() {
                    return;
                }
            }
        };
        let holding = join_all((0..CONNECTIONS_MAX).map(|_| hold()));
        let refused = async {
            let used = format!(
                "db_client_connection_count{{db_client_connection_state=\"used\"}} {CONNECTIONS_MAX}\n"
            );
            while !page().contains(&used) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            database.read(Deadline::after(Duration::from_millis(50)), quick).await.expect_err("none is free");
            release.cancel();
        };
        let both = async { tokio::join!(holding, refused) };
        tokio::time::timeout(time_max, both).await.expect("all connections are used at once");
        // A name of its own: its histogram stays with the recorder of the thread that was first.
        let transaction =
            database.transaction("test.measured", Deadline::after(time_max), (), |connection, ()| {
                pair(connection)
            });
        transaction.await.expect("committed");
        stop.cancel();
        probing.await.expect("no panic");
    };
    metrics::with_local_recorder(&recorder, || runtime.block_on(work));
    let page = page();
    let count = |name: &str| {
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0)
    };
    assert!(count("db_client_connection_timeouts_total") >= 1, "{page}");
    assert_eq!(count("db_client_connection_wait_time_seconds_count"), CONNECTIONS_MAX + 1, "{page}");
    assert_eq!(count("holdfast_transaction_duration_seconds_count{name=\"test.measured\"}"), 1, "{page}");
}
