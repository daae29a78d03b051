//! `chaos run`.

use std::{fmt::Write as _, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use holdfast_chaos::{
    run::{self, Options},
    scenario::Scenario,
};
use holdfast_common::duration::parse_duration;
use holdfast_native::layout::{PORT_OFFSET_MAX, Replicas, ReplicasError, resolve};

use super::show;
use crate::{
    commands::stack::roll::parse_programs,
    consent::Consent,
    options::Output,
    output::{Outcome, UsageError},
};

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// A scenario of `holdfast chaos list`, or a file
    #[arg(long, default_value = "everything", value_name = "NAME|FILE")]
    scenario: String,
    /// How long faults are injected, instead of the scenario's time
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Orders per second, instead of the scenario's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: Option<u32>,
    /// The source of all randomness; drawn if absent
    #[arg(long)]
    seed: Option<u64>,
    /// Start N replicas of order, payment or delivery, instead of the scenario's; may be given for each
    #[arg(long, value_name = "SERVICE=N", value_parser = parse_replicas, conflicts_with = "data_dir")]
    replicas: Vec<String>,
    /// Where evidence and report go: a folder that is new or empty
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// The folder of a stack that runs already; without it the run starts one of its own
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The folder of an earlier build's programs, with which a scenario of upgrades begins: scripts/earlier.sh makes one
    #[arg(long, value_name = "DIR", value_parser = parse_programs, conflicts_with = "data_dir")]
    from: Option<PathBuf>,
    /// Add N to each port of a stack of its own; by default an N whose ports are free
    #[arg(long, value_name = "N", conflicts_with = "data_dir",
        value_parser = clap::value_parser!(u16).range(0..=i64::from(PORT_OFFSET_MAX)))]
    port_offset: Option<u16>,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    output: Output,
}

fn parse_replicas(text: &str) -> Result<String, ReplicasError> {
    Replicas::default().set(text)?;
    Ok(text.to_owned())
}

impl Run {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let options = self.options()?;
        if let Some(running) = &options.running {
            let touched = format!(
                "components of the stack in {} are killed, stopped and cut off while they serve; what its broker has acknowledged may \
                 be lost",
                running.display()
            );
            if !self.consent.to(&touched, "do that to it?")? {
                return Ok(Outcome::Failed);
            }
        }
        let folder = options.folder.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let report = runtime.block_on(run::run(options))?;
        show(&report, &self.output, &folder)
    }

    fn options(&self) -> Result<Options> {
        let mut scenario =
            if Scenario::names().any(|name| name == self.scenario) || !self.scenario.contains(['/', '.']) {
                Scenario::named(&self.scenario).map_err(|error| UsageError(format!("{error:#}")))?
            } else {
                let text = fs::read_to_string(&self.scenario)
                    .with_context(|| format!("cannot read {}", self.scenario))?;
                Scenario::parse(&text).with_context(|| self.scenario.clone())?
            };
        if let Some(duration) = self.duration {
            if duration.as_secs() < scenario.storm_seconds {
                // A shorter run need not come to the rare places.
                scenario.marks.clear();
            }
            scenario.storm_seconds = duration.as_secs();
            // Fewer faults fit, or more: what must land grows with the time.
            if let Some(planned) = duration.as_millis().checked_div(u128::from(scenario.every_ms)) {
                scenario.faults_min = usize::try_from(planned)? / 2;
            }
        }
        if let Some(rate) = self.rate {
            scenario.orders_per_second = f64::from(rate);
        }
        if !self.replicas.is_empty() {
            scenario.replicas.clone_from(&self.replicas);
        }
        match (scenario.needs_earlier(), &self.from) {
            (true, None) => bail!(
                "{} begins with the programs of an earlier build: `chaos/run.sh --scenario {}` makes and uses them, --from DIR \
                 names others",
                self.scenario,
                self.scenario
            ),
            (false, Some(_)) => bail!("{} upgrades nothing, so --from is of no use", self.scenario),
            _ => {}
        }
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..));
        let folder = self.report.clone().unwrap_or_else(|| PathBuf::from(format!("chaos-{seed:x}")));
        Ok(Options {
            command: self.command(seed),
            name: self.scenario.clone(),
            scenario,
            seed,
            program: std::env::current_exe()?,
            running: self.data_dir.as_deref().map(resolve).transpose()?,
            earlier: self.from.clone(),
            port_offset: self.port_offset,
            folder: resolve(&folder)?,
            commit: commit(),
        })
    }

    /// The command that does the same again.
    fn command(&self, seed: u64) -> String {
        let mut command = format!("holdfast chaos run --scenario {} --seed {seed}", self.scenario);
        // Writing to a String can't fail.
        if let Some(duration) = self.duration {
            let _ = write!(command, " --duration {}s", duration.as_secs());
        }
        if let Some(rate) = self.rate {
            let _ = write!(command, " --rate {rate}");
        }
        for replicas in &self.replicas {
            let _ = write!(command, " --replicas {replicas}");
        }
        if let Some(from) = &self.from {
            let _ = write!(command, " --from {}", from.display());
        }
        command
    }
}

/// The commit of the working tree, where there is one.
fn commit() -> String {
    let described = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let described = described.ok().filter(|output| output.status.success());
    described.map_or("unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
