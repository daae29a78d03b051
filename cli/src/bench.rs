//! `bench`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use holdfast_certs::TokenIssuer;
use holdfast_chaos::{
    bench::{self, Options},
    process::Process,
    rest::Rest,
};

use crate::{
    Outcome,
    arguments::{Bench, Format},
    output::data,
    stack,
};

const CONNECTIONS_MAX: usize = 256;
/// Three steps of `delivery.step`, which the native stack leaves at 2 s.
const DELIVERY_TIME: Duration = Duration::from_secs(6);

pub(crate) fn run(arguments: &Bench) -> Result<Outcome> {
    let (layout, report) = stack::running(&arguments.at)?;
    let processes = report
        .components
        .iter()
        .map(|component| {
            let Some(pid) = component.pid else { bail!("{} does not run", component.name) };
            Ok(Process { name: component.name.clone(), pid })
        })
        .collect::<Result<Vec<_>>>()?;
    let issuer = TokenIssuer::load_or_create(&layout.pki_dir())?;
    let rest = Rest::new(layout.gateway_url(), issuer, CONNECTIONS_MAX);
    let options = Options {
        users: usize::try_from(arguments.users).context("too many users")?,
        phase: arguments.phase,
        rate: f64::from(arguments.rate),
        orders: arguments.orders,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(bench::run(rest, processes, options, DELIVERY_TIME))?;
    match arguments.output {
        Format::Json => data!("{}", serde_json::to_string_pretty(&report)?)?,
        Format::Table => data!("{}", report.table())?,
    }
    Ok(Outcome::Done)
}
