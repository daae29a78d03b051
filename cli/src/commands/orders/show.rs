//! `orders show`: the events of an order in the order of their times, each with who has handled it or where it is.

use anyhow::Result;
use clap::Args;
use holdfast_operator::examine::{Examination, Orders};
use holdfast_proto::OrderId;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    letters::{self, Letter},
    place_of,
};
use crate::{
    examine::examine,
    options::{Output, parse_order},
    output::{Outcome, data, say},
    runtime::block_on,
    services::Services,
    table::Table,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    target: Target,
    /// The order's id
    #[arg(value_name = "ORDER_ID", value_parser = parse_order)]
    order: OrderId,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    order_id: String,
    events: Vec<EventLine>,
    /// Services that could not be asked: what they have written is not here, and what they have handled or parked is unknown.
    not_asked: Vec<&'static str>,
}

/// An event, as `-o json` shows it.
#[derive(Serialize)]
struct EventLine {
    time: String,
    /// Seconds since the first event.
    after_seconds: f64,
    writer: &'static str,
    topic: String,
    event_id: Option<String>,
    /// Empty: nobody reads it, or a reader is known not to have handled it.
    handled_by: Vec<&'static str>,
    missing_at: Vec<&'static str>,
    /// Readers that may have handled it or not: they could not be asked.
    unknown_at: Vec<&'static str>,
    /// Where it is, if a reader has not handled it, or may not have.
    waits: Option<String>,
}

impl Show {
    pub(crate) fn run(&self) -> Result<Outcome> {
        block_on(self.show())
    }

    async fn show(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, None)?;
        let orders = Orders::These(std::slice::from_ref(&self.order));
        let mut found = examine(&services, orders, None).await?;
        let order_id = self.order.to_string();
        let letters = letters::of_order(&services, &mut found, &order_id).await?;
        let document = Document { order_id, events: lines(&found, &letters), not_asked: found.away.names() };
        let nothing = document.events.is_empty();
        self.output.print(&document, || if nothing { Ok(()) } else { data!("{}", table(&document)) })?;
        say!("{}", conclusion(&document));
        let outcome = if nothing { Outcome::NothingMatched } else { Outcome::Done };
        Ok(outcome.unless_away(!found.away.is_empty()))
    }
}

/// What the order waits for, as far as it is known.
fn conclusion(document: &Document) -> String {
    let without = document.not_asked.join(" and ");
    let is_whole = document.not_asked.is_empty();
    if document.events.is_empty() {
        return if is_whole {
            "no service has written an event about this order".to_owned()
        } else {
            format!("no event about this order is known without {without}")
        };
    }
    // What is known to be missing comes before what may be.
    let waits = document.events.iter().find(|event| !event.missing_at.is_empty());
    match waits.and_then(|event| event.waits.as_ref().map(|waits| (event, waits))) {
        Some((event, waits)) => {
            format!("waits for {} at {}: {waits}", event.topic, event.missing_at.join(", "))
        }
        None if is_whole => "every event was handled".to_owned(),
        None => format!(
            "nothing is known to be missing, but whether every event was written and handled is not known without {without}"
        ),
    }
}

fn lines(found: &Examination, letters: &[Letter]) -> Vec<EventLine> {
    type At = Option<OffsetDateTime>;
    let handled = found.handled.iter().map(|event| -> (At, EventLine) {
        let of_event = || letters.iter().filter(|letter| letter.event_id.as_ref() == Some(&event.event_id));
        let missing_at: Vec<_> = of_event().map(|letter| letter.service).collect();
        // One that went away before its letters were read: what has arrived there may be parked.
        let unknown_at: Vec<_> = event.readers.iter().copied().filter(|of| found.away.has(of)).collect();
        let is_known = |reader: &&str| !missing_at.contains(reader) && !unknown_at.contains(reader);
        let line = EventLine {
            time: text_of(event.time),
            after_seconds: 0.0,
            writer: event.writer,
            topic: event.topic.clone(),
            event_id: Some(event.event_id.clone()),
            handled_by: event.readers.iter().copied().filter(is_known).collect(),
            waits: of_event().next().map(Letter::place).or_else(|| unknown_text(&unknown_at)),
            missing_at,
            unknown_at,
        };
        (event.time, line)
    });
    let missing = found.missing.iter().map(|event| -> (At, EventLine) {
        let line = EventLine {
            time: text_of(event.time),
            after_seconds: 0.0,
            writer: event.writer,
            topic: event.topic.clone(),
            event_id: event.event_id.clone(),
            handled_by: Vec::new(),
            missing_at: event.readers.clone(),
            unknown_at: event.unknown_at.clone(),
            waits: Some(place_of(event)),
        };
        (event.time, line)
    });
    let mut all: Vec<(At, EventLine)> = handled.chain(missing).collect();
    all.sort_by_key(|(time, _)| *time);
    let first = all.iter().find_map(|(time, _)| *time);
    for (time, line) in &mut all {
        line.after_seconds = time.zip(first).map_or(0.0, |(time, first)| (time - first).as_seconds_f64());
    }
    all.into_iter().map(|(_, line)| line).collect()
}

