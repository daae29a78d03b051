//! The figures of `make bench`: latency of `POST`, time until PAID, orders per second until the saga is complete, what an order costs,
//! memory, and whether the stack keeps up with a rate for long.
//!
//! [`latency`] has the phases of a fixed rate, [`throughput`] the one that goes as fast as it can, and [`sustained`] those that show
//! whether a backlog grows. [`steps`] says where the time to PAID goes, if the services send their spans here. [`cost`] reads what the components spend, `table.rs` prints the report for people.

pub mod cost;
mod followed;
pub mod latency;
pub mod steps;
pub mod sustained;
mod table;
pub mod throughput;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use holdfast_native::{layout::Layout, say};
use serde::Serialize;
use tokio::time::sleep;
use uuid::Uuid;

use self::{
    cost::Costs, followed::FollowedOrders, latency::LatencyPhase, steps::Step, sustained::SustainedPhase,
    throughput::ThroughputPhase,
};
use crate::{
    process::{self, Process, Usage},
    rest::{Rest, Session},
    spans::Spans,
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
    /// A phase that shows whether the stack keeps up, if there is to be one.
    pub sustain: Option<Sustain>,
    /// Where to receive the spans of the services meanwhile.
    pub receive_traces: Option<SocketAddr>,
}

/// A rate that is held.
#[derive(Debug, Clone, Copy)]
pub struct Sustain {
    /// For how long.
    pub time: Duration,
    /// Orders per second.
    pub rate: f64,
    /// Whether to look for the highest rate that can be held, from `rate` on.
    pub search: bool,
}

/// Clients of the second latency phase and of the throughput phase.
const CLIENTS: usize = 32;
/// Orders per second of the phase with one client: far apart, so that each finds the stack idle.
const IDLE_RATE: f64 = 10.0;
/// When the spans of a phase have arrived: several times the interval at which services export them. Orders whose spans come later are left
/// out of the steps.
const EXPORTED_AFTER: Duration = Duration::from_secs(10);

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// One client, idle stack.
    pub idle: LatencyPhase,
    /// Where the orders of that phase spend their time until PAID, if the services send their spans here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub idle_steps: Vec<Step>,
    /// Many clients.
    pub loaded: LatencyPhase,
    /// A rate that is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sustained: Option<SustainedPhase>,
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
    layout: &Layout,
    processes: Vec<Process>,
    options: Options,
    delivery_time: Duration,
) -> Result<Report> {
    let spans = options.receive_traces.map(Spans::listen).transpose()?;
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
    let mut costs = Costs::of(layout, processes.clone()).await?;
    let followed = Arc::new(FollowedOrders::default());
    let streams = followed.follow(&sessions).await?;
    // The first requests pay for connections and prepared statements; users of a running system don't.
    latency::measure(&sessions, &followed, 1, 20.0, Duration::from_secs(2)).await?;
    say!("1 client: {} s at {IDLE_RATE} orders/s", options.phase.as_secs());
    if let Some(spans) = &spans {
        spans.keep();
    }
    let idle = latency::measure(&sessions, &followed, 1, IDLE_RATE, options.phase).await?;
    let idle_steps = match &spans {
        None => Vec::new(),
        Some(spans) => {
            sleep(EXPORTED_AFTER).await;
            steps::of(&spans.take())?
        }
    };
    say!("{CLIENTS} clients: {} s at {} orders/s", options.phase.as_secs(), options.rate);
    let loaded = latency::measure(&sessions, &followed, CLIENTS, options.rate, options.phase).await?;
    let sustained = match options.sustain {
        None => None,
        Some(Sustain { time, rate, search: false }) => {
            say!("{CLIENTS} clients: {} s at {rate} orders/s", time.as_secs());
            Some(sustained::measure(&sessions, &followed, &mut costs, rate, time, delivery_time).await?)
        }
        Some(Sustain { time, rate, search: true }) => {
            say!("{CLIENTS} clients: the highest rate that can be held for {} s", time.as_secs());
            Some(sustained::search(&sessions, &followed, &mut costs, rate, time, delivery_time).await?)
        }
    };
    drop(streams);
    say!("{CLIENTS} clients: {} orders as fast as it goes", options.orders);
    let throughput =
        throughput::measure(&sessions, &mut costs, options.orders, delivery_time, spans.as_ref()).await?;

    sampler.abort();
    let peak_memory_total_bytes = *peak.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Report {
        idle,
        idle_steps,
        loaded,
        sustained,
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

fn cpu_between(before: &BTreeMap<String, Usage>, after: &BTreeMap<String, Usage>) -> BTreeMap<String, f64> {
    after
        .iter()
        .map(|(name, usage)| {
            let earlier = before.get(name).map_or(Duration::ZERO, |usage| usage.cpu);
            (name.clone(), usage.cpu.saturating_sub(earlier).as_secs_f64())
        })
        .collect()
}
