//! `orders stuck`: what unfinished orders wait for.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use holdfast_common::duration::parse_duration;
use holdfast_operator::examine::{Examination, Missing};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    letters::{self, Letter},
    place_of,
};
use crate::{
    examine::{examine, unfinished},
    options::Output,
    output::{Outcome, data, say},
    runtime::block_on,
    services::Services,
    table::Table,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Stuck {
    #[command(flatten)]
    target: Target,
    /// Orders that are unfinished for longer than this: 90s, 5m, 1h
    #[arg(long, default_value = "1m", value_name = "TIME", value_parser = parse_duration)]
    older_than: Duration,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    orders: Vec<OrderLine>,
    /// Services that could not be asked: orders may wait for them, or there, without a word of it here.
    not_asked: Vec<&'static str>,
}

/// An order, as `-o json` shows it.
#[derive(Serialize)]
struct OrderLine {
    order_id: String,
    /// The topic of the oldest event that a reader has not handled; `null` if there is none: the order is on its way, or waits where
    /// nobody could be asked.
    waits_for: Option<String>,
    missing_at: Vec<&'static str>,
    /// Readers that may have handled that event or not: they could not be asked.
    unknown_at: Vec<&'static str>,
    /// When that event was written.
    since: Option<String>,
    dead_letter_id: Option<String>,
    place: String,
}

impl Stuck {
    pub(crate) fn run(&self) -> Result<Outcome> {
        block_on(self.stuck())
    }

    async fn stuck(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, None)?;
        let mut found = examine(&services, unfinished(self.older_than)?, None).await?;
        let letters = letters::oldest(&services, &mut found).await?;
        let document = Document { orders: lines(&found, &letters), not_asked: found.away.names() };
        let nothing = document.orders.is_empty();
        self.output.print(&document, || if nothing { Ok(()) } else { data!("{}", table(&document)) })?;
        let without = document.not_asked.join(" and ");
        match (nothing, found.away.is_empty()) {
            (true, true) => say!("no order is unfinished for that long"),
            (true, false) => say!("no unfinished order is known without {without}"),
            (false, true) => say!("{} orders", document.orders.len()),
            (false, false) => {
                say!("{} orders, as far as it is known without {without}", document.orders.len());
            }
        }
        let outcome = if nothing { Outcome::NothingMatched } else { Outcome::Done };
        Ok(outcome.unless_away(!found.away.is_empty()))
    }
}

/// One for each order: the letter that it waits behind, or else its oldest missing event, if there is any. What is known to be missing
/// comes before what may be.
fn lines(found: &Examination, letters: &HashMap<String, Letter>) -> Vec<OrderLine> {
    let mut oldest: BTreeMap<&str, &Missing> = BTreeMap::new();
    for missing in &found.missing {
        let known = oldest.entry(&missing.order_id).or_insert(missing);
        let is_unknown = |of: &Missing| of.readers.is_empty();
        if (is_unknown(missing), missing.time) < (is_unknown(known), known.time) {
            *known = missing;
        }
    }
    let line = |order_id: &String| {
        let nothing = OrderLine {
            order_id: order_id.clone(),
            waits_for: None,
            missing_at: Vec::new(),
            unknown_at: Vec::new(),
            since: None,
            dead_letter_id: None,
            place: if found.away.is_empty() {
                "every event was handled: its delivery is on its way".to_owned()
            } else {
                format!("unknown: {} could not be asked", found.away.names().join(" and "))
            },
        };
        if let Some(letter) = letters.get(order_id) {
            return OrderLine {
                waits_for: Some(letter.topic.clone()),
                missing_at: vec![letter.service],
                dead_letter_id: Some(letter.id.clone()),
                place: letter.place(),
                ..nothing
            };
        }
        let Some(missing) = oldest.get(order_id.as_str()) else { return nothing };
        OrderLine {
            waits_for: Some(missing.topic.clone()),
            missing_at: missing.readers.clone(),
            unknown_at: missing.unknown_at.clone(),
            since: missing.time.and_then(|time: OffsetDateTime| time.format(&Rfc3339).ok()),
            place: place_of(missing),
            ..nothing
        }
    };
    found.orders.iter().map(line).collect()
}

