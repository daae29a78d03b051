//! `up`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use clap::Args;
use holdfast_native::{
    control::{self, Found, Stopped},
    layout::{Extra, GATEWAY, Layout, PORT_OFFSET_MAX, Replicas, ReplicasError, Scope, Tls},
    prepare::{Encrypted, PortTaken, Prepared, prepare},
    state::StackReport,
    supervisor::{self, Lifetime, Restart},
};

use super::{down::STOP_TIME_MAX, roll::parse_programs, token};
use crate::{
    options::At,
    output::{Outcome, data},
};

/// How long the printed token is valid.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of a command line")]
pub(crate) struct Up {
    #[command(flatten)]
    at: At,
    /// Stay in the foreground; Ctrl-C stops the stack
    #[arg(long)]
    foreground: bool,
    /// Add N to each port, so that stacks can coexist
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=i64::from(PORT_OFFSET_MAX)))]
    port_offset: u16,
    /// Start N replicas of a service that has a database; may be repeated for each
    #[arg(long, value_name = "SERVICE=N", value_parser = parse_replicas)]
    replicas: Vec<String>,
    /// Start this as well; `redis` has all gateways share the limits of their clients
    #[arg(long, value_name = "WHAT", value_parser = str::parse::<Extra>)]
    with: Vec<Extra>,
    /// Whether connections to the databases are encrypted, and both ends show certificates
    #[arg(long, env = "HOLDFAST_DATABASE_TLS", default_value = Tls::Off.name(), value_name = "on|off", value_parser = str::parse::<Tls>)]
    database_tls: Tls,
    /// Whether connections to Kafka are encrypted, both ends show certificates, and each service may do only what it must; needs
    /// programs that scripts/kafka-tls.sh builds
    #[arg(long, env = "HOLDFAST_KAFKA_TLS", default_value = Tls::Off.name(), value_name = "on|off", value_parser = str::parse::<Tls>)]
    kafka_tls: Tls,
    /// Run the services' programs of this folder, instead of those beside this command; `holdfast roll` changes that later
    #[arg(long, value_name = "DIR", value_parser = parse_programs, conflicts_with = "infrastructure_only")]
    programs: Option<PathBuf>,
    /// Leave a component down when it dies, instead of starting it again
    #[arg(long)]
    no_restart: bool,
    /// Seconds to wait until everything is ready
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    wait: u64,
    /// Databases and broker only
    #[arg(long, hide = true)]
    infrastructure_only: bool,
    /// Have each client reach each server by a port of their link, so that faults of the network can be made between them. A proxy
    /// must run for each link that the stack's `state.json` lists: without them nothing becomes ready, and they are not started
    /// here
    #[arg(long, hide = true, conflicts_with = "infrastructure_only")]
    links: bool,
    /// End when standard input closes, and delete the data
    #[arg(long, hide = true, requires = "foreground")]
    until_parent_ends: bool,
}

fn parse_replicas(text: &str) -> Result<String, ReplicasError> {
    Replicas::default().set(text)?;
    Ok(text.to_owned())
}