fn unknown_text(at: &[&str]) -> Option<String> {
    (!at.is_empty()).then(|| format!("unknown: {} could not be asked", at.join(" and ")))
}

fn text_of(time: Option<OffsetDateTime>) -> String {
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

fn table(document: &Document) -> Table {
    let mut table = Table::new(&["TIME", "AFTER", "WRITER", "EVENT", "HANDLED BY", "WAITS"])
        .cutting(&["WAITS"])
        .sparing(&["TIME", "WRITER"]);
    for event in &document.events {
        table.add_row([
            event.time.as_str(),
            &format!("{:.3} s", event.after_seconds),
            event.writer,
            &event.topic,
            &event.handled_by.join(", "),
            event.waits.as_deref().unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use holdfast_operator::{
        examine::{Away, Handled, Missing},
        verdict::State,
    };
    use time::macros::datetime;

    use super::*;
    use crate::{output::json, snapshot, table::at_all_widths};

    /// The story of an order, with what it waits for: a dead letter, or an event that was lost.
    #[test]
    fn a_story_is_shown() {
        let order_id = "01a21184-8763-7214-acea-bb1c3b689082".to_owned();
        let handled = |topic: &str, event_id: &str, seconds, writer, readers: &[&'static str]| Handled {
            topic: topic.to_owned(),
            event_id: event_id.to_owned(),
            time: Some(datetime!(2026-01-31 12:00:00.123 UTC) + Duration::from_secs(seconds)),
            writer,
            readers: readers.to_vec(),
        };
        let found = Examination {
            orders: vec![order_id.clone()],
            next: String::new(),
            handled: vec![
                handled("order.created", "01a21184-8763-7214-acea-000000000001", 0, "order", &["payment"]),
                handled(
                    "payment.completed",
                    "01a21184-8763-7214-acea-000000000002",
                    1,
                    "payment",
                    &["order", "delivery"],
                ),
            ],
            missing: vec![Missing {
                order_id: order_id.clone(),
                topic: "delivery.status.updated".to_owned(),
                event_id: None,
                time: Some(datetime!(2026-01-31 12:01:00 UTC)),
                writer: "delivery",
                readers: vec!["order", "payment"],
                unknown_at: Vec::new(),
                state: State::Lost,
                detail: "the logs of its readers were read to the end".to_owned(),
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
            event_id: Some("01a21184-8763-7214-acea-000000000002".to_owned()),
        };
        let document = Document { order_id, events: lines(&found, &[letter]), not_asked: Vec::new() };
        snapshot::check("tables/orders-show.txt", &at_all_widths(&table(&document)));
        snapshot::check("json/orders-show.json", &json(&document));
    }

    /// Without a service nothing is called handled that only it could say, also if it went away after it was asked for its events.
    #[test]
    fn a_story_without_a_service_says_what_is_unknown() {
        let event = |topic: &str, readers: &[&'static str]| Handled {
            topic: topic.to_owned(),
            event_id: "01a21184-8763-7214-acea-000000000001".to_owned(),
            time: Some(datetime!(2026-01-31 12:00 UTC)),
            writer: "payment",
            readers: readers.to_vec(),
        };
        let order_id = "01a21184-8763-7214-acea-bb1c3b689082".to_owned();
        let unknown = Missing {
            order_id: order_id.clone(),
            topic: "delivery.status.updated".to_owned(),
            event_id: None,
            time: Some(datetime!(2026-01-31 12:01 UTC)),
            writer: "delivery",
            readers: Vec::new(),
            unknown_at: vec!["payment"],
            state: State::Unknown,
            detail: "payment could not be asked".to_owned(),
        };
        let found = Examination {
            orders: vec![order_id.clone()],
            next: String::new(),
            handled: vec![
                event("payment.completed", &["order", "delivery"]),
                event("order.created", &["payment"]),
            ],
            missing: vec![unknown],
            blocked: Vec::new(),
            promises: Vec::new(),
            away: Away::these(&["payment"]),
        };
        let document = Document { order_id, events: lines(&found, &[]), not_asked: found.away.names() };
        snapshot::check("tables/orders-show-partly.txt", &at_all_widths(&table(&document)));
        snapshot::check("json/orders-show-partly.json", &json(&document));
        assert!(conclusion(&document).contains("not known without payment"), "{}", conclusion(&document));
        let nothing = Document { events: Vec::new(), ..document };
        assert_eq!(conclusion(&nothing), "no event about this order is known without payment");
        let all = Document { not_asked: Vec::new(), ..nothing };
        assert_eq!(conclusion(&all), "no service has written an event about this order");
    }
}
