//! `restart`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use holdfast_common::duration::parse_duration;
use holdfast_native::control;

use super::logs::parse_component;
use crate::{
    options::{At, hint},
    output::{Outcome, data},
};

#[derive(Debug, Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    at: At,
    /// Components, as `holdfast status` shows them: order, order-2, kafka, orders-db
    #[arg(required = true, value_name = "COMPONENT", value_parser = parse_component)]
    components: Vec<String>,
    /// How long each may take until it serves
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = parse_duration)]
    wait: Duration,
}

impl Restart {
    /// One after the other. The first that does not serve again ends it.
    pub(crate) fn run(&self) -> Result<Outcome> {
        let (layout, report) = self.at.supervised()?;
        let known: Vec<&str> = report.components.iter().map(|component| component.name.as_str()).collect();
        for name in &self.components {
            ensure!(known.contains(&name.as_str()), "the stack has no {name}; it has {}", known.join(", "));
        }
        for name in &self.components {
            control::restart(&layout, name, self.wait).with_context(|| {
                let logs = hint(&layout.data_dir, &format!("logs {name} --tail 20"));
                format!("{name} does not serve again; see `{logs}`")
            })?;
            data!("{name} was restarted")?;
        }
        Ok(Outcome::Done)
    }
}
