//! The idempotent consumer against real PostgreSQL and Kafka.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use holdfast_common::{
    consumer::batch::Processor,
    database::{DatabaseError, TransactionStep},
    event::{Metadata, NewEvent},
    janitor,
    record::{Header, Record},
};
use holdfast_proto::ops::v1::{self as pb, dead_letter_service_server::DeadLetterService as _};
use holdfast_testkit::reaches;
use support::{Lab, as_operator, eventually, service};
use tonic::Code;

fn batch(records: Vec<Record>) -> Arc<[Record]> {
    records.into()
}

/// A batch that is delivered again, as after a crash between commit and offset, is applied once and counted once.
#[tokio::test(flavor = "multi_thread")]
async fn a_redelivered_batch_is_applied_once() {
    let lab = Lab::new("redelivered").await;
    let records: Vec<Record> = (0..10).map(|n| lab.record(n, lab.event("order", &n.to_string()))).collect();
    let processor = lab.processor();
    processor.process(batch(records[..6].to_vec())).await.expect("applied");
    // The offset of the first six was never stored: everything comes again.
    processor.process(batch(records.clone())).await.expect("applied");
    assert_eq!(lab.effects().await.len(), 10);
    assert_eq!(lab.tally().await, (10, 0, 0));
    // The same event at another offset is a duplicate, and is counted as one.
    let mut again = records[3].clone();
    again.offset = 10;
    processor.process(batch(vec![again])).await.expect("acknowledged");
    assert_eq!(lab.effects().await.len(), 10);
    assert_eq!(lab.tally().await, (10, 1, 0));
}

/// A consumer that dies in the middle of a batch, or right after its commit, applies each event once.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_a_batch_repeats_nothing() {
    for (step, applied_before) in [(TransactionStep::Worked, 0), (TransactionStep::Committed, 10)] {
        let lab = Lab::new("crash").await;
        let records: Vec<Record> =
            (0..10).map(|n| lab.record(n, lab.event("order", &n.to_string()))).collect();
        let processor = Processor::new(lab.consumers_that_die_at("consumer.batch", step));
        let records_again = batch(records.clone());
        let died = tokio::spawn(async move { processor.process(records_again).await }).await;
        assert!(died.is_err_and(|error| error.is_panic()), "it dies at {step:?}");
        assert_eq!(lab.effects().await.len(), applied_before, "{step:?}");

        lab.processor().process(batch(records)).await.expect("applied");
        assert_eq!(lab.effects().await.len(), 10, "{step:?}");
        assert_eq!(lab.tally().await, (10, 0, 0), "{step:?}");
    }
}

/// Poison costs its neighbours nothing: wherever it is in a batch, and whatever refuses it, it alone is parked.
#[tokio::test(flavor = "multi_thread")]
async fn poison_costs_its_neighbours_nothing() {
    for (payload, class) in
        [("undecodable", "decode"), ("poison", "business-invariant"), ("unstorable", "attempts-exhausted")]
    {
        let lab = Lab::new("poison").await;
        let records: Vec<Record> = (0..30)
            .map(|n| {
                let bad = n == 0 || n == 17 || n == 29;
                lab.record(n, lab.event(&format!("order-{n}"), if bad { payload } else { "fine" }))
            })
            .collect();
        lab.processor().process(batch(records.clone())).await.expect("done");
        assert_eq!(lab.effects().await.len(), 27, "{payload}");
        assert_eq!(lab.tally().await, (27, 0, 3), "{payload}");
        let letters = lab.dead_letters().await;
        let expected: Vec<_> = [0, 17, 29].map(|n| (format!("order-{n}"), class.to_owned(), None)).to_vec();
        assert_eq!(letters, expected);
        // Parked once, not again at each delivery (pitfalls P24).
        lab.processor().process(batch(records)).await.expect("done");
        assert_eq!(lab.tally().await, (27, 0, 3), "{payload}");
        assert_eq!(lab.dead_letters().await.len(), 3);
    }
}

