//! The figures of `make bench`: latency of `POST`, time until PAID, orders per second until the saga is complete, CPU
//! time and memory.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use comfy_table::{Table, presets::UTF8_BORDERS_ONLY};
use hdrhistogram::Histogram;
use holdfast_native::say;
use http::StatusCode;
use serde::Serialize;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use uuid::Uuid;

use crate::{
    events::EventStream,
    load::{self, Plan},
    process::{self, Process, Usage},
    rest::{Rest, Session, is_terminal, sample_order},
    spans::SpanCounter,
};

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Users that the load is spread over.
    pub users: usize,
    /// Length of each latency phase.
    pub phase: Duration,
    /// Orders per second of the phase with 32 clients.
    pub rate: f64,
    /// Orders of the throughput phase.
    pub orders: u64,
    /// Where to receive the spans of the services meanwhile.
    pub receive_traces: Option<SocketAddr>,
}

/// Clients of the second latency phase and of the throughput phase.
const CLIENTS: usize = 32;
/// Orders per second of the phase with one client: far apart, so that each finds the stack idle.
const IDLE_RATE: f64 = 10.0;
const PAID_TIME_MAX: Duration = Duration::from_secs(30);
const COMPLETE_TIME_MAX: Duration = Duration::from_secs(120);

/// Latency of many requests, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

/// A phase with a fixed rate.
#[derive(Debug, Clone, Serialize)]
pub struct LatencyPhase {
    /// Requests in flight at most.
    pub clients: usize,
    /// Orders per second.
    pub rate: f64,
    /// From when the request was due to its answer.
    pub post: Latency,
    /// From when the request was due until the user's stream said that the order is PAID.
    pub post_to_paid: Latency,
}

/// As many orders as the stack takes.
#[derive(Debug, Clone, Serialize)]
pub struct ThroughputPhase {
    /// Requests in flight at most.
    pub clients: usize,
    /// Orders created.
    pub orders: u64,
    /// Orders per second accepted.
    pub accepted_per_second: f64,
    /// Orders per second until the last one was PAID.
    pub paid_per_second: f64,
    /// Orders per second until the last saga was complete, the configured time of its delivery taken off.
    pub complete_per_second: f64,
    /// CPU milliseconds of our services, replicas included, per order.
    pub service_cpu_ms_per_order: f64,
    /// CPU seconds in this phase, by component.
    pub cpu_seconds: BTreeMap<String, f64>,
    /// Spans received per order, if they are received here.
    pub spans_per_order: Option<f64>,
}

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// One client, idle stack.
    pub idle: LatencyPhase,
    /// Many clients.
    pub loaded: LatencyPhase,
    /// As fast as it goes.
    pub throughput: ThroughputPhase,
    /// Share of one core that the idle stack uses, all components together.
    pub idle_cpu_cores: f64,
    /// Bytes of the idle stack before the load, by component.
    pub idle_memory_bytes: BTreeMap<String, u64>,
    /// Bytes of the whole stack before the load.
    pub idle_memory_total_bytes: u64,
    /// The most bytes of the whole stack that were seen under load.
    pub peak_memory_total_bytes: u64,
}

/// Runs all phases. `delivery_time` is the configured time of a delivery from first to last status.
pub async fn run(
    rest: Rest,
    processes: Vec<Process>,
    options: Options,
    delivery_time: Duration,
) -> Result<Report> {
    let spans = options.receive_traces.map(SpanCounter::listen).transpose()?;
    say!("idle stack: 5 s");
    let before = process::usage(&processes)?;
    sleep(Duration::from_secs(5)).await;
    let after = process::usage(&processes)?;
    let idle_cpu_cores = cpu_between(&before, &after).values().sum::<f64>() / 5.0;
    let idle_memory_bytes: BTreeMap<String, u64> =
        after.iter().map(|(name, usage)| (name.clone(), usage.memory_bytes)).collect();

    let peak = Arc::new(Mutex::new(0));
    let sampler = tokio::spawn(sample_memory(processes.clone(), peak.clone()));

    let sessions = open_accounts(&rest, options.users).await?;
    let paid = Arc::new(PaidOrders::default());
    let streams = paid.follow(&sessions).await?;
    // The first requests pay for connections and prepared statements; users of a running system don't.
    latency(&sessions, &paid, 1, 20.0, Duration::from_secs(2)).await?;
    say!("1 client: {} s at {IDLE_RATE} orders/s", options.phase.as_secs());
    let idle = latency(&sessions, &paid, 1, IDLE_RATE, options.phase).await?;
    say!("{CLIENTS} clients: {} s at {} orders/s", options.phase.as_secs(), options.rate);
    let loaded = latency(&sessions, &paid, CLIENTS, options.rate, options.phase).await?;
    drop(streams);
    say!("{CLIENTS} clients: {} orders as fast as it goes", options.orders);
    let throughput = throughput(&sessions, &processes, options.orders, delivery_time, spans.as_ref()).await?;

    sampler.abort();
    let peak_memory_total_bytes = *peak.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Report {
        idle,
        loaded,
        throughput,
        idle_cpu_cores,
        idle_memory_total_bytes: idle_memory_bytes.values().sum(),
        idle_memory_bytes,
        peak_memory_total_bytes,
    })
}

