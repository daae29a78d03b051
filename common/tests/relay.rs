//! The outbox relay against real PostgreSQL and Kafka: whatever is killed between two durable steps, nothing is lost
//! and each key keeps its order.

mod support;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use holdfast_common::{
    event::NewEvent,
    outbox::{
        probe,
        publisher::{Client, Publisher},
        relay::{Relay, Step},
    },
};
use rdkafka::{
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
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

        // Dies at the step like a killed process: its connection is gone, and its lock with it.
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
        match step {
            Step::Claimed => assert_eq!(twice, 0),
            // At least the acknowledged ones; others may have been on their way.
            Step::Acknowledged => assert!((1..=20).contains(&twice), "{twice}"),
            Step::Deleted => assert!(twice < 20, "{twice}"),
        }
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

/// Of two relays one publishes; the other takes over when the first loses its connection, and they never publish at the
/// same time.
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

/// A row that the broker can't take holds back the later ones of its key, and no other; the row is never given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_published_holds_back_only_its_key() {
    let lab = Lab::new("relay-poison").await;
    let huge = "x".repeat(3 * 1024 * 1024);
    lab.write(vec![lab.event("bad", &huge), lab.event("bad", "behind"), lab.event("good", "fine")]).await;
    let relay = lab.start_relay();
    eventually("the other key is published", || async {
        lab.count("select count(*) from outbox_held").await == 2 && lab.read_topic(lab.topic).await.len() == 1
    })
    .await;
    eventually("the component says so", || async {
        let state = lab.health.components()["outbox"].clone();
        state.ready && state.detail.contains("2 rows of 1 keys are held back")
    })
    .await;
    assert_eq!(lab.count("select count(*) from outbox").await, 0, "nothing is in the way of the others");
    // Somebody repairs the row: everything continues on its own.
    sqlx::query("update outbox_held set value = 'small' where length(value) > 1000")
        .execute(&mut lab.connect().await)
        .await
        .expect("mended");
    eventually("nothing is held back", || async {
        lab.count("select count(*) from outbox_held").await
            + lab.count("select count(*) from outbox_lanes").await
            == 0
    })
    .await;
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

/// A commit wakes the relay: even if it never polls, events are published.
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

/// A commit of another process wakes the relay that leads: even if that never polls, events are published.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_another_process_wakes_the_leader() {
    let lab = Lab::new("relay-tell").await;
    let (stop, never) = (CancellationToken::new(), Duration::from_secs(3600));
    let leader = tokio::spawn(lab.relay().with_poll_every(never).run(stop.clone()));
    lab.write(vec![lab.event("key", "first")]).await;
    eventually("it leads", || outbox_is_empty(&lab)).await;

    let process = lab.other_process().await;
    let other = tokio::spawn(lab.relay_of(&process).with_poll_every(never).run(stop.clone()));
    for n in 0..20 {
        Lab::write_by(&process, vec![lab.event("key", &n.to_string())]).await;
        eventually("the outbox is empty", || outbox_is_empty(&lab)).await;
    }
    stop.cancel();
    for relay in [leader, other] {
        relay.await.expect("ends when asked to");
    }
    assert_eq!(lab.read_topic(lab.topic).await.len(), 21);
}

/// A relay that is asked to end leaves nothing that the broker has to be published again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_is_gone_when_the_relay_ends() {
    let lab = Lab::new("relay-end").await;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    let hook = Arc::new(move |step| {
        if step == Step::Acknowledged {
            asked.cancel();
        }
    });
    let relay = tokio::spawn(lab.relay().with_hook(hook).run(stop));
    lab.write(vec![lab.event("key", "last")]).await;
    relay.await.expect("ends when asked to");
    assert!(outbox_is_empty(&lab).await);
    assert_eq!(lab.read_topic(lab.topic).await.len(), 1);
}

/// The relay publishes with a producer of this lab's Kafka as soon as it has replaced `first`.
async fn heals(lab: &Lab, first: Client) {
    let publisher = Publisher::starting_with(first, &lab.brokers());
    let planted = publisher.current();
    lab.write((0..20).map(|n| lab.event("key", &format!("{n:02}"))).collect()).await;
    let stop = CancellationToken::new();
    let relay = Relay::new(lab.database.clone(), publisher.clone(), lab.health.component("outbox"));
    let relay = tokio::spawn(relay.run(stop.clone()));
    eventually("everything is published", || outbox_is_empty(lab)).await;
    assert!(!publisher.is_current(&planted), "the planted producer was replaced");
    drop(planted);
    stop.cancel();
    relay.await.expect("ends when asked to");
    let values: Vec<String> =
        lab.read_topic(lab.topic).await.into_iter().map(|(_, _, value)| value).collect();
    assert_eq!(values, (0..20).map(|n| format!("{n:02}")).collect::<Vec<_>>());
    assert_eq!(lab.count("select count(*) from outbox_lanes").await, 0, "no row is blamed for its producer");
}