/// A batch with events that the handler refuses takes one transaction, as one without.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_rolls_nothing_back() {
    let lab = Lab::new("refusal").await;
    let payload = |n: i64| if n % 10 == 7 { "poison" } else { "fine" };
    let records: Vec<Record> =
        (0..30).map(|n| lab.record(n, lab.event(&format!("order-{}", n % 15), payload(n)))).collect();
    lab.processor().process(batch(records)).await.expect("done");
    // Three are refused, and one waits behind the first of them.
    assert_eq!(lab.tally().await, (26, 0, 4));
    // What was rolled back would have taken the first places of the table.
    assert_eq!(lab.count("select count(*) from inbox where ctid = '(0,1)'").await, 1);
}

/// Later events of a parked aggregate wait behind it, in the same batch and in later ones; other aggregates don't.
#[tokio::test(flavor = "multi_thread")]
async fn later_events_wait_behind_a_parked_one() {
    for payload in ["undecodable", "poison", "unstorable"] {
        let lab = Lab::new("blocked").await;
        let event = |offset, subject: &str, payload: &str| lab.record(offset, lab.event(subject, payload));
        let first = vec![
            event(0, "a", "1"),
            event(1, "a", payload),
            event(2, "b", "1"),
            event(3, "a", "3"),
            event(4, "b", "2"),
        ];
        lab.processor().process(batch(first)).await.expect("done");
        lab.processor().process(batch(vec![event(5, "a", "4"), event(6, "b", "3")])).await.expect("done");
        let effects = lab.effects().await;
        let of = |subject: &str| -> Vec<&str> {
            effects.iter().filter(|(s, _)| s == subject).map(|(_, payload)| payload.as_str()).collect()
        };
        assert_eq!(of("a"), ["1"], "{payload}");
        assert_eq!(of("b"), ["1", "2", "3"], "{payload}");
        let letters = lab.dead_letters().await;
        assert_eq!(letters.len(), 3);
        let culprit = letters[0].1.clone();
        for letter in &letters[1..] {
            assert_eq!(*letter, ("a".to_owned(), "blocked-by-key".to_owned(), Some(culprit.clone())));
        }
        assert_eq!(lab.tally().await, (4, 0, 3));
    }
}

/// Bad records, each with the class that it must get. All aggregates differ, so that none waits behind another.
fn bad_records(lab: &Lab) -> Vec<(Record, &'static str)> {
    let good = || lab.record(0, lab.event("order", "fine"));
    let with = |name: &str, value: Option<&str>| {
        let mut record = good();
        record.headers.retain(|header| header.name != name);
        if let Some(value) = value {
            record.headers.push(Header::new(name, value.to_owned()));
        }
        record
    };
    let version = |version: &str| with("ce_type", Some(&format!("holdfast.{}.{version}", lab.topic)));
    let tombstone = Record { value: None, ..good() };
    let empty = Record { value: Some(Bytes::new()), ..good() };
    let bare = Record { headers: Vec::new(), key: None, ..good() };
    let mut doubled = good();
    doubled.headers.push(Header::new("ce_type", "again"));
    let mut latin = Record { value: Some(Bytes::from_static(b"undecodable")), ..good() };
    latin.headers.push(Header { name: "note".to_owned(), value: Some(Bytes::from_static(&[0xff, 0x00])) });
    latin.headers.push(Header { name: "dlq-id".to_owned(), value: None });
    let mut records = vec![
        (with("ce_id", None), "schema-violation"),
        (with("ce_id", Some("not-a-uuid")), "schema-violation"),
        (with("ce_subject", None), "schema-violation"),
        (with("ce_specversion", Some("0.3")), "schema-violation"),
        (with("ce_time", Some("yesterday")), "schema-violation"),
        (with("content-type", Some("application/json")), "schema-violation"),
        (with("ce_type", Some("com.example.thing")), "unknown-type"),
        (with("ce_type", Some("holdfast.no.such.thing.v1")), "unknown-type"),
        (with("ce_type", Some("holdfast.test.other.v1")), "wrong-topic"),
        (version("v0"), "unknown-version"),
        (version("v2"), "unknown-version"),
        (tombstone, "decode"),
        (empty, "decode"),
        (bare, "schema-violation"),
        (doubled, "schema-violation"),
        (latin, "decode"),
    ];
    for (offset, (record, _)) in (0..).zip(&mut records) {
        record.offset = offset;
        for header in record.headers.iter_mut().filter(|header| header.name == "ce_subject") {
            header.value = Some(Bytes::from(format!("order-{offset}")));
        }
    }
    records
}

