//! `status`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use comfy_table::Table;
use holdfast_native::{
    control::{self, Found, Watched},
    layout::{Kind, Layout},
    programs::Running,
    state::ComponentReport,
};
use serde::Serialize;

use super::roll::remarks;
use crate::{
    options::{At, Output, say_nobody_watches},
    output::{Outcome, data, wide_table},
};

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document<'a> {
    components: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    report: &'a ComponentReport,
    /// The file that a service runs.
    program: Option<String>,
}

impl<'a> Document<'a> {
    fn of(components: &'a [ComponentReport], programs: &[(String, Running)]) -> Self {
        let line = |report: &'a ComponentReport| {
            let program = programs.iter().find(|(name, _)| *name == report.name);
            Line { report, program: program.map(|(_, program)| program.file.display().to_string()) }
        };
        Self { components: components.iter().map(line).collect() }
    }
}

/// The programs of the services that run.
fn programs_of(components: &[ComponentReport]) -> Vec<(String, Running)> {
    let services = components.iter().filter(|component| component.kind == Kind::Service);
    services.filter_map(|component| Some((component.name.clone(), Running::of(component.pid?)?))).collect()
}

impl Status {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let data_dir = self.at.data_dir()?;
        let (report, watched) = match control::find(&data_dir)? {
            Found::Running(report) => (report, Watched::BySupervisor),
            Found::Abandoned(report) => (report, Watched::ByNobody),
            Found::Nothing => {
                eprintln!("nothing was started in {}", data_dir.display());
                return Ok(Outcome::NothingMatched);
            }
        };
        let layout = Layout::new(data_dir, report.port_offset);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let components = runtime.block_on(control::measure(&layout, &report, watched))?;
        // A probe that hangs must not delay the end of the command.
        runtime.shutdown_background();
        match (watched, report.stale_for()) {
            (Watched::ByNobody, _) => say_nobody_watches(&layout, &report),
            (Watched::BySupervisor, Some(age)) => eprintln!(
                "{} is {} s old: its supervisor cannot write it (is the disk full?), so PID and RESTARTS may be older \
                 than STATE",
                layout.state_file().display(),
                age.as_secs()
            ),
            (Watched::BySupervisor, None) => {}
        }
        let programs = programs_of(&components);
        for remark in remarks(&programs) {
            eprintln!("{remark}");
        }
        self.output.print(&Document::of(&components, &programs), || {
            data!("{}", component_table(&layout, &components))
        })?;
        let all_serve = components.iter().all(|component| component.state.can_serve());
        Ok(if all_serve { Outcome::Done } else { Outcome::Failed })
    }
}

fn component_table(layout: &Layout, components: &[ComponentReport]) -> Table {
    let mut table =
        wide_table(&["NAME", "KIND", "STATE", "PORT", "ADMIN", "PID", "AGE", "RESTARTS", "LOG", "DETAIL"]);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for component in components {
        table.add_row([
            component.name.clone(),
            format!("{:?}", component.kind).to_lowercase(),
            format!("{:?}", component.state).to_lowercase(),
            component.port.to_string(),
            or_none(layout.component_admin_port(&component.name).map(|port| port.to_string())),
            or_none(component.pid.map(|pid| pid.to_string())),
            or_none(control::age(component).map(age_text)),
            component.restarts.to_string(),
            component.log.clone(),
            component.detail.clone(),
        ]);
    }
    table
}

/// `45s`, `12m`, `3h`, `2d`.
fn age_text(age: Duration) -> String {
    match age.as_secs() {
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ ..7_200 => format!("{}m", seconds / 60),
        seconds @ ..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}
