//! Ten times the load that can be sustained, from many users: what is still done, how fast, and how soon the rest is told no.
//! Requests are due at fixed times, whoever is still waiting (open loop), and their time counts from then.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use holdfast_chaos::rest::sample_order;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, interval},
};

use crate::{
    edge::Edge,
    gateway::{BEHIND_A_PROXY, Server},
    honest::{Seen, summary},
    http::{self, exchange},
    row::phase,
};

const USERS: usize = 1_000;
/// Fewer than the gateway has places; more requests than that wait, and their waiting counts.
const CONNECTIONS_MAX: usize = 1_800;
/// What is slower is not sustained.
const SUSTAINED_TIME_MAX_MS: f64 = 250.0;
const REFUSED_MS_MAX: f64 = 50.0;

/// One answer.
#[derive(Debug, Clone, Copy)]
struct Answer {
    due: Instant,
    took: Duration,
    /// 0 if there was none.
    status: u16,
}

/// What came of a load.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    done_per_second: f64,
    done: Seen,
    refused: Seen,
    /// Neither done nor refused with 429 or 503.
    lost: usize,
    sent: usize,
}

/// Requests of many users, and the connections that they share.
struct Load {
    server: Arc<Server>,
    requests: Vec<Bytes>,
    idle: Mutex<Vec<TcpStream>>,
    places: Arc<Semaphore>,
}

impl Load {
    async fn send(self: Arc<Self>, number: usize, due: Instant) -> Answer {
        let request = &self.requests[number % self.requests.len()];
        let place = self.places.acquire().await;
        let status = self.ask(number, request).await.unwrap_or(0);
        drop(place);
        Answer { due, took: due.elapsed(), status }
    }