/// The copy of a record for the dead-letter topic has its original headers unchanged, then ours.
fn assert_copied_headers(lab: &Lab, headers: &[Header], record: &Record, class: &str) {
    let (originals, added) = headers.split_at(record.headers.len());
    assert_eq!(originals, record.headers);
    let get = |name: &str| {
        let header = added.iter().find(|header| header.name == name)?;
        Some(String::from_utf8_lossy(header.value.as_deref().unwrap_or_default()).into_owned())
    };
    for (name, value) in [
        ("dlq-class", class),
        ("dlq-original-topic", lab.topic),
        ("dlq-original-partition", "0"),
        ("dlq-original-offset", record.offset.to_string().as_str()),
        ("dlq-original-timestamp", "1800000000000"),
        ("dlq-group", lab.group),
        ("dlq-redrive-count", "0"),
    ] {
        assert_eq!(get(name).as_deref(), Some(value), "{name}");
    }
    for name in ["dlq-id", "dlq-reason", "dlq-service", "dlq-first-failed-at", "dlq-attempts"] {
        assert!(get(name).is_some_and(|value| !value.is_empty()), "{name}");
    }
}

/// Each bad record gets its class, and its copy for the dead-letter topic has key, value and headers byte for byte.
#[tokio::test(flavor = "multi_thread")]
async fn each_bad_record_gets_its_class() {
    let lab = Lab::new("classes").await;
    let cases = bad_records(&lab);
    let records = cases.iter().map(|(record, _)| record.clone()).collect();
    lab.processor().process(batch(records)).await.expect("done");
    let classes: Vec<String> = lab.dead_letters().await.into_iter().map(|(_, class, _)| class).collect();
    let expected: Vec<&str> = cases.iter().map(|(_, class)| *class).collect();
    assert_eq!(classes, expected);

    let copies = sqlx::query_as::<_, (Option<Vec<u8>>, Option<Vec<u8>>, Vec<u8>, String)>(
        "select key, value, headers, topic from outbox order by id",
    )
    .fetch_all(&mut lab.connect().await)
    .await
    .expect("read");
    assert_eq!(copies.len(), cases.len());
    for ((key, value, headers, topic), (record, class)) in copies.into_iter().zip(&cases) {
        assert_eq!(topic, format!("{}.{}.dlq", lab.topic, lab.group));
        assert_eq!(key.as_deref(), record.key.as_deref());
        assert_eq!(value.as_deref(), record.value.as_deref());
        let headers = holdfast_common::record::decode_headers(&headers).expect("ours");
        assert_copied_headers(&lab, &headers, record, class);
    }
}

/// An id that comes again with a different payload is no duplicate: it is parked, and the first event stays as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_reused_id_with_another_payload_is_parked() {
    let lab = Lab::new("reused").await;
    let event = lab.event("order", "first");
    let mut other = event.clone();
    other.payload = b"second".to_vec();
    let records = vec![lab.record(0, event), lab.record(1, other)];
    // In one batch, and delivered again.
    for _ in 0..2 {
        lab.processor().process(batch(records.clone())).await.expect("done");
        assert_eq!(lab.effects().await, [("order".to_owned(), "first".to_owned())]);
        assert_eq!(lab.tally().await, (1, 0, 1));
        assert_eq!(lab.dead_letters().await, [("order".to_owned(), "schema-violation".to_owned(), None)]);
    }
    assert_eq!(lab.count("select count(*) from inbox").await, 2);
    assert_ne!(Metadata::inbox_id(&records[1]), Metadata::id_of_place(&records[1]));
}

