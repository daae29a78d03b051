//! A consumer recovers on its own: every record ends, reading begins where the database says, and a member that makes
//! no progress is replaced. On real Kafka and PostgreSQL.

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use holdfast_common::{
    consumer::{PARKED_BYTES_MAX, runtime::PlantedFault},
    dead_letter::skip::{self, Skip, SkipError},
    deadline::Deadline,
    health::Health,
    record::{Header, Record},
};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use rdkafka::{
    ClientConfig,
    admin::{AdminOptions, NewPartitions},
    consumer::{BaseConsumer, CommitMode, Consumer as _},
};
use support::{Lab, PATIENCE, eventually};
use tokio::sync::mpsc;
use uuid::Uuid;

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// A record that is no event at all.
fn bare(lab: &Lab, value: &str) -> Record {
    Record {
        topic: lab.topic.to_owned(),
        partition: 0,
        offset: 0,
        timestamp_ms: Some(1_800_000_000_000),
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Vec::new(),
        headers_unreadable: false,
    }
}

async fn handles(lab: &Lab, payload: &str) {
    lab.write(vec![lab.event("probe", payload)]).await;
    eventually(&format!("{payload} is handled"), || async {
        lab.effects().await.iter().any(|(_, handled)| handled == payload)
    })
    .await;
}

/// Records of every codec are handled: a writer with the defaults of a common client must not stop a partition.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_every_codec_are_handled() {
    let lab = Lab::new("codecs").await;
    let consumer = lab.start_consumer();
    for codec in CODECS {
        let record = lab.record(0, lab.event("order", codec));
        lab.send(1, &record, &[("compression.codec", codec)]).await;
    }
    eventually("all are handled", || async { lab.effects().await.len() == CODECS.len() }).await;
    consumer.end().await;
}

/// A record that is too large to be kept, as a compressed batch may hold, is set aside by its place; those after it are
/// handled.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_to_be_kept_is_set_aside() {
    let lab = Lab::new("large").await;
    let consumer = lab.start_consumer();
    let settings = [("compression.codec", "zstd"), ("message.max.bytes", "10000000")];
    let large = bare(&lab, &"0".repeat(PARKED_BYTES_MAX + 1));
    lab.send(0, &large, &settings).await;
    let fits = bare(&lab, &"0".repeat(PARKED_BYTES_MAX - 1));
    lab.send(0, &fits, &settings).await;
    lab.send(0, &lab.record(0, lab.event("order", "behind")), &[]).await;
    eventually("what is behind is handled", || async { lab.effects().await.len() == 1 }).await;
    assert_eq!(lab.tally().await, (1, 0, 1));
    assert_eq!(lab.set_aside().await, 1);
    let row = lab
        .count(
            "select size_bytes from dead_letters where state = 'set-aside' and record_offset = 0
            and value is null and octet_length(payload_hash) = 32",
        )
        .await;
    assert_eq!(row, i64::try_from(large.size_bytes()).expect("fits"));
    assert_eq!(lab.count("select count(*) from outbox").await, 1, "a copy of what was kept, and no other");
    consumer.end().await;
}

/// A subject that is too long for an index entry is parked like any other bad header.
#[tokio::test(flavor = "multi_thread")]
async fn a_subject_of_any_length_is_parked() {
    let lab = Lab::new("subject").await;
    // Random, because PostgreSQL compresses what repeats.
    let subject: String = std::iter::repeat_with(fastrand::alphanumeric).take(30_000).collect();
    let records: Arc<[Record]> =
        [lab.record(0, lab.event(&subject, "x")), lab.record(1, lab.event("order", "fine"))].into();
    lab.processor().process(records).await.expect("ends");
    assert_eq!(lab.tally().await, (1, 0, 1));
    assert_eq!(lab.set_aside().await, 0);
}

