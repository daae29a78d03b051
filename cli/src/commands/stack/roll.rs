//! `roll`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;
use holdfast_common::duration::parse_duration;
use holdfast_native::{
    control,
    layout::{CONSOLE, Kind, program_of, service_names},
    programs,
    state::StackReport,
};

use crate::{
    options::{At, hint},
    output::{Outcome, data},
};

#[derive(Debug, Args)]
pub(crate) struct Roll {
    #[command(flatten)]
    at: At,
    /// Services, as `holdfast status` shows them, or the console: order, order-2; all of them if none is named
    #[arg(value_name = "COMPONENT", value_parser = parse_component)]
    components: Vec<String>,
    /// The folder of the new programs; by default that of this command
    #[arg(long, value_name = "DIR", value_parser = parse_programs)]
    programs: Option<PathBuf>,
    /// How long each may take until it serves
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_duration)]
    wait: Duration,
}

fn parse_component(text: &str) -> Result<String> {
    let is_known = program_of(text).is_some();
    let all = || service_names().chain([CONSOLE]).collect::<Vec<_>>().join(", ");
    anyhow::ensure!(is_known, "is no service; there are {}", all());
    Ok(text.to_owned())
}

/// A folder that has the program of every service. Its name must be text, which a supervisor in the background is told.
pub(crate) fn parse_programs(text: &str) -> Result<PathBuf> {
    let folder = PathBuf::from(text);
    for service in service_names() {
        programs::program_in(&folder, service)?;
    }
    folder.canonicalize().with_context(|| format!("cannot find {text}"))
}

impl Roll {
    /// One after the other, so that other replicas serve meanwhile. The first that does not serve ends it: the rest keeps the
    /// program that works.
    pub(crate) fn run(&self) -> Result<Outcome> {
        let (layout, report) = self.at.supervised()?;
        let components = self.select(&report)?;
        for (index, component) in components.iter().enumerate() {
            let folder = self.folder_for(component)?;
            control::roll(&layout, component, &folder, self.wait)
                .with_context(|| stopped_at(&layout.data_dir, component, &components[index + 1..]))?;
            data!("{component} runs the program in {}", folder.display())?;
        }
        Ok(Outcome::Done)
    }

    fn select(&self, report: &StackReport) -> Result<Vec<String>> {
        let services = report.components.iter().filter(|component| component.kind == Kind::Service);
        let mut services: Vec<String> = services.map(|component| component.name.clone()).collect();
        if self.components.is_empty() {
            // It is of one version with this command, which lets browsers in; services of another one are not.
            services.retain(|name| name != CONSOLE || self.programs.is_none());
            return Ok(services);
        }
        for component in &self.components {
            anyhow::ensure!(
                services.contains(component),
                "the stack has no {component}; it has {}",
                services.join(", ")
            );
        }
        Ok(self.components.clone())
    }

    fn folder_for(&self, component: &str) -> Result<PathBuf> {
        match &self.programs {
            Some(folder) => Ok(folder.clone()),
            None => programs::own_folder(program_of(component).unwrap_or(component)),
        }
    }
}

/// What is to be known when `component` does not serve, and `rest` was not rolled.
fn stopped_at(data_dir: &Path, component: &str, rest: &[String]) -> String {
    let kept = if rest.is_empty() {
        String::new()
    } else {
        format!(", and these keep the program that they have: {}", rest.join(", "))
    };
    let back = hint(data_dir, &format!("roll {component} --programs DIR"));
    format!("{component} does not serve with its new program{kept}; `{back}` rolls it back")
}

/// What a person must know of the programs that run: which were replaced since, and which come from where, if not all come from
/// one folder.
pub(super) fn remarks(data_dir: &Path, running: &[(String, programs::Running)]) -> Vec<String> {
    let mut remarks: Vec<String> = running
        .iter()
        .filter(|(_, program)| program.is_replaced)
        .map(|(name, program)| {
            format!(
                "{name} runs a program whose file {} was replaced: `{}` starts the one that is there now",
                program.file.display(),
                hint(data_dir, &format!("roll {name}"))
            )
        })
        .collect();
    let mut folders: Vec<&Path> = running.iter().filter_map(|(_, program)| program.file.parent()).collect();
    folders.sort_unstable();
    folders.dedup();
    for folder in folders.iter().filter(|_| folders.len() > 1) {
        let from_it = running.iter().filter(|(_, program)| program.file.parent() == Some(folder));
        let names: Vec<&str> = from_it.map(|(name, _)| name.as_str()).collect();
        remarks.push(format!("the programs of {} are in {}", names.join(", "), folder.display()));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder without the programs, an unknown component, and nothing at all select nothing.
    #[test]
    fn an_empty_value_selects_nothing() {
        for wrong in ["", " ", "kafka", "orders-db", "order-10"] {
            assert!(parse_component(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_component("order-2").is_ok() && parse_component("console").is_ok());
        for wrong in ["", "/", "/no/such/folder"] {
            assert!(parse_programs(wrong).is_err(), "{wrong:?}");
        }
    }

    /// Programs of one folder need no word; those of two, and those that were replaced, do.
    #[test]
    fn mixed_and_replaced_programs_are_named() {
        let program = |component: &str, file: &str, is_replaced| {
            (component.to_owned(), programs::Running { file: PathBuf::from(file), is_replaced })
        };
        let one = [
            program("order", "/new/holdfast-order", false),
            program("payment", "/new/holdfast-payment", false),
        ];
        assert!(remarks(Path::new("/x"), &one).is_empty());
        let two = [
            program("order", "/new/holdfast-order", false),
            program("order-2", "/old/holdfast-order", false),
        ];
        assert_eq!(
            remarks(Path::new("/x"), &two),
            ["the programs of order are in /new", "the programs of order-2 are in /old"]
        );
        let replaced = remarks(Path::new("/x"), &[program("order", "/new/holdfast-order", true)]);
        assert!(
            matches!(replaced.as_slice(), [one] if one.contains("`holdfast roll order --data-dir /x`")),
            "{replaced:?}"
        );
    }

    /// A roll that stops says what was not rolled.
    #[test]
    fn a_roll_that_stops_says_what_it_left() {
        let text = stopped_at(Path::new("/x"), "order-2", &["payment".to_owned(), "gateway".to_owned()]);
        assert!(
            text.contains("payment, gateway")
                && text.contains("`holdfast roll order-2 --programs DIR --data-dir /x`"),
            "{text}"
        );
        assert!(!stopped_at(Path::new("/x"), "gateway", &[]).contains("keep"));
    }
}
