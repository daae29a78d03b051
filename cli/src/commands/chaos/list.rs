//! `chaos list`.

use anyhow::Result;
use clap::Args;
use holdfast_chaos::scenario::Scenario;
use serde::Serialize;

use crate::{
    options::Output,
    output::{Outcome, data},
    table::Table,
};

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    scenarios: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    name: &'static str,
    #[serde(flatten)]
    scenario: Scenario,
}

impl List {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let scenarios = Scenario::names().map(|name| Ok(Line { name, scenario: Scenario::named(name)? }));
        let document = Document { scenarios: scenarios.collect::<Result<_>>()? };
        self.output.print(&document, || {
            let mut table = Table::new(&["NAME", "SECONDS", "ORDERS/S", "ABOUT"]);
            for Line { name, scenario } in &document.scenarios {
                let seconds = scenario.control_seconds + scenario.storm_seconds + scenario.calm_seconds;
                table.add_row([
                    (*name).to_owned(),
                    seconds.to_string(),
                    scenario.orders_per_second.to_string(),
                    scenario.about.clone(),
                ]);
            }
            data!("{table}")
        })?;
        Ok(Outcome::Done)
    }
}
