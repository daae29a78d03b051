//! The consumer's throughput, with single events and with batches, with and without poison. Real Kafka and PostgreSQL.
//!
//! `cargo build --release -p holdfast && cargo bench -p holdfast-common --bench consumer`; compare lines of one run. CPU
//! is that of this process (the consumer), not of the servers.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program that prints figures"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use holdfast_common::{kafka::QuietContext, record::Header};
use rdkafka::{
    message::{Header as KafkaHeader, OwnedHeaders},
    producer::{FutureRecord, Producer as _},
};
use support::Lab;

const EVENTS: usize = 6_000;
/// Rounds of the neighbours, alternately alone and beside poison: the p99 of a single second is mostly noise.
const ROUNDS: usize = 9;

/// User and system time of this process, in seconds (proc(5), fields 14 and 15, in ticks of 10 ms).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks =
        |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

fn headers(headers: &[Header]) -> OwnedHeaders {
    headers.iter().fold(OwnedHeaders::new(), |all, Header { name, value }| {
        all.insert(KafkaHeader { key: name, value: value.as_deref() })
    })
}

/// Puts the events into the topic; every `poison_every`th can't be handled.
fn produce(lab: &Lab, poison_every: Option<usize>) {
    let producer = lab.brokers().producer(QuietContext::default()).expect("a producer");
    for n in 0..EVENTS {
        let poison = poison_every.is_some_and(|every| n % every == every / 2);
        let event = lab.event(&format!("subject-{n}"), if poison { "poison" } else { "fine" });
        let headers = headers(&event.headers("bench"));
        let mut record = FutureRecord::to(lab.topic).key(&event.key).payload(&event.payload).headers(headers);
        loop {
            match producer.send_result(record) {
                // The flush waits for the reports of all of them.
                Ok(_) => break,
                Err((_, again)) => {
                    record = again;
                    std::thread::yield_now();
                }
            }
        }
    }
    producer.flush(Duration::from_secs(60)).expect("flushed");
}

async fn measure(batch: usize, poison_every: Option<usize>) {
    let mut lab = Lab::new("bench").await;
    lab.kafka.batch_events_max = batch;
    produce(&lab, poison_every);
    let member = lab.start_consumer();
    // From the first event on: joining a group takes seconds.
    while lab.tally().await.0 == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let first = lab.tally().await;
    let (begin, cpu) = (Instant::now(), cpu_seconds());
    let done = loop {
        let (applied, _, parked) = lab.tally().await;
        if applied + parked >= i64::try_from(EVENTS).unwrap_or(i64::MAX) {
            break applied + parked - first.0 - first.2;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let (wall, cpu) = (begin.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    member.end().await;
    let poison = poison_every.map_or(0.0, |every| 100.0 / every as f64);
    println!(
        "batch {batch:>3}, {poison:>4.0} % poison: {:>7.0} events/s, {:>7.0} events per CPU-second",
        done as f64 / wall,
        done as f64 / cpu.max(0.01)
    );
}

/// p99 in milliseconds from the writing of an event to its effect, over 1,000 events at 200 a second, alone or beside
/// an order whose second of five events is poison.
async fn neighbours(poisoned: Poisoned) -> f64 {
    let lab = Lab::new("neighbours").await;
    let member = lab.start_consumer();
    let producer = lab.brokers().producer(QuietContext::default()).expect("a producer");
    let send = async |subject: &str, payload: &str| {
        let event = lab.event(subject, payload);
        let headers = headers(&event.headers("bench"));
        let record = FutureRecord::to(lab.topic).key(&event.key).payload(&event.payload).headers(headers);
        producer.send(record, Duration::from_secs(10)).await.expect("acknowledged");
    };
    send("first", "warm").await;
    while lab.tally().await.0 == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    for n in 0..1_000 {
        tick.tick().await;
        if poisoned == Poisoned::One && n % 200 == 100 {
            send("order", if n == 300 { "poison" } else { "warm" }).await;
        }
        let micros = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000;
        send(&format!("subject-{n}"), &format!("fine {micros}")).await;
    }
    while lab.count("select count(*) from effects where payload like 'fine%'").await < 1_000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    member.end().await;
    let p99_us = lab
        .count(
            "select percentile_cont(0.99) within group (
                order by extract(epoch from at)::float8 * 1e6 - split_part(payload, ' ', 2)::float8
            )::bigint from effects where payload like 'fine%'",
        )
        .await;
    p99_us as f64 / 1_000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Poisoned {
    None,
    One,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            alone.push(neighbours(Poisoned::None).await);
            beside.push(neighbours(Poisoned::One).await);
        }
        println!(
            "neighbours, p99 in ms of each round, alone: {alone:.1?}; beside a poisoned order: {beside:.1?}"
        );
        let (alone, beside) = (median(alone), median(beside));
        println!(
            "neighbours, median: {alone:.1} ms alone, {beside:.1} ms beside, ratio {:.2}",
            beside / alone
        );
        for batch in [1, 100] {
            for poison_every in [None, Some(100), Some(10)] {
                measure(batch, poison_every).await;
            }
        }
    });
}