    async fn ask(&self, number: usize, request: &Bytes) -> std::io::Result<u16> {
        let idle = self.idle().pop();
        let mut stream = if let Some(stream) = idle {
            stream
        } else {
            let host = u8::try_from(number % 200).unwrap_or_default();
            self.server.connect(Ipv4Addr::new(127, 0, 2, 2 + host)).await?
        };
        let reply = exchange(&mut stream, request).await?;
        if reply.is_open {
            self.idle().push(stream);
        }
        Ok(reply.status)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests at this rate for some time, and all of their answers.
    async fn open_loop(self: &Arc<Self>, rate: f64, time: Duration) -> Vec<Answer> {
        let (begin, mut tick) = (Instant::now(), interval(Duration::from_millis(2)));
        let (mut running, mut answers, mut sent) = (JoinSet::new(), Vec::new(), 0_usize);
        while begin.elapsed() < time {
            tick.tick().await;
            while begin + Duration::from_secs_f64(count(sent) / rate) <= Instant::now() {
                let due = begin + Duration::from_secs_f64(count(sent) / rate);
                running.spawn(self.clone().send(sent, due));
                sent += 1;
            }
            while let Some(Ok(answer)) = running.try_join_next() {
                answers.push(answer);
            }
        }
        answers.extend(running.join_all().await);
        answers
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

fn outcome(answers: &[Answer], time: Duration) -> Outcome {
    let times = |is: fn(u16) -> bool| {
        answers.iter().filter(|answer| is(answer.status)).map(|answer| answer.took).collect::<Vec<_>>()
    };
    let mut done = times(|status| (200..300).contains(&status));
    let mut refused = times(|status| status == 429 || status == 503);
    let lost = answers.len() - done.len() - refused.len();
    let done_per_second = count(done.len()) / time.as_secs_f64();
    Outcome {
        done_per_second,
        done: summary(&mut done, 0),
        refused: summary(&mut refused, 0),
        lost,
        sent: answers.len(),
    }
}

pub(crate) async fn measure(edge: &Edge) -> Result<()> {
    let mut bodies = Vec::new();
    let mut mixed = Vec::new();
    let order = sample_order("1 Quay Street", 1).to_string();
    for number in 0..USERS {
        let token = edge.token(&format!("many-{number}"))?;
        bodies.push(http::post("/api/orders", &token, &order));
        // Four of five read.
        mixed.push(if number % 5 == 0 {
            http::post("/api/orders", &token, &order)
        } else {
            http::get("/api/orders?limit=5", &token)
        });
    }
    measure_load(edge, "POST", bodies).await?;
    measure_load(edge, "one POST to four GET", mixed).await
}

async fn measure_load(edge: &Edge, name: &str, requests: Vec<Bytes>) -> Result<()> {
    let server = Arc::new(Server::gateway(&edge.world.stack.layout, BEHIND_A_PROXY).await?);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let load = Arc::new(Load { server: server.clone(), requests, idle: Mutex::default(), places });
    // Connections, statements, and tokens that were never seen.
    load.open_loop(100.0, Duration::from_secs(3)).await;
    load.open_loop(300.0, Duration::from_secs(3)).await;
    let (capacity, sustained) = sustainable(&load).await;
    eprintln!("{name}: {capacity:.0}/s are sustained, p99 {:.1} ms", sustained.done.p99_ms);

    let time = phase() * 4;
    let cpu_before = (server.usage()?.cpu, own_cpu());
    let over = outcome(&load.open_loop(capacity * 10.0, time).await, time);
    let cpu = (server.usage()?.cpu.saturating_sub(cpu_before.0), own_cpu().saturating_sub(cpu_before.1));
    let recovered = recovery(&load, capacity, sustained.done.p99_ms).await;

    let goodput = over.done_per_second / capacity * 100.0;
    let is_met = goodput >= 80.0
        && over.done.p99_ms <= sustained.done.p99_ms * 2.0
        && over.refused.p99_ms <= REFUSED_MS_MAX
        && over.lost == 0
        && recovered.is_some_and(|time| time <= Duration::from_secs(5));
    println!(
        "| overload, {name} | {capacity:.0}/s are sustained, p50 {:.1}, p99 {:.1} ms; at ten times that, {} s: {:.0}/s ({goodput:.0} %) done, \
         p50 {:.1}, p99 {:.1} ms; {} of {} refused, p50 {:.1}, p99 {:.1} ms; {} lost; cores: gateway {:.2}, load {:.2} | {} | as before after {} \
         | 80 %, 2x, 50 ms, 5 s | {} |",
        sustained.done.p50_ms,
        sustained.done.p99_ms,
        time.as_secs(),
        over.done_per_second,
        over.done.p50_ms,
        over.done.p99_ms,
        over.refused.count,
        over.sent,
        over.refused.p50_ms,
        over.refused.p99_ms,
        over.lost,
        cpu.0.as_secs_f64() / time.as_secs_f64(),
        cpu.1.as_secs_f64() / time.as_secs_f64(),
        server.megabytes(),
        recovered.map_or("more than 15 s".to_owned(), |time| format!("{:.1} s", time.as_secs_f64())),
        if is_met { "met" } else { "**missed**" },
    );
    Ok(())
}

/// What the load costs: the time of this process, without that of the servers that it has started.
fn own_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // proc(5): utime and stime are fields 14 and 15, in hundredths of a second; what follows the name begins with field 3.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    Duration::from_millis(fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10)
}

/// The highest rate of those that are tried at which nothing is refused and 99 of 100 are answered in time.
async fn sustainable(load: &Arc<Load>) -> (f64, Outcome) {
    let time = phase() / 2;
    let mut best = (100.0, outcome(&load.open_loop(100.0, time).await, time));
    let mut step = 2.0;
    let mut rate = 200.0;
    // Twice as much until it is too much, then smaller steps from the last one that was not.
    while step > 1.1 {
        let tried = outcome(&load.open_loop(rate, time).await, time);
        let is_sustained = count(tried.done.count) >= count(tried.sent) * 0.995
            && tried.done.p99_ms <= SUSTAINED_TIME_MAX_MS;
        eprintln!(
            "{rate:.0}/s: {:.0}/s done, p99 {:.1} ms, {} refused, {} lost",
            tried.done_per_second, tried.done.p99_ms, tried.refused.count, tried.lost
        );
        if is_sustained {
            best = (rate, tried);
        } else {
            step = f64::sqrt(step);
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        rate = best.0 * step;
    }
    best
}

/// When a second of half the capacity is as it was before; `None` if not within 15 s.
async fn recovery(load: &Arc<Load>, capacity: f64, p99_ms: f64) -> Option<Duration> {
    let begin = Instant::now();
    let second = Duration::from_secs(1);
    let answers = load.open_loop(capacity / 2.0, second * 15).await;
    (0..15_u32).map(|number| begin + second * number).find_map(|from| {
        let of_second: Vec<_> =
            answers.iter().filter(|answer| (from..from + second).contains(&answer.due)).copied().collect();
        let seen = outcome(&of_second, second);
        let is_well = seen.refused.count == 0 && seen.lost == 0 && seen.done.p99_ms <= p99_ms * 2.0;
        is_well.then_some(from - begin)
    })
}