/// A record that the database refuses to park for a reason in the record is set aside by its place, and nothing waits
/// behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_database_does_not_take_is_set_aside() {
    let lab = Lab::new("refused").await;
    lab.alter("alter table dead_letters add constraint refuse check (key is distinct from 'cursed'::bytea)")
        .await;
    let records: Arc<[Record]> = [
        lab.record(0, lab.event("cursed", "undecodable")),
        lab.record(1, lab.event("cursed", "fine")),
        lab.record(2, lab.event("other", "undecodable")),
    ]
    .into();
    lab.processor().process(records.clone()).await.expect("ends");
    assert_eq!((lab.tally().await, lab.set_aside().await), ((1, 0, 1), 1));
    // Delivered again, as after a crash: it ended once.
    lab.processor().process(records).await.expect("ends");
    assert_eq!((lab.tally().await, lab.set_aside().await), ((1, 0, 1), 1));
}

/// Whatever bytes a record is made of, it ends: applied, duplicate, parked or set aside.
#[tokio::test(flavor = "multi_thread")]
async fn any_record_ends() {
    let lab = Lab::new("any").await;
    let processor = lab.processor();
    let bytes = |max| prop::option::of(prop::collection::vec(any::<u8>(), 0..max));
    let good = lab.event("order", "fine").headers("test");
    let name = prop_oneof![
        Just("ce_id".to_owned()),
        Just("ce_subject".to_owned()),
        Just("ce_type".to_owned()),
        ".{0,40}"
    ];
    let value = prop_oneof![
        bytes(64),
        ".{0,4000}".prop_map(|text| Some(text.into_bytes())),
        Just(Some(Uuid::now_v7().to_string().into_bytes())),
        Just(Some(vec![0; 3])),
    ];
    let strategy = (bytes(3000), bytes(3000), prop::collection::vec((name, value), 0..6), any::<bool>());
    let mut runner = TestRunner::new(Config::default());
    let mut records: i64 = 0;
    while records < 300 {
        let mut batch = Vec::new();
        for _ in 0..20 {
            let (key, value, headers, is_based_on_good) =
                strategy.new_tree(&mut runner).expect("a record").current();
            let mut all = if is_based_on_good { good.clone() } else { Vec::new() };
            for (name, value) in headers {
                all.retain(|header| header.name != name);
                all.push(Header { name, value: value.map(Bytes::from) });
            }
            let record = Record {
                offset: records,
                key: key.map(Bytes::from),
                value: value.map(Bytes::from),
                headers: all,
                ..bare(&lab, "")
            };
            batch.push(record);
            records += 1;
        }
        processor.process(batch.clone().into()).await.unwrap_or_else(|error| panic!("{error:?}: {batch:?}"));
        let (applied, duplicates, parked) = lab.tally().await;
        assert_eq!(applied + duplicates + parked + lab.set_aside().await, records, "{batch:?}");
    }
}

/// A foreign member of the group reads for a while and commits: what it read is handled all the same once it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_a_stranger_commits_skip_nothing() {
    let lab = Lab::new("stranger").await;
    let relay = lab.start_relay();
    let consumer = lab.start_consumer();
    handles(&lab, "before").await;
    consumer.end().await;
    lab.write((0..40).map(|n| lab.event(&format!("order-{n}"), "meanwhile")).collect()).await;
    let (brokers, group, topic) = (lab.kafka.brokers.clone(), lab.group, lab.topic);
    tokio::task::spawn_blocking(move || {
        let stranger: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .create()
            .expect("a consumer");
        stranger.subscribe(&[topic]).expect("subscribed");
        let (mut read, until) = (0, std::time::Instant::now() + PATIENCE);
        while read < 40 {
            assert!(std::time::Instant::now() < until, "only {read} records came");
            // A poll also returns without a record while the group is being formed.
            if let Some(message) = stranger.poll(Duration::from_millis(100)) {
                stranger.commit_message(&message.expect("a record"), CommitMode::Sync).expect("committed");
                read += 1;
            }
        }
    })
    .await
    .expect("read");
    let consumer = lab.start_consumer();
    eventually("all are handled", || async { lab.effects().await.len() == 41 }).await;
    assert_eq!(lab.tally().await, (41, 0, 0));
    consumer.end().await;
    relay.end().await;
}

