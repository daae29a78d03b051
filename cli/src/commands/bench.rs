//! `bench`.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use holdfast_certs::TokenIssuer;
use holdfast_chaos::{
    bench::{self, Options, Sustain},
    process::Process,
    rest::Rest,
};
use holdfast_common::duration::parse_duration;
use holdfast_native::layout::service_of;

use crate::{
    options::{At, Output},
    output::{Outcome, data},
};

const CONNECTIONS_MAX: usize = 256;
/// Three steps of `delivery.step`, which the native stack leaves at 2 s.
const DELIVERY_TIME: Duration = Duration::from_secs(6);

#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
    /// Users that the load is spread over
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    users: u32,
    /// Length of each latency phase
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = parse_duration)]
    phase: Duration,
    /// Orders per second of the phase with 32 clients
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Orders of the throughput phase
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    orders: u64,
    /// Hold a rate for so long too, and say whether the stack keeps up: whether what waits, and for how long, stays the same
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    sustain: Option<Duration>,
    /// Orders per second of that phase [default: those of --rate]
    #[arg(long, value_name = "RATE", requires = "sustain", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sustain_rate: Option<u32>,
    /// Look for the highest rate that can be held so long, from that rate on
    #[arg(long, requires = "sustain")]
    highest: bool,
    /// Receive the spans of the services at this address meanwhile, count them, and say where an order spends its time until PAID
    #[arg(long, value_name = "HOST:PORT")]
    receive_traces: Option<SocketAddr>,
}

impl Bench {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let (layout, report) = self.at.running()?;
        let processes = report
            .components
            .iter()
            .map(|component| {
                let Some(pid) = component.pid else { bail!("{} does not run", component.name) };
                let is_service = service_of(&component.name).is_some();
                Ok(Process { name: component.name.clone(), is_service, pid })
            })
            .collect::<Result<Vec<_>>>()?;
        let issuer = TokenIssuer::load_or_create(&layout.pki_dir())?;
        let rest = Rest::new(layout.gateway_url(), issuer, CONNECTIONS_MAX);
        let options = Options {
            users: usize::try_from(self.users).context("too many users")?,
            phase: self.phase,
            rate: f64::from(self.rate),
            orders: self.orders,
            sustain: self.sustain.map(|time| Sustain {
                time,
                rate: f64::from(self.sustain_rate.unwrap_or(self.rate)),
                search: self.highest,
            }),
            receive_traces: self.receive_traces,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let report = runtime.block_on(bench::run(rest, &layout, processes, options, DELIVERY_TIME))?;
        self.output.print(&report, || data!("{}", report.table()))?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use holdfast_chaos::bench::{
        Report,
        cost::{ComponentCost, Cost, DatabaseCost},
        latency::{Latency, LatencyPhase},
        steps::Step,
        sustained::SustainedPhase,
        throughput::ThroughputPhase,
    };

    use crate::{output::json, snapshot};

    fn latency() -> Latency {
        Latency { count: 1_500, p50_ms: 4.2, p99_ms: 17.9, max_ms: 41.0 }
    }

    fn phase(clients: usize, rate: f64) -> LatencyPhase {
        LatencyPhase { clients, rate, refused: 0, post: latency(), post_to_paid: latency() }
    }

    fn cost() -> Cost {
        let component = ComponentCost { cpu_ms: 1.5, context_switches: 12.0 };
        let database = DatabaseCost { wal_bytes: 3_100.0, wal_flushes: 0.8, updates: 4.0, hot_updates: 3.0 };
        Cost {
            components: BTreeMap::from([("order".to_owned(), component)]),
            databases: BTreeMap::from([("orders-db".to_owned(), database)]),
            disk_bytes: Some(48_000.0),
        }
    }

    /// The shape of its JSON, which programs compare from one run to the next.
    #[test]
    fn figures_are_shown() {
        let report = Report {
            idle: phase(1, 10.0),
            idle_steps: vec![Step { name: "payment: COMMIT".to_owned(), time: latency() }],
            loaded: phase(32, 100.0),
            sustained: Some(SustainedPhase {
                rate: 300.0,
                seconds: 120.0,
                refused: 3,
                post: latency(),
                post_to_paid_first: latency(),
                post_to_paid_last: latency(),
                unpaid_at_end: 7,
                complete_after_seconds: 0.4,
                kept_up: true,
                cost: cost(),
            }),
            throughput: ThroughputPhase {
                clients: 32,
                orders: 3_000,
                refused: 0,
                accepted_per_second: 610.5,
                paid_per_second: 540.25,
                complete_per_second: 498.0,
                service_cpu_ms_per_order: 1.2,
                cpu_ms_per_order: 3.4,
                cost: cost(),
                spans_per_order: None,
            },
            idle_cpu_cores: 0.04,
            idle_memory_bytes: BTreeMap::from([("order".to_owned(), 21_000_000)]),
            idle_memory_total_bytes: 900_000_000,
            peak_memory_total_bytes: 1_100_000_000,
        };
        snapshot::check("json/bench.json", &json(&report));
    }
}
