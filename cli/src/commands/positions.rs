//! `positions`: where each service reads, by its own database and by the broker.

use anyhow::Result;
use clap::Args;
use holdfast_operator::position::{gap, lag};
use holdfast_proto::ops::v1 as pb;
use serde::Serialize;

use crate::{
    options::{Output, service_names},
    output::{Outcome, data, say},
    runtime::block_on,
    services::Services,
    table::Table,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Positions {
    #[command(flatten)]
    target: Target,
    /// Of this service
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    service: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    positions: Vec<PositionLine>,
}

/// A partition, as `-o json` shows it.
#[derive(Serialize)]
struct PositionLine {
    service: &'static str,
    topic: String,
    partition: i32,
    position: Option<i64>,
    committed: Option<i64>,
    first: Option<i64>,
    end: Option<i64>,
    /// Records that wait; `null` until the service has seen the broker.
    lag: Option<i64>,
    applied: i64,
    duplicates: i64,
    parked: i64,
    set_aside: i64,
    /// How the numbers contradict each other; empty if they don't.
    gap: &'static str,
}

impl PositionLine {
    fn of(service: &'static str, position: pb::ConsumerPosition) -> Self {
        let (lag, gap) = (lag(&position), gap(&position));
        Self {
            service,
            topic: position.topic,
            partition: position.partition,
            position: position.position,
            committed: position.committed,
            first: position.first,
            end: position.end,
            lag,
            applied: position.applied,
            duplicates: position.duplicates,
            parked: position.parked,
            set_aside: position.set_aside,
            gap,
        }
    }
}

impl Positions {
    pub(crate) fn run(&self) -> Result<Outcome> {
        block_on(self.show())
    }

    async fn show(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, self.service.as_deref())?;
        let answers = services
            .ask(async |service| {
                let request = service.request(pb::ListPositionsRequest::default())?;
                Ok(service.answer(service.dead_letters().list_positions(request).await)?)
            })
            .await?;
        let mut positions = Vec::new();
        for (service, answer) in &answers.each {
            if answer.seen_at.is_none() {
                say!("{}: has not seen the broker since it started", service.name);
            }
            let lines =
                answer.positions.iter().map(|position| PositionLine::of(service.name, position.clone()));
            positions.extend(lines);
        }
        let document = Document { positions };
        self.output.print(&document, || data!("{}", table(&document.positions)))?;
        Ok(answers.outcome(Outcome::Done))
    }
}

fn table(lines: &[PositionLine]) -> Table {
    let mut table = Table::new(&[
        "SERVICE",
        "TOPIC",
        "PARTITION",
        "POSITION",
        "COMMITTED",
        "FIRST",
        "END",
        "LAG",
        "APPLIED",
        "DUPLICATES",
        "PARKED",
        "SET ASIDE",
        "GAP",
    ])
    .cutting(&["GAP", "TOPIC"])
    .sparing(&["POSITION", "END", "DUPLICATES", "SET ASIDE", "PARKED", "APPLIED", "FIRST", "COMMITTED"]);
    let known = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    for line in lines {
        table.add_row([
            line.service,
            &line.topic,
            &line.partition.to_string(),
            &known(line.position),
            &known(line.committed),
            &known(line.first),
            &known(line.end),
            &known(line.lag),
            &line.applied.to_string(),
            &line.duplicates.to_string(),
            &line.parked.to_string(),
            &line.set_aside.to_string(),
            line.gap,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{output::json, snapshot, table::at_all_widths};

    /// Lag and gap are seen at every width.
    #[test]
    fn positions_are_shown() {
        let position = |topic: &str, partition, position, end| pb::ConsumerPosition {
            topic: topic.to_owned(),
            partition,
            position,
            committed: position,
            first: Some(0),
            end,
            applied: 4_711,
            duplicates: 2,
            parked: 1,
            set_aside: 0,
        };
        let positions = vec![
            PositionLine::of("payment", position("order.created", 0, Some(1_204_711), Some(1_204_712))),
            PositionLine::of("payment", position("delivery.status.updated", 11, Some(9), Some(5))),
            PositionLine::of("delivery", position("payment.completed", 1, None, None)),
        ];
        snapshot::check("tables/positions.txt", &at_all_widths(&table(&positions)));
        snapshot::check("json/positions.json", &json(&Document { positions }));
    }
}