/// After a restore of the database from a backup, the records whose effects are missing are read again.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_reads_what_it_misses() {
    let lab = Lab::new("restored").await;
    let relay = lab.start_relay();
    let consumer = lab.start_consumer();
    for payload in ["one", "two", "three"] {
        handles(&lab, payload).await;
    }
    consumer.end().await;
    // As it was before "two" and "three".
    lab.alter("delete from effects where payload <> 'one'; delete from inbox where handled_at > (select min(handled_at) from inbox)").await;
    lab.alter(
        "update consumer_positions set applied = least(applied, 1), last_event_id = (select event_id from inbox),
            next_offset = least(next_offset, 1)",
    )
    .await;
    let consumer = lab.start_consumer();
    eventually("all are handled", || async { lab.effects().await.len() == 3 }).await;
    assert_eq!(lab.tally().await, (3, 0, 0));
    consumer.end().await;
    relay.end().await;
}

/// A topic that is deleted and recreated is read from its beginning, while the consumer runs and after a restart; a bad
/// record in the place of an earlier bad record is parked, and the tally is exact.
#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_topic_is_read_from_its_beginning() {
    let lab = Lab::new("remade").await;
    let consumer = lab.start_consumer();
    for n in 0..8 {
        lab.send(0, &bare(&lab, &format!("first {n}")), &[]).await;
    }
    eventually("all are parked", || async { lab.tally().await == (0, 0, 8) }).await;
    lab.remake_topic().await;
    for n in 0..3 {
        lab.send(0, &bare(&lab, &format!("second {n}")), &[]).await;
    }
    eventually("those of the new topic too", || async { lab.tally().await == (0, 0, 11) }).await;
    consumer.end().await;
    // Now while nobody reads, and the new log grows past the old position.
    lab.remake_topic().await;
    for n in 0..20 {
        lab.send(0, &bare(&lab, &format!("third {n}")), &[]).await;
    }
    let consumer = lab.start_consumer();
    eventually("none is skipped", || async { lab.tally().await == (0, 0, 31) }).await;
    consumer.end().await;
}

/// A batch that no client can read (its codec does not exist) does not end one membership after another: the consumer
/// names it in readiness, keeps reading the other partitions, and continues after it once an operator skips it.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_named_and_can_be_skipped() {
    let lab = Lab::new("unreadable").await;
    for payload in ["before", "broken", "behind"] {
        lab.send(0, &lab.record(0, lab.event("order", payload)), &[]).await;
    }
    lab.break_batch(1);
    let consumer = lab.start_consumer();
    let detail = || lab.health.components()["consumer"].detail.clone();
    let named = format!("cannot read {}-0 at offset 1", lab.topic);
    eventually("it is named", || async { detail().contains(&named) }).await;
    lab.send(1, &lab.record(0, lab.event("neighbour", "beside")), &[]).await;
    eventually("its neighbours are handled", || async { lab.effects().await.len() == 2 }).await;
    let skip = |offset| Skip {
        topic: lab.topic.to_owned(),
        partition: 0,
        offset,
        records: 1,
        actor: "operator (tester)".to_owned(),
        reason: "broken disk".to_owned(),
    };
    let elsewhere = skip::skip(&lab.database, lab.group, Deadline::after(PATIENCE), skip(2)).await;
    assert!(matches!(elsewhere, Err(SkipError::Position { position: 1 })), "{elsewhere:?}");
    skip::skip(&lab.database, lab.group, Deadline::after(PATIENCE), skip(1)).await.expect("skipped");
    eventually("what is behind is handled", || async { lab.effects().await.len() == 3 }).await;
    eventually("it is ready again", || async { lab.health.components()["consumer"].ready }).await;
    assert_eq!((lab.tally().await, lab.set_aside().await), ((3, 0, 0), 1));
    assert_eq!(lab.count("select count(*) from dead_letter_audit where action = 'skip'").await, 1);
    consumer.end().await;
}