fn table(document: &Document) -> Table {
    let mut table = Table::new(&["ORDER", "WAITS FOR", "SINCE", "AT", "WHERE"])
        .cutting(&["WHERE"])
        .sparing(&["AT", "SINCE"]);
    for order in &document.orders {
        table.add_row([
            order.order_id.as_str(),
            order.waits_for.as_deref().unwrap_or("-"),
            order.since.as_deref().unwrap_or("-"),
            &order.missing_at.join(", "),
            &order.place,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use holdfast_operator::{examine::Away, verdict::State};
    use time::macros::datetime;

    use super::*;
    use crate::{output::json, snapshot, table::at_all_widths};

    /// Each order is shown with its whole id and what it waits for: a letter, an event, or nothing.
    #[test]
    fn stuck_orders_are_shown() {
        let order = |number: u8| format!("01a21184-8763-7214-acea-bb1c3b68908{number}");
        let found = Examination {
            orders: vec![order(1), order(2), order(3)],
            next: String::new(),
            handled: Vec::new(),
            missing: vec![Missing {
                order_id: order(2),
                topic: "order.created".to_owned(),
                event_id: Some("01a21184-8763-7214-acea-000000000001".to_owned()),
                time: Some(datetime!(2026-01-31 12:00:00 UTC)),
                writer: "order",
                readers: vec!["payment"],
                unknown_at: Vec::new(),
                state: State::OnItsWay,
                detail: "payment is 17 records behind".to_owned(),
            }],
            blocked: Vec::new(),
            promises: Vec::new(),
            away: Away::default(),
        };
        let letter = Letter {
            service: "delivery",
            id: "01a21190-0000-7000-8000-000000000001".to_owned(),
            topic: "payment.completed".to_owned(),
            class: "decode".to_owned(),
            event_id: None,
        };
        let orders = lines(&found, &HashMap::from([(order(1), letter)]));
        let document = Document { orders, not_asked: Vec::new() };
        snapshot::check("tables/orders-stuck.txt", &at_all_widths(&table(&document)));
        snapshot::check("json/orders-stuck.json", &json(&document));
    }

    /// Without a service an order is not said to be on its way, and what is known to be missing is named before what may be.
    #[test]
    fn what_only_an_absent_service_knows_is_unknown() {
        let missing = |order_id: &str, minute: u64, readers: &[&'static str]| Missing {
            order_id: order_id.to_owned(),
            topic: "delivery.status.updated".to_owned(),
            event_id: Some("01a21184-8763-7214-acea-000000000001".to_owned()),
            time: Some(datetime!(2026-01-31 12:00:00 UTC) + Duration::from_secs(60 * minute)),
            writer: "delivery",
            readers: readers.to_vec(),
            unknown_at: vec!["payment"],
            state: if readers.is_empty() { State::Unknown } else { State::Lost },
            detail: String::new(),
        };
        let found = Examination {
            orders: vec!["one".to_owned(), "two".to_owned(), "three".to_owned()],
            next: String::new(),
            handled: Vec::new(),
            missing: vec![missing("one", 0, &[]), missing("one", 5, &["order"]), missing("two", 0, &[])],
            blocked: Vec::new(),
            promises: Vec::new(),
            away: Away::these(&["payment"]),
        };
        let document = Document { orders: lines(&found, &HashMap::new()), not_asked: found.away.names() };
        let places: Vec<_> = document.orders.iter().map(|order| order.place.as_str()).collect();
        assert_eq!(places, ["lost", "unknown", "unknown: payment could not be asked"]);
        snapshot::check("tables/orders-stuck-partly.txt", &at_all_widths(&table(&document)));
        snapshot::check("json/orders-stuck-partly.json", &json(&document));
    }
}
