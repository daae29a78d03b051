//! `scale`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Args;
use holdfast_common::duration::parse_duration;
use holdfast_native::{
    control::{self, Found},
    layout::{Layout, Replicas, Scope},
    ports, scale,
    state::{ComponentReport, StackReport},
};

use super::up::parse_replicas;
use crate::{
    options::{At, hint},
    output::{Outcome, data, say},
};

const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct Scale {
    #[command(flatten)]
    at: At,
    /// How many replicas of which service, 1 to 9; the others stay as they are
    #[arg(required = true, value_name = "SERVICE=N", value_parser = parse_replicas)]
    replicas: Vec<String>,
    /// How long to wait until all of them serve, and those that go have ended
    #[arg(long, default_value = "120s", value_name = "TIME", value_parser = parse_duration)]
    wait: Duration,
}

impl Scale {
    /// The supervisor makes the change; this waits for it.
    pub(crate) fn run(&self) -> Result<Outcome> {
        let (layout, report) = self.at.supervised()?;
        let Some(before) = Replicas::of_report(&report) else {
            bail!("a stack of databases and broker has no replicas")
        };
        let mut wanted = before;
        for replicas in &self.replicas {
            wanted.set(replicas)?;
        }
        if wanted == before {
            say!("that is what runs");
            return Ok(Outcome::Done);
        }
        check_ports(&layout, &report, wanted)?;
        scale::ask(&layout, wanted)?;
        let after = self.wait_until_done(&layout)?;
        for component in others(&after, &report) {
            data!("{} serves on port {}", component.name, component.port)?;
        }
        for component in others(&report, &after) {
            data!("{} has ended", component.name)?;
        }
        Ok(Outcome::Done)
    }

    fn wait_until_done(&self, layout: &Layout) -> Result<StackReport> {
        let begin = Instant::now();
        let log = hint(&layout.data_dir, "logs supervisor --tail 20");
        loop {
            // In this order: the supervisor says why, and then that it is done.
            let is_asked = scale::is_asked(layout);
            let Found::Running(report) = control::find(&layout.data_dir)? else {
                bail!("the supervisor has ended meanwhile: see `{log}`");
            };
            if !is_asked {
                return match scale::failure(layout)? {
                    Some(why) => bail!("{why} (more in `{log}`)"),
                    None => Ok(report),
                };
            }
            let seconds = self.wait.as_secs();
            ensure!(begin.elapsed() < self.wait, "not done after {seconds} s; it goes on: see `{log}`");
            #[expect(clippy::disallowed_methods, reason = "this command has no runtime")]
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Before anything is changed, those that a new replica would not get.
fn check_ports(layout: &Layout, report: &StackReport, wanted: Replicas) -> Result<()> {
    let is_new = |(component, _): &(String, u16)| {
        let name = component.split(' ').next().unwrap_or_default();
        !report.components.iter().any(|component| component.name == name)
    };
    // Ports of extras are not asked for here, and those of what runs are its own.
    let new: Vec<_> = layout.ports(Scope::Everything, wanted, &[], &[]).into_iter().filter(is_new).collect();
    let taken: Vec<String> = ports::taken(&new).iter().map(ToString::to_string).collect();
    ensure!(taken.is_empty(), "nothing was changed: {}", taken.join("; "));
    Ok(())
}

/// Components that only the first report has.
fn others<'r>(report: &'r StackReport, other: &StackReport) -> Vec<&'r ComponentReport> {
    let has = |name: &str| other.components.iter().any(|component| component.name == name);
    report.components.iter().filter(|component| !has(&component.name)).collect()
}
