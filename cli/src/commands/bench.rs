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
use holdfast_native::layout::Kind;

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
    /// Receive the spans of the services at this address meanwhile, and count them
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
                let is_service = component.kind == Kind::Service;
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