/// A record that can't even be parked is held: it is not lost, and not tried again without a pause.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_parked_is_held() {
    let lab = Lab::new("unparkable").await;
    let records: Vec<Record> = ["fine", "unstorable", "fine", "undecodable"]
        .into_iter()
        .zip(0..)
        .map(|(payload, n)| lab.record(n, lab.event(&format!("order-{n}"), payload)))
        .collect();
    lab.alter("alter table dead_letters add constraint none check (class = '') not valid").await;
    let held = lab.processor().process(batch(records.clone())).await;
    assert!(matches!(held, Err(DatabaseError::Data(_))), "{held:?}");
    lab.alter("alter table dead_letters drop constraint none").await;
    lab.processor().process(batch(records)).await.expect("done");
    assert_eq!(lab.tally().await, (2, 0, 2));
    assert_eq!(lab.dead_letters().await.len(), 2);
}

/// A database that doesn't fit the program (here a table that is missing, as between two steps of an upgrade) is not
/// the fault of the records.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_fit_is_never_a_dead_letter() {
    let lab = Lab::new("unfit").await;
    let records: Vec<Record> = (0..5).map(|n| lab.record(n, lab.event("order", "fine"))).collect();
    for (breaks, repairs) in [
        ("alter table effects rename to other", "alter table other rename to effects"),
        ("alter table effects rename payload to other", "alter table effects rename other to payload"),
    ] {
        lab.alter(breaks).await;
        let held = lab.processor().process(batch(records.clone())).await;
        assert!(matches!(held, Err(DatabaseError::Schema(_))), "{breaks}: {held:?}");
        lab.alter(repairs).await;
    }
    lab.processor().process(batch(records)).await.expect("done");
    assert_eq!(lab.tally().await, (5, 0, 0));
}

/// Rows that are so old that no duplicate can arrive any more are purged; the rest stays.
#[tokio::test(flavor = "multi_thread")]
async fn only_old_inbox_rows_are_purged() {
    let lab = Lab::new("purge").await;
    let records = (0..3).map(|n| lab.record(n, lab.event("order", "1"))).collect();
    lab.processor().process(batch(records)).await.expect("done");
    sqlx::query(
        "update inbox set handled_at = now() - interval '15 days' where ctid = (select min(ctid) from inbox)",
    )
    .execute(&mut lab.connect().await)
    .await
    .expect("aged");
    assert_eq!(janitor::purge(&lab.database, &janitor::INBOX).await.expect("purged"), 1);
    assert_eq!(janitor::purge(&lab.database, &janitor::INBOX).await.expect("purged"), 0);
    assert_eq!(lab.count("select count(*) from inbox").await, 2);
}

/// Two members that both believe that they own a partition apply each event once.
#[tokio::test(flavor = "multi_thread")]
async fn two_owners_of_a_partition_apply_each_event_once() {
    let lab = Lab::new("zombie").await;
    let records: Vec<Record> =
        (0..200).map(|n| lab.record(n, lab.event(&format!("order-{}", n % 7), &format!("{n:03}")))).collect();
    let consume = |size: usize| {
        let (processor, records) = (lab.processor(), records.clone());
        tokio::spawn(async move {
            for chunk in records.chunks(size) {
                processor.process(batch(chunk.to_vec())).await.expect("done");
            }
        })
    };
    let (first, second) = (consume(13), consume(17));
    first.await.expect("done");
    second.await.expect("done");
    let effects = lab.effects().await;
    assert_eq!(effects.len(), 200);
    assert_eq!(lab.tally().await, (200, 0, 0));
    for subject in 0..7 {
        let of: Vec<&String> =
            effects.iter().filter(|(s, _)| *s == format!("order-{subject}")).map(|(_, p)| p).collect();
        assert!(of.is_sorted(), "order of {subject}: {of:?}");
    }
}