impl Up {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let data_dir = self.at.data_dir()?;
        let mut replicas = Replicas::default();
        for wanted in &self.replicas {
            replicas.set(wanted)?;
        }
        match control::find(&data_dir)? {
            Found::Running(report) => {
                self.check_same(&data_dir, &report)?;
                return self.greet_when_ready(&data_dir);
            }
            Found::Abandoned(_) => {
                if control::stop(&data_dir, STOP_TIME_MAX)? == Stopped::Abandoned {
                    eprintln!("stopped components that had lost their supervisor");
                }
            }
            Found::Nothing => {}
        }
        let scope = if self.infrastructure_only { Scope::Infrastructure } else { Scope::Everything };
        let layout = Layout::new(data_dir.clone(), self.port_offset);
        let links = if self.links { layout.links(replicas) } else { Vec::new() };
        let prepared = match prepare(
            layout.clone(),
            scope,
            replicas,
            self.extras(),
            links,
            self.programs.as_deref(),
            Encrypted { databases: self.database_tls, kafka: self.kafka_tls },
        ) {
            // Only tests start a stack that ends with its parent, and they try other ports.
            Err(error) if self.until_parent_ends && error.is::<PortTaken>() => {
                eprintln!("holdfast: {error:#}");
                return Ok(Outcome::PortTaken);
            }
            other => other?,
        };
        if self.foreground {
            return self.supervise(prepared);
        }
        control::detach(&layout, &self.supervisor_arguments(&data_dir, replicas))?;
        self.greet_when_ready(&data_dir)
    }

    /// Fails if the running stack is not the one that was asked for.
    fn check_same(&self, data_dir: &Path, report: &StackReport) -> Result<()> {
        eprintln!("the stack in {} runs already", data_dir.display());
        if report.port_offset != self.port_offset {
            bail!("it runs with --port-offset {}: stop it with `holdfast down` first", report.port_offset);
        }
        if self.links && report.links.is_empty() {
            bail!("it runs without --links: stop it with `holdfast down` first");
        }
        let layout = Layout::new(data_dir.to_owned(), report.port_offset);
        for (option, runs, wanted) in [
            ("--database-tls", layout.database_tls(), self.database_tls),
            ("--kafka-tls", layout.kafka_tls(), self.kafka_tls),
        ] {
            if runs != wanted {
                bail!("it runs with {option} {}: stop it with `holdfast down` first", runs.name());
            }
        }
        for extra in self.extras() {
            if !report.components.iter().any(|component| component.name == extra.name()) {
                bail!("it runs without --with {}: stop it with `holdfast down` first", extra.name());
            }
        }
        if self.programs.is_some() {
            bail!("`holdfast roll --programs DIR` changes the programs of a stack that runs");
        }
        if self.foreground {
            bail!("stop it with `holdfast down` to run it in the foreground");
        }
        Ok(())
    }

    /// Each once, however often it was asked for.
    fn extras(&self) -> Vec<Extra> {
        let mut extras = self.with.clone();
        extras.dedup();
        extras
    }

    fn supervise(&self, prepared: Prepared) -> Result<Outcome> {
        let restart = if self.no_restart { Restart::Never } else { Restart::Always };
        let lifetime =
            if self.until_parent_ends { Lifetime::UntilParentEnds } else { Lifetime::UntilStopped };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let outcome = runtime.block_on(supervisor::run(prepared, restart, lifetime));
        // A probe that hangs must not delay the end of the process.
        runtime.shutdown_background();
        outcome.map(|()| Outcome::Done)
    }

    fn supervisor_arguments(&self, data_dir: &Path, replicas: Replicas) -> Vec<String> {
        let mut arguments: Vec<String> = vec!["up".into(), "--foreground".into()];
        arguments.extend(["--port-offset".into(), self.port_offset.to_string()]);
        arguments.extend(["--data-dir".into(), data_dir.display().to_string()]);
        arguments.extend(replicas.arguments().flat_map(|replicas| ["--replicas".to_owned(), replicas]));
        arguments
            .extend(self.extras().into_iter().flat_map(|extra| ["--with", extra.name()].map(str::to_owned)));
        arguments.extend(["--database-tls".into(), self.database_tls.name().into()]);
        arguments.extend(["--kafka-tls".into(), self.kafka_tls.name().into()]);
        if let Some(programs) = &self.programs {
            arguments.extend(["--programs".into(), programs.display().to_string()]);
        }
        if self.no_restart {
            arguments.push("--no-restart".into());
        }
        if self.links {
            arguments.push("--links".into());
        }
        arguments
    }

    /// Prints what a new user needs next.
    fn greet_when_ready(&self, data_dir: &Path) -> Result<Outcome> {
        let report = control::wait_ready(data_dir, Duration::from_secs(self.wait))?;
        let layout = Layout::new(data_dir.to_owned(), report.port_offset);
        for component in report.components.iter().filter(|component| !component.detail.is_empty()) {
            eprintln!("{} is degraded: {}", component.name, component.detail);
        }
        let url = layout.gateway_url();
        let token = token::sign(data_dir, "user-123", token::SCOPES, TOKEN_LIFE)?;
        data!("REST       {url}/api/orders")?;
        data!("health     {url}/readyz")?;
        data!("metrics    {}/metrics", layout.admin_url(GATEWAY))?;
        data!("Kafka      {}", layout.kafka_brokers())?;
        data!("token      {token}")?;
        data!("")?;
        data!("next: make test-create-order")?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replicas of nothing, or of what has none, are refused.
    #[test]
    fn an_empty_value_selects_nothing() {
        for wrong in ["", " ", "kafka=2"] {
            assert!(parse_replicas(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_replicas("order=2").is_ok());
        for wrong in ["", " ", "kafka"] {
            assert!(wrong.parse::<Extra>().is_err(), "{wrong:?}");
        }
        assert_eq!("redis".parse(), Ok(Extra::Redis));
    }
}