/// Partitions that appear after the subscription are read within seconds.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_appear_later_are_read() {
    let lab = Lab::new("later").await;
    let consumer = lab.start_consumer();
    lab.send(0, &lab.record(0, lab.event("order", "before")), &[]).await;
    eventually("it reads", || async { lab.effects().await.len() == 1 }).await;
    let more = NewPartitions::new(lab.topic, 4);
    let added = lab.admin().create_partitions([&more], &AdminOptions::new()).await.expect("answers");
    for added in added {
        added.expect("added");
    }
    for partition in 0..4 {
        lab.send(partition, &lab.record(0, lab.event("order", "after")), &[]).await;
    }
    eventually("all are handled", || async { lab.effects().await.len() == 5 }).await;
    consumer.end().await;
}

/// A member is ready when the group has said what it reads, and not because others read everything; one that has nothing to read, because
/// there are more members than partitions, is ready too.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_ready_when_it_knows_what_it_reads() {
    const PARTITIONS: usize = 2;
    let lab = Lab::new("assigned").await;
    let state = |health: &Health| health.components()["consumer"].clone();
    let (_, no_faults) = mpsc::channel(1);
    let reader = lab.start_member(&lab.health, no_faults);
    eventually("it is ready", || async { state(&lab.health).ready }).await;

    // It leaves before it gets anything, and the other one owns everything: nothing looks wrong.
    let (faults, planted) = mpsc::channel(1);
    faults.send(PlantedFault::Leave).await.expect("taken");
    let health = Health::default();
    let outsider = lab.start_member(&health, planted);
    // It looks at what the broker says each second; a slow machine shows less, and nothing that is not so.
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let outside = state(&health);
        assert!(!outside.ready, "{outside:?}");
    }
    assert!(state(&lab.health).ready);
    outsider.end().await;

    let healths: Vec<Health> = (0..PARTITIONS).map(|_| Health::default()).collect();
    let surplus = healths.iter().map(|health| lab.start_member(health, mpsc::channel(1).1));
    let surplus: Vec<_> = surplus.collect();
    for health in healths.iter().chain([&lab.health]) {
        eventually("each is ready", || async { state(health).ready }).await;
    }
    for member in surplus {
        member.end().await;
    }
    reader.end().await;
}

/// A member that leaves its group unnoticed, and one whose partitions stay paused, become degraded and are replaced;
/// what arrives meanwhile is handled.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_makes_no_progress_is_replaced() {
    for fault in [PlantedFault::Leave, PlantedFault::Hold] {
        let lab = Lab::new("stalled").await;
        let relay = lab.start_relay();
        let (faults, planted) = mpsc::channel(1);
        let consumer = lab.start_faulty_consumer(planted);
        handles(&lab, "before").await;
        let state = || lab.health.components()["consumer"].clone();
        eventually("it is ready", || async { state().ready }).await;
        faults.send(fault).await.expect("taken");
        // Long enough that the fault shows before it is repaired.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        lab.write((0..20).map(|n| lab.event(&format!("order-{n}"), "meanwhile")).collect()).await;
        eventually(&format!("it says so after {fault:?}"), || async { !state().ready }).await;
        assert!(lab.effects().await.len() <= 2, "nothing was read in the meantime: {fault:?}");
        eventually("all are handled", || async { lab.effects().await.len() == 21 }).await;
        eventually("it is ready again", || async { state().ready }).await;
        assert_eq!(lab.tally().await, (21, 0, 0));
        consumer.end().await;
        relay.end().await;
    }
}
