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
        self.output.print(&document, || data!("{}", table(&document.scenarios)))?;
        Ok(Outcome::Done)
    }
}

fn table(scenarios: &[Line]) -> Table {
    let mut table = Table::new(&["NAME", "SECONDS", "ORDERS/S", "ABOUT"]).cutting(&["ABOUT"]);
    for Line { name, scenario } in scenarios {
        let seconds = scenario.control_seconds + scenario.storm_seconds + scenario.calm_seconds;
        table.add_row([
            (*name).to_owned(),
            seconds.to_string(),
            scenario.orders_per_second.to_string(),
            scenario.about.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{output::json, snapshot, table::at_all_widths};

    /// A scenario is one line.
    #[test]
    fn scenarios_are_shown() {
        let scenarios = ["kill-kafka", "upgrade"]
            .map(|name| Line { name, scenario: Scenario::named(name).expect("there") })
            .into();
        let document = Document { scenarios };
        snapshot::check("tables/chaos-list.txt", &at_all_widths(&table(&document.scenarios)));
        snapshot::check("json/chaos-list.json", &json(&document));
    }
}