async fn sample_memory(processes: Vec<Process>, peak: Arc<Mutex<u64>>) {
    loop {
        if let Ok(usage) = process::usage(&processes) {
            let total: u64 = usage.values().map(|usage| usage.memory_bytes).sum();
            let mut peak = peak.lock().unwrap_or_else(PoisonError::into_inner);
            *peak = total.max(*peak);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Users of this run, each with money for all its orders.
async fn open_accounts(rest: &Rest, users: usize) -> Result<Arc<[Session]>> {
    let run = Uuid::now_v7().simple().to_string();
    let mut sessions = Vec::with_capacity(users);
    for number in 0..users {
        let user = format!("bench-{run}-{number}");
        rest.credit(&user, "1000000.00", &user).await?;
        sessions.push(rest.user(&user)?);
    }
    Ok(sessions.into())
}

/// When the streams said of each order that it is PAID.
#[derive(Debug, Default)]
struct PaidOrders {
    seen: Mutex<HashMap<String, Instant>>,
    changed: Notify,
}

impl PaidOrders {
    /// Follows all orders of all users, until the answer is dropped. Nothing is asked again and again, so watching costs what is
    /// watched next to nothing.
    async fn follow(self: &Arc<Self>, sessions: &[Session]) -> Result<JoinSet<Result<()>>> {
        let mut streams = JoinSet::new();
        for session in sessions {
            let stream = session.watch(None).await?;
            streams.spawn(self.clone().read(stream));
        }
        Ok(streams)
    }

    async fn read(self: Arc<Self>, mut stream: EventStream) -> Result<()> {
        while let Some(order) = stream.next_order().await? {
            if order["status"] == "PAID"
                && let Some(order_id) = order["order_id"].as_str()
            {
                self.lock().entry(order_id.to_owned()).or_insert_with(Instant::now);
                self.changed.notify_waiters();
            }
        }
        Ok(())
    }

    /// Waits for an order that was due at this time.
    async fn when(&self, order_id: &str, due: Instant) -> Result<Instant> {
        let until = due + PAID_TIME_MAX;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(at) = self.lock().remove(order_id) {
                return Ok(at);
            }
            if timeout_at(until, changed).await.is_err() {
                bail!("order {order_id} was not PAID within {} s", PAID_TIME_MAX.as_secs())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn latency(
    sessions: &Arc<[Session]>,
    paid: &PaidOrders,
    clients: usize,
    rate: f64,
    phase: Duration,
) -> Result<LatencyPhase> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive count")]
    let requests = (rate * phase.as_secs_f64()).ceil() as u64;
    let users = sessions.clone();
    let posts = load::open_loop(Plan { rate, requests, clients }, move |number, due| {
        let users = users.clone();
        async move {
            let order = create(&users[usize::try_from(number).unwrap_or(0) % users.len()]).await?;
            Ok::<_, anyhow::Error>((order, due, due.elapsed()))
        }
    })
    .await;
    let posts = posts.into_iter().collect::<Result<Vec<_>>>()?;
    let mut until_paid = Vec::with_capacity(posts.len());
    for (order, due, _) in &posts {
        until_paid.push(paid.when(order, *due).await?.duration_since(*due));
    }
    let post = summary(posts.iter().map(|(_, _, post)| *post))?;
    Ok(LatencyPhase { clients, rate, post, post_to_paid: summary(until_paid.into_iter())? })
}

/// Creates an order and answers with its id.
async fn create(session: &Session) -> Result<String> {
    let order = sample_order("1 Quay Street", 100);
    let answer = session.create_order(&order, Some(&Uuid::now_v7().to_string())).await?;
    if answer.status != StatusCode::CREATED {
        bail!("an order was answered {}: {:?}", answer.status, answer.body);
    }
    let order = answer.json();
    order["order_id"].as_str().map(str::to_owned).context("an order without id")
}

async fn throughput(
    sessions: &Arc<[Session]>,
    processes: &[Process],
    orders: u64,
    delivery_time: Duration,
    spans: Option<&SpanCounter>,
) -> Result<ThroughputPhase> {
    let spans_before = spans.map(SpanCounter::count);
    let before = process::usage(processes)?;
    let begin = Instant::now();
    let users = sessions.clone();
    // All due at once: each client sends its next order as soon as the last one was answered.
    let plan = Plan { rate: 1e9, requests: orders, clients: CLIENTS };
    let created = load::open_loop(plan, move |number, _| {
        let users = users.clone();
        async move { create(&users[usize::try_from(number).unwrap_or(0) % users.len()]).await }
    })
    .await;
    let accepted = begin.elapsed();
    let created = created.into_iter().collect::<Result<Vec<_>>>()?;
    wait_for_all(sessions, |order| order["status"] == "PAID").await?;
    let paid = begin.elapsed();
    wait_for_all(sessions, is_terminal).await?;
    let complete = begin.elapsed().saturating_sub(delivery_time);
    let after = process::usage(processes)?;

    let cpu_seconds = cpu_between(&before, &after);
    let services = processes.iter().filter(|process| process.is_service);
    let ours: f64 = services.filter_map(|process| cpu_seconds.get(&process.name)).sum();
    #[expect(clippy::cast_precision_loss, reason = "counts of orders and spans are far below 2^52")]
    let (count, spans_per_order) = {
        let received = spans.zip(spans_before).map(|(spans, before)| spans.count() - before);
        (created.len() as f64, received.map(|spans| spans as f64 / created.len() as f64))
    };
    Ok(ThroughputPhase {
        clients: CLIENTS,
        orders,
        accepted_per_second: count / accepted.as_secs_f64(),
        paid_per_second: count / paid.as_secs_f64(),
        complete_per_second: count / complete.as_secs_f64(),
        service_cpu_ms_per_order: ours * 1000.0 / count,
        cpu_seconds,
        spans_per_order,
    })
}

/// Fewer looks per second than one user may make.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(25);

/// Waits until all orders of all users are as they should be, looking at a page of each user at a time.
async fn wait_for_all(sessions: &[Session], done: impl Fn(&serde_json::Value) -> bool) -> Result<()> {
    let until = Instant::now() + COMPLETE_TIME_MAX;
    for session in sessions {
        let mut cursor = String::new();
        loop {
            let answer = session.get(&format!("/api/orders?limit=100&cursor={cursor}")).await?;
            if answer.status != StatusCode::OK {
                bail!("a page was answered {}: {:?}", answer.status, answer.body);
            }
            let page = answer.json();
            let orders = page["orders"].as_array().context("a page without orders")?;
            if !orders.iter().all(&done) {
                if Instant::now() > until {
                    bail!("orders are not done after {} s", COMPLETE_TIME_MAX.as_secs());
                }
                sleep(LOOK_AGAIN_AFTER).await;
                continue;
            }
            match page["next_cursor"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => break,
            }
        }
    }
    Ok(())
}

fn cpu_between(before: &BTreeMap<String, Usage>, after: &BTreeMap<String, Usage>) -> BTreeMap<String, f64> {
    after
        .iter()
        .map(|(name, usage)| {
            let earlier = before.get(name).map_or(Duration::ZERO, |usage| usage.cpu);
            (name.clone(), usage.cpu.saturating_sub(earlier).as_secs_f64())
        })
        .collect()
}

fn summary(durations: impl Iterator<Item = Duration>) -> Result<Latency> {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?;
    for duration in durations {
        histogram.record(u64::try_from(duration.as_micros())?.max(1))?;
    }
    #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes are far below 2^52")]
    let ms = |us: u64| us as f64 / 1000.0;
    Ok(Latency {
        count: histogram.len(),
        p50_ms: ms(histogram.value_at_quantile(0.5)),
        p99_ms: ms(histogram.value_at_quantile(0.99)),
        max_ms: ms(histogram.max()),
    })
}

impl Report {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        #[expect(clippy::cast_precision_loss, reason = "bytes of a machine are far below 2^52")]
        let mb = |bytes: u64| format!("{:.0} MB", bytes as f64 / 1e6);
        let ms = |latency: &Latency| format!("{:.1} / {:.1} ms", latency.p50_ms, latency.p99_ms);
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY).set_header(["figure", "value"]);
        for phase in [&self.idle, &self.loaded] {
            let load = format!("{} client(s), {} orders/s", phase.clients, phase.rate);
            table.add_row([format!("POST p50 / p99, {load}"), ms(&phase.post)]);
            table.add_row([format!("POST to PAID p50 / p99, {load}"), ms(&phase.post_to_paid)]);
        }
        let throughput = &self.throughput;
        for (name, value) in [
            ("orders/s accepted", throughput.accepted_per_second),
            ("orders/s until PAID", throughput.paid_per_second),
            ("orders/s until the saga is complete", throughput.complete_per_second),
        ] {
            table.add_row([format!("{name}, {} clients", throughput.clients), format!("{value:.0}")]);
        }
        table.add_row([
            "CPU of our services per order".to_owned(),
            format!("{:.2} ms", throughput.service_cpu_ms_per_order),
        ]);
        if let Some(spans) = throughput.spans_per_order {
            table.add_row(["spans received per order".to_owned(), format!("{spans:.1}")]);
        }
        for (name, seconds) in &throughput.cpu_seconds {
            table
                .add_row([format!("CPU of {name}, {} orders", throughput.orders), format!("{seconds:.2} s")]);
        }
        table.add_row(["idle CPU of the stack".to_owned(), format!("{:.3} cores", self.idle_cpu_cores)]);
        table.add_row(["idle memory of the stack".to_owned(), mb(self.idle_memory_total_bytes)]);
        for (name, bytes) in &self.idle_memory_bytes {
            table.add_row([format!("idle memory of {name}"), mb(*bytes)]);
        }
        table.add_row(["peak memory of the stack".to_owned(), mb(self.peak_memory_total_bytes)]);
        table.to_string()
    }
}