/// From Kafka and through restarts at any point: every record is applied once, and nothing is left over.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_repeat_nothing_and_lose_nothing() {
    let lab = Lab::new("restarts").await;
    let relay = lab.start_relay();
    let events = (0..300).map(|n| lab.event(&format!("order-{}", n % 5), &format!("{n:03}"))).collect();
    lab.write(events).await;

    // Killed without notice, again and again: offsets that were not committed are delivered again.
    for round in 1..4 {
        let member = lab.start_consumer();
        eventually("some are applied", || async { lab.tally().await.0 >= round * 20 }).await;
        member.kill().await;
    }
    let member = lab.start_consumer();
    reaches("all are applied", 300, || async { lab.tally().await.0 }).await;
    member.end().await;
    relay.end().await;
    assert_eq!(lab.effects().await.len(), 300);
    assert_eq!(lab.tally().await, (300, 0, 0));
}

/// While its database is stuck nothing is dead-lettered, and the consumer stays in its group and reports it; then it
/// continues on its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_absent_database_is_never_a_dead_letter() {
    let lab = Lab::new("away").await;
    let relay = lab.start_relay();
    let member = lab.start_consumer();
    lab.write(vec![lab.event("order", "1")]).await;
    eventually("the first is applied", || async { lab.tally().await.0 == 1 }).await;

    // Another session holds the inbox: each batch runs into the server's statement timeout or waits for it.
    let mut holder = lab.connect().await;
    sqlx::raw_sql(
        "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; begin; lock table inbox",
    )
    .execute(&mut holder)
    .await
    .expect("locked");
    lab.write(vec![lab.event("order", "2"), lab.event("order", "3")]).await;
    eventually("readiness says so", || async { !lab.health.components()["consumer"].ready }).await;
    sqlx::raw_sql("rollback").execute(&mut holder).await.expect("released");

    eventually("the others are applied", || async { lab.tally().await.0 == 3 }).await;
    eventually("readiness is back", || async { lab.health.components()["consumer"].ready }).await;
    assert_eq!(lab.dead_letters().await.len(), 0);
    member.end().await;
    relay.end().await;
}

/// A member that waits for its database loses its partitions and gets them back: the earlier pause must not last
/// (librdkafka keeps it with the partition, whoever owned it in between).
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_come_back_while_the_database_is_away_are_read() {
    const EVENTS: i64 = 40;
    let lab = Lab::new("comeback").await;
    let relay = lab.start_relay();
    lab.write((0..EVENTS).map(|n| lab.event(&format!("order-{n}"), "fine")).collect()).await;
    eventually("all are sent", || async { lab.count("select count(*) from outbox").await == 0 }).await;
    relay.end().await;

    lab.accept_connections(false).await;
    let member = lab.start_consumer();
    let waits = || async {
        let component = lab.health.components().remove("consumer").expect("registered");
        !component.ready && component.detail != "starting"
    };
    eventually("it waits for its database", waits).await;
    // One member joins and falls silent; when another one joins, all wait for the silent one, and have nothing.
    let silent = lab.raw_member(None).await;
    let newcomer = lab.raw_member(None).await;
    drop((silent, newcomer));

    lab.accept_connections(true).await;
    reaches("all are applied", EVENTS, || async { lab.tally().await.0 }).await;
    assert_eq!(lab.tally().await, (EVENTS, 0, 0));
    member.end().await;
}

/// A member that the broker ends for good, as it does when another one takes its instance id, joins again. (Otherwise
/// it would read on as long as it holds partitions, but never commit again nor get others.)
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_membership_is_replaced() {
    let mut lab = Lab::new("fenced").await;
    lab.kafka.instance_id = Some("1".to_owned());
    let relay = lab.start_relay();
    let member = lab.start_consumer();
    for round in 1..=3 {
        lab.write((0..10).map(|n| lab.event(&format!("order-{n}"), "fine")).collect()).await;
        eventually("all are applied", || async { lab.tally().await.0 == round * 10 }).await;
        // Takes the member's place, and is gone.
        drop(lab.raw_member(Some("1")).await);
    }
    eventually("it is a member again, and commits", || async { lab.committed() == 30 }).await;
    eventually("it is ready", || async { lab.health.components()["consumer"].ready }).await;
    member.end().await;
    relay.end().await;
    assert_eq!(lab.tally().await, (30, 0, 0));
}

