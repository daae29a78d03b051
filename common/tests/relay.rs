//! The outbox relay against real PostgreSQL and Kafka: whatever is killed between two durable steps, nothing is lost and
//! the order of a key stays.

mod support;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use holdfast_common::outbox::relay::Step;
use sqlx::Connection as _;
use support::{Lab, eventually};
use tokio_util::sync::CancellationToken;

async fn outbox_is_empty(lab: &Lab) -> bool {
    lab.count("select count(*) from outbox").await == 0
}

/// First occurrences, in the order of their partition: what an inbox makes of a topic.
fn deduplicated(records: Vec<(i32, String, String)>) -> Vec<(String, String)> {
    let mut seen = HashSet::new();
    records
        .into_iter()
        .filter(|(_, key, value)| seen.insert((key.clone(), value.clone())))
        .map(|(_, key, value)| (key, value))
        .collect()
}

/// A relay that dies after any of its steps loses nothing; what it publishes twice is a duplicate, never a reordering.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_steps_loses_nothing() {
    for step in [Step::Claimed, Step::Acknowledged, Step::Deleted] {
        let lab = Lab::new("relay-crash").await;
        let events = (0..20).map(|n| lab.event(&format!("key-{}", n % 2), &format!("{n:02}"))).collect();
        lab.write(events).await;

        // Dies at the step, as a killed process would: its connection and with it its lock are gone.
        let crashed = CancellationToken::new();
        let died = crashed.clone();
        let hook = Arc::new(move |now| {
            if now == step {
                died.cancel();
                std::panic::panic_any("killed here");
            }
        });
        let relay = tokio::spawn(lab.relay().with_hook(hook).run(CancellationToken::new()));
        crashed.cancelled().await;
        assert!(relay.await.is_err(), "the relay dies at {step:?}");

        let successor = lab.start_relay();
        eventually("the outbox is empty", || outbox_is_empty(&lab)).await;
        successor.end().await;

        let published = lab.read_topic(lab.topic).await;
        let twice = published.len() - 20;
        assert_eq!(twice, if step == Step::Acknowledged { 20 } else { 0 }, "after {step:?}");
        for key in ["key-0", "key-1"] {
            let values: Vec<String> = deduplicated(published.clone())
                .into_iter()
                .filter(|(k, _)| k == key)
                .map(|(_, value)| value)
                .collect();
            assert_eq!(values.len(), 10);
            assert!(values.is_sorted(), "order of {key} after {step:?}: {values:?}");
        }
    }
}

/// Of two relays one publishes; the other takes over when the first loses its connection, and nothing is published by
/// both at a time.
#[tokio::test(flavor = "multi_thread")]
async fn one_relay_leads_and_the_other_takes_over() {
    let lab = Lab::new("relay-leader").await;
    let passes = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    let stop = CancellationToken::new();
    let mut relays = Vec::new();
    for counter in &passes {
        let counter = counter.clone();
        let hook = Arc::new(move |step| {
            if step == Step::Claimed {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        });
        relays.push(tokio::spawn(lab.relay().with_hook(hook).run(stop.clone())));
    }
    lab.write((0..5).map(|n| lab.event("key", &format!("{n:02}"))).collect()).await;
    eventually("the outbox is empty", || outbox_is_empty(&lab)).await;
    let leading: Vec<bool> = passes.iter().map(|passes| passes.load(Ordering::SeqCst) > 0).collect();
    assert_eq!(leading.iter().filter(|leads| **leads).count(), 1, "exactly one leads: {leading:?}");

    // The server ends the session that holds the lock, as a failover would.
    let killed = lab
        .count(
            "select count(pg_terminate_backend(pid)) from pg_locks
            where locktype = 'advisory' and granted and database = (select oid from pg_database where datname = current_database())",
        )
        .await;
    assert_eq!(killed, 1);
    lab.write((5..10).map(|n| lab.event("key", &format!("{n:02}"))).collect()).await;
    eventually("the outbox is empty again", || outbox_is_empty(&lab)).await;
    stop.cancel();
    for relay in relays {
        relay.await.expect("ends when asked to");
    }
    let values: Vec<String> =
        deduplicated(lab.read_topic(lab.topic).await).into_iter().map(|(_, value)| value).collect();
    assert_eq!(values.len(), 10);
    assert!(values.is_sorted(), "{values:?}");
}

/// A transaction that takes its id early and commits late is published all the same (pitfalls P14).
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_commits_late_is_not_skipped() {
    let lab = Lab::new("relay-gap").await;
    let relay = lab.start_relay();

    let mut slow = lab.connect().await;
    let mut transaction = slow.begin().await.expect("begun");
    let late = holdfast_common::outbox::OutboxRecord::from_event(lab.event("late", "late"), "test");
    holdfast_common::outbox::append(&mut transaction, vec![late]).await.expect("written");

    lab.write(vec![lab.event("early", "early")]).await;
    eventually("the later id is published first", || outbox_is_empty(&lab)).await;
    transaction.commit().await.expect("committed");
    eventually("the late one is published too", || async {
        outbox_is_empty(&lab).await && lab.read_topic(lab.topic).await.len() == 2
    })
    .await;
    relay.end().await;
}

/// A row that the broker can't take holds back the later ones of its key, and no other; it is never given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_published_holds_back_only_its_key() {
    let lab = Lab::new("relay-poison").await;
    let huge = "x".repeat(3 * 1024 * 1024);
    lab.write(vec![lab.event("bad", &huge), lab.event("bad", "behind"), lab.event("good", "fine")]).await;
    let relay = lab.start_relay();
    eventually("the other key is published", || async {
        lab.count("select count(*) from outbox").await == 2 && lab.read_topic(lab.topic).await.len() == 1
    })
    .await;
    eventually("readiness says so", || async { !lab.health.components()["outbox"].ready }).await;
    // Somebody mends the row: everything goes on by itself.
    sqlx::query("update outbox set value = 'small' where length(value) > 1000")
        .execute(lab.database.pool())
        .await
        .expect("mended");
    eventually("the outbox is empty", || outbox_is_empty(&lab)).await;
    relay.end().await;
    let bad: Vec<String> = lab
        .read_topic(lab.topic)
        .await
        .into_iter()
        .filter(|(_, key, _)| key == "bad")
        .map(|(_, _, value)| value)
        .collect();
    assert_eq!(bad, ["small", "behind"]);
}

/// A commit wakes the relay: with a poll that never comes, events are published all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_wakes_the_relay() {
    let lab = Lab::new("relay-wake").await;
    let stop = CancellationToken::new();
    let relay = tokio::spawn(lab.relay().with_poll_every(Duration::from_secs(3600)).run(stop.clone()));
    for n in 0..20 {
        lab.write(vec![lab.event("key", &n.to_string())]).await;
        eventually("the outbox is empty", || outbox_is_empty(&lab)).await;
    }
    stop.cancel();
    relay.await.expect("ends when asked to");
    assert_eq!(lab.read_topic(lab.topic).await.len(), 20);
}