/// A producer that reaches nobody although the broker answers a fresh client is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_deaf_producer_is_replaced() {
    let lab = Lab::new("relay-deaf").await;
    // A port where nobody listens: bound, then released.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let deaf = lab.producer_at(port.to_string());
    heals(&lab, deaf).await;
}

/// The same with nothing to publish: the probe of readiness replaces it.
#[tokio::test(flavor = "multi_thread")]
async fn the_probe_replaces_a_deaf_producer() {
    let lab = Lab::new("probe-deaf").await;
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let deaf = lab.producer_at(port.to_string());
    let publisher = Publisher::starting_with(deaf, &lab.brokers());
    let stop = CancellationToken::new();
    let probe = tokio::spawn(probe::run(publisher, lab.health.component("kafka"), stop.clone()));
    eventually("the broker answers again", || async { lab.health.components()["kafka"].ready }).await;
    stop.cancel();
    probe.await.expect("ends when asked to");
}

/// A producer with a fatal error is replaced. Its broker is librdkafka's mock, which answers "out of sequence", like a
/// broker that has lost the end of its log.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_producer_is_replaced() {
    let lab = Lab::new("relay-fatal").await;
    let mad = MockCluster::new(1).expect("a mock broker");
    mad.create_topic(lab.topic, 1, 1).expect("created");
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    mad.request_errors(RDKafkaApiKey::Produce, &[error; 50]);
    heals(&lab, lab.producer_at(mad.bootstrap_servers())).await;
}

/// How long each of `n` events with keys of their own takes to be published.
async fn publish_times(lab: &Lab, phase: &str, n: usize) -> Vec<Duration> {
    let mut publish_times = Vec::new();
    for n in 0..n {
        let begin = std::time::Instant::now();
        lab.write(vec![lab.event(&format!("{phase}-{n}"), phase)]).await;
        eventually("it is published", || outbox_is_empty(lab)).await;
        publish_times.push(begin.elapsed());
    }
    publish_times.sort();
    publish_times
}

/// Rows for a topic that is gone delay no others, and are published in order once it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_gone_delays_nobody() {
    let lab = Lab::new("relay-gone").await;
    let gone: &'static str = format!("{}.dlq", lab.topic).leak();
    lab.create_topic(gone).await;
    let lost = |value: &str| NewEvent { topic: gone, ..lab.event("lost", value) };
    let relay = lab.start_relay();
    lab.write(vec![lost("00")]).await;
    eventually("the topic is used", || outbox_is_empty(&lab)).await;
    let control = publish_times(&lab, "control", 30).await;

    lab.delete_topic(gone).await;
    lab.write(vec![lost("01"), lost("02")]).await;
    let begin = std::time::Instant::now();
    let mut beside = Vec::new();
    while beside.len() < 30 || lab.count("select count(*) from outbox_held").await < 2 {
        assert!(begin.elapsed() < support::PATIENCE, "the rows are never held back");
        // While the lost ones are on their way the table isn't empty: look for this one only.
        let key = format!("beside-{}", beside.len());
        let one = std::time::Instant::now();
        lab.write(vec![lab.event(&key, "beside")]).await;
        eventually("it is published", || async {
            sqlx::query("select from outbox where key = $1")
                .bind(key.as_bytes())
                .fetch_optional(&mut lab.connect().await)
                .await
                .expect("read")
                .is_none()
        })
        .await;
        beside.push(one.elapsed());
    }
    beside.sort();
    let (slowest, median) = (beside[beside.len() - 1], beside[beside.len() / 2]);
    assert!(median < control[control.len() / 2] * 3 + Duration::from_millis(50), "{median:?}, {control:?}");
    // If it waited for the lost ones, it would take 5 s or more.
    assert!(slowest < control[control.len() - 1] + Duration::from_secs(4), "{slowest:?}, {control:?}");

    lab.write(vec![lost("03")]).await;
    lab.create_topic(gone).await;
    eventually("nothing is held back", || async {
        outbox_is_empty(&lab).await && lab.count("select count(*) from outbox_lanes").await == 0
    })
    .await;
    relay.end().await;
    let values: Vec<String> = lab.read_topic(gone).await.into_iter().map(|(_, _, value)| value).collect();
    assert_eq!(values, ["01", "02", "03"]);
}