/// A stream of nothing but poison stops the consumer at its limit: readiness reports it, the rest stays in the topic,
/// and once a record can be handled again the consumer continues on its own. Nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_poison_stops_the_consumer() {
    let mut lab = Lab::new("limit").await;
    lab.kafka.batch_events_max = 10;
    lab.kafka.dead_letters_in_a_row_max = 50;
    lab.kafka.dead_letter_pause = Duration::from_millis(50);
    let relay = lab.start_relay();
    // One key, so one partition, and the good ones are behind the bad ones.
    let poison =
        (0..80).map(|n| NewEvent { key: "one".to_owned(), ..lab.event(&format!("bad-{n}"), "poison") });
    lab.write(poison.collect()).await;
    let good = (0..20).map(|n| NewEvent { key: "one".to_owned(), ..lab.event(&format!("good-{n}"), "fine") });
    lab.write(good.collect()).await;

    let member = lab.start_consumer();
    eventually("it stops and says so", || async {
        let component = lab.health.components()["consumer"].clone();
        !component.ready && component.detail.contains("too many dead letters")
    })
    .await;
    let parked = lab.tally().await.2;
    assert!((50..70).contains(&parked), "{parked} parked when it stopped");
    // One bad record from time to time, until the good ones come; then all of them at once.
    eventually("it continues on its own", || async { lab.tally().await == (20, 0, 80) }).await;
    eventually("readiness is back", || async { lab.health.components()["consumer"].ready }).await;
    assert_eq!(lab.dead_letters().await.len(), 80);
    assert_eq!(lab.effects().await.len(), 20);
    member.end().await;
    relay.end().await;
}

/// What is left of an operator's allowance is seen while it is used up, and can be taken back: then the limit applies again, long before
/// all of it was used. Both are in the audit, with their numbers.
#[tokio::test(flavor = "multi_thread")]
async fn an_allowance_is_seen_and_taken_back() {
    const ALLOWED: u32 = 100_000;
    let mut lab = Lab::new("allowance").await;
    lab.kafka.batch_events_max = 10;
    lab.kafka.dead_letters_in_a_row_max = 50;
    // It doesn't resume on its own while this test runs.
    lab.kafka.dead_letter_pause = Duration::from_secs(3_600);
    let relay = lab.start_relay();
    let poison = |from: i64, to: i64| {
        (from..to)
            .map(|n| NewEvent { key: "one".to_owned(), ..lab.event(&format!("bad-{n}"), "poison") })
            .collect()
    };
    let stats = async || {
        let request = as_operator(pb::GetDeadLetterStatsRequest {});
        service(&lab).get_dead_letter_stats(request).await.expect("answered").into_inner()
    };
    let words = || ("known garbage".to_owned(), "alice".to_owned());
    let (reason, author) = words();
    let resume = pb::ResumeConsumersRequest { dead_letters_max: ALLOWED, reason, author };
    let (reason, author) = words();
    let end = pb::EndAllowancesRequest { reason, author };
    lab.write(poison(0, 100)).await;
    let member = lab.start_consumer();
    eventually("it is stopped", || async { stats().await.stops.len() == 1 }).await;
    let nothing = service(&lab).end_allowances(as_operator(end.clone())).await.expect_err("nothing is left");
    assert_eq!(nothing.code(), Code::FailedPrecondition);
    let before = lab.tally().await.2;
    service(&lab).resume_consumers(as_operator(resume)).await.expect("resumed");
    eventually("the rest is parked", || async { lab.tally().await.2 == 100 }).await;
    let used = (100 - before).unsigned_abs();
    eventually("what is left is known", || async {
        let allowances = stats().await.allowances;
        assert!(allowances.len() == 1 && allowances[0].allowed == u64::from(ALLOWED), "{allowances:?}");
        allowances[0].used == used
    })
    .await;

    let ended =
        service(&lab).end_allowances(as_operator(end.clone())).await.expect("ended").into_inner().ended;
    assert_eq!(ended.iter().map(|of| of.used).collect::<Vec<_>>(), [used]);
    assert!(stats().await.allowances.is_empty());
    let written = AtomicI64::new(100);
    eventually("the limit applies again", || async {
        let from = written.fetch_add(10, Ordering::Relaxed);
        lab.write(poison(from, from + 10)).await;
        stats().await.stops.len() == 1
    })
    .await;
    let again = service(&lab).end_allowances(as_operator(end)).await.expect_err("nothing is left");
    assert_eq!(again.code(), Code::FailedPrecondition);
    let request = pb::ListDeadLetterAuditRequest { page_size: 10, ..Default::default() };
    let audit =
        service(&lab).list_dead_letter_audit(as_operator(request)).await.expect("listed").into_inner();
    let entries: Vec<_> = audit.entries.iter().map(|of| (of.action.as_str(), of.detail.as_str())).collect();
    let parked = format!("known garbage: {used} of {ALLOWED} were parked");
    let allowed = format!("known garbage: {ALLOWED} more may be parked");
    assert_eq!(entries, [("end-allowance", parked.as_str()), ("resume", allowed.as_str())]);
    assert!(audit.entries.iter().all(|entry| entry.actor == "operator (alice)"), "{audit:?}");
    member.end().await;
    relay.end().await;
}

/// Several members of a group come and go while a poisoned stream runs: every record is applied or parked once, and each
/// subject keeps its order.
#[tokio::test(flavor = "multi_thread")]
async fn rebalances_under_load_lose_and_repeat_nothing() {
    const EVENTS: i64 = 600;
    let lab = Lab::new("rebalance").await;
    let relay = lab.start_relay();
    let mut members = vec![lab.start_consumer()];
    for round in 0..6 {
        let from = round * EVENTS / 6;
        let events = (from..from + EVENTS / 6)
            .map(|n| {
                // Every 50th is poison, and what comes for its subject waits behind it.
                let payload = if n % 50 == 7 { format!("poison {n:04}") } else { format!("{n:04}") };
                lab.event(&format!("subject-{}", n % 40), &payload)
            })
            .collect();
        lab.write(events).await;
        // One joins, or the oldest leaves: cleanly, or as if killed.
        if round % 2 == 0 {
            members.push(lab.start_consumer());
        } else {
            let member = members.remove(0);
            if round % 4 == 1 {
                member.end().await;
            } else {
                member.kill().await;
            }
        }
        eventually("some are done", || async {
            let (applied, _, parked) = lab.tally().await;
            applied + parked > from
        })
        .await;
    }
    reaches("all are done", EVENTS, || async {
        let (applied, _, parked) = lab.tally().await;
        applied + parked
    })
    .await;
    for member in members {
        member.end().await;
    }
    relay.end().await;
    let effects = lab.effects().await;
    let letters = lab.dead_letters().await;
    assert_eq!(i64::try_from(effects.len() + letters.len()).expect("few"), EVENTS);
    for subject in 0..40 {
        let name = format!("subject-{subject}");
        let of: Vec<&String> =
            effects.iter().filter(|(s, _)| *s == name).map(|(_, payload)| payload).collect();
        assert!(of.is_sorted(), "order of {name}: {of:?}");
    }
}

/// A caller that goes away at any point leaves no open transaction behind (pitfalls P12).
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_leaves_no_transaction_open() {
    let lab = Lab::new("cancelled").await;
    for micros in (0..4_000).step_by(40) {
        let processor = lab.processor();
        let record = lab.record(micros, lab.event("order", "1"));
        let call = async move { processor.process(batch(vec![record])).await };
        let _ =
            tokio::time::timeout(Duration::from_micros(u64::try_from(micros).expect("positive")), call).await;
    }
    eventually("no session is idle in a transaction", || async {
        lab.count(
            "select count(*) from pg_stat_activity
            where datname = current_database() and state like 'idle in transaction%'",
        )
        .await
            == 0
    })
    .await;
    // And no event is half done: its inbox row and its effect exist together; one statement sees one snapshot, so
    // transactions that are still finishing don't matter.
    let halves = lab.count("select (select count(*) from effects) - (select count(*) from inbox)").await;
    assert_eq!(halves, 0);
}
