//! `reconcile`: finds events that were lost between two services, and has them re-emitted.

use std::{collections::BTreeMap, io, time::Duration};

use anyhow::Result;
use clap::Args;
use holdfast_common::duration::parse_duration;
use holdfast_operator::{
    examine::{Examination, Orders, Promise},
    reemit::{Consent, reemit},
    verdict::{Reach, State},
};
use holdfast_proto::OrderId;
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use crate::{
    examine::{examine, unfinished},
    options::{By, Output, parse_order, parse_reason, service_names},
    output::{Outcome, data, say},
    runtime::block_on,
    services::Services,
    table::Table,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Reconcile {
    #[command(flatten)]
    target: Target,
    /// Only events that this service writes
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    service: Option<String>,
    /// This order, whether it has ended or not; may be repeated
    #[arg(long = "order", value_name = "ORDER_ID", value_parser = parse_order)]
    orders: Vec<OrderId>,
    /// Without --order: orders that are unfinished for longer than this: 90s, 5m, 1h
    #[arg(long, default_value = "1m", value_name = "TIME", value_parser = parse_duration)]
    older_than: Duration,
    /// Re-emit what is lost; otherwise nothing is changed
    #[arg(long, requires = "reason")]
    execute: bool,
    /// Also re-emit events that may be on their way, or are older than inboxes remember; readers ignore what they have handled
    #[arg(long)]
    force: bool,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: Option<String>,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    /// Orders that were looked at.
    orders: usize,
    events: Vec<EventLine>,
    /// Orders that wait behind a dead letter.
    blocked: Vec<BlockedLine>,
    /// What readers owe to writers: whether that was checked, and if not, why.
    promises: Vec<Promise>,
    /// Services that could not be asked. What only they know is unknown.
    not_asked: Vec<&'static str>,
}

/// An event that a reader has not handled, as `-o json` shows it.
#[derive(Serialize)]
struct EventLine {
    order_id: String,
    topic: String,
    event_id: Option<String>,
    time: String,
    writer: &'static str,
    missing_at: Vec<&'static str>,
    /// Readers that may have handled it or not: they could not be asked.
    unknown_at: Vec<&'static str>,
    state: State,
    detail: String,
}

#[derive(Serialize)]
struct BlockedLine {
    order_id: String,
    service: &'static str,
    dead_letter_id: String,
}

impl Reconcile {
    pub(crate) fn run(&self) -> Result<Outcome> {
        block_on(self.reconcile())
    }

    async fn reconcile(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, None)?;
        let orders =
            if self.orders.is_empty() { unfinished(self.older_than)? } else { Orders::These(&self.orders) };
        let mut found = examine(&services, orders, self.service.as_deref()).await?;
        if let Some(reason) = self.reason.as_deref().filter(|_| self.execute) {
            let consent = Consent { author: &self.by.name(), reason };
            reemit(&services.all, &mut found.missing, self.reach(), consent).await?;
        }
        let outcome = self.outcome(&found);
        let document = document(found);
        self.output.print(&document, || print(&document))?;
        self.talk(&document);
        Ok(outcome)
    }

    fn reach(&self) -> Reach {
        if self.force { Reach::Doubtful } else { Reach::Lost }
    }

    fn outcome(&self, found: &Examination) -> Outcome {
        let left = found.missing.iter().filter(|event| event.state != State::ReEmitted).count();
        let outcome = if found.missing.is_empty() {
            Outcome::NothingMatched
        } else if self.execute && left > 0 {
            Outcome::Partly
        } else {
            Outcome::Done
        };
        outcome.unless_away(!found.away.is_empty())
    }

    fn talk(&self, document: &Document) {
        for line in summary(document) {
            say!("{line}");
        }
        let is_lost = |event: &EventLine| event.state == State::Lost;
        if !self.execute && document.events.iter().any(is_lost) {
            say!("a dry run, nothing was changed: --execute --reason TEXT re-emits what is lost");
        }
    }
}

/// How many events are missing, and of what that is known.
fn summary(document: &Document) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for event in &document.events {
        *counts.entry(event.state.name()).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let (orders, blocked) = (document.orders, document.blocked.len());
    let unchecked: Vec<&Promise> =
        document.promises.iter().filter(|promise| promise.unchecked.is_some()).collect();
    if unchecked.is_empty() && document.not_asked.is_empty() {
        let events = if counts.is_empty() { "no event is missing".to_owned() } else { counts.join(", ") };
        return vec![format!("{orders} orders, {blocked} of them behind a dead letter: {events}")];
    }
    let events =
        if counts.is_empty() { "nothing is known to be missing".to_owned() } else { counts.join(", ") };
    let mut lines = vec![format!(
        "{orders} orders, {blocked} of them known to be behind a dead letter: {events}; this is not all, see below"
    )];
    let checked = document.promises.iter().filter(|promise| promise.unchecked.is_none());
    let checked: Vec<String> = checked.map(|of| format!("{} at {}", of.topic, of.reader)).collect();
    let checked = if checked.is_empty() { "nothing".to_owned() } else { checked.join(", ") };
    lines.push(format!("checked: {checked}"));
    let unchecked = unchecked.iter().map(|of| {
        format!("not checked: {} at {}: {}", of.topic, of.reader, of.unchecked.as_deref().unwrap_or_default())
    });
    lines.extend(unchecked);
    lines
}

fn document(found: Examination) -> Document {
    let events = found.missing.into_iter().map(|event| EventLine {
        time: event.time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default(),
        order_id: event.order_id,
        topic: event.topic,
        event_id: event.event_id,
        writer: event.writer,
        missing_at: event.readers,
        unknown_at: event.unknown_at,
        state: event.state,
        detail: event.detail,
    });
    let blocked = found.blocked.into_iter().map(|(service, parked)| BlockedLine {
        order_id: parked.subject,
        service,
        dead_letter_id: parked.dead_letter_id,
    });
    Document {
        orders: found.orders.len(),
        events: events.collect(),
        blocked: blocked.collect(),
        not_asked: found.away.names(),
        promises: found.promises,
    }
}

fn print(document: &Document) -> io::Result<()> {
    // What is unknown may be every event of an absent reader: it is counted, and in JSON.
    let known: Vec<&EventLine> =
        document.events.iter().filter(|event| event.state != State::Unknown).collect();
    if !known.is_empty() {
        data!("{}", event_table(&known))?;
    }
    if !document.blocked.is_empty() {
        data!("{}", blocked_table(&document.blocked))?;
    }
    Ok(())
}

fn event_table(events: &[&EventLine]) -> Table {
    let mut table = Table::new(&["ORDER", "EVENT", "TIME", "WRITER", "MISSING AT", "STATE", "DETAIL"])
        .cutting(&["DETAIL", "EVENT"])
        .sparing(&["EVENT", "DETAIL", "MISSING AT", "WRITER", "TIME"]);
    for event in events {
        table.add_row([
            event.order_id.as_str(),
            &event.topic,
            &event.time,
            event.writer,
            &event.missing_at.join(", "),
            event.state.name(),
            &event.detail,
        ]);
    }
    table
}

fn blocked_table(lines: &[BlockedLine]) -> Table {
    let mut table = Table::new(&["ORDER", "SERVICE", "WAITS BEHIND DEAD LETTER"]);
    for blocked in lines {
        table.add_row([blocked.order_id.as_str(), blocked.service, &blocked.dead_letter_id]);
    }
    table
}

#[cfg(test)]
mod tests {
    use holdfast_operator::examine::{Away, Missing};
    use holdfast_proto::ops::v1 as pb;
    use time::macros::datetime;

    use super::*;
    use crate::{output::json, snapshot, table::at_all_widths};

    /// Lost events and orders that wait are shown with whole ids.
    #[test]
    fn what_is_lost_is_shown() {
        let order_id = "01a21184-8763-7214-acea-bb1c3b689082".to_owned();
        let missing = Missing {
            order_id: order_id.clone(),
            topic: "delivery.status.updated".to_owned(),
            event_id: Some("01a21184-8763-7214-acea-000000000001".to_owned()),
            time: Some(datetime!(2026-01-31 12:00:00 UTC)),
            writer: "delivery",
            readers: vec!["order", "payment"],
            unknown_at: Vec::new(),
            state: State::OnItsWay,
            detail: "payment is 17 records behind".to_owned(),
        };
        let parked = pb::ParkedAggregate {
            subject: order_id.clone(),
            dead_letter_id: "01a21190-0000-7000-8000-000000000001".to_owned(),
        };
        let document = document(Examination {
            orders: vec![order_id],
            next: String::new(),
            handled: Vec::new(),
            missing: vec![missing],
            blocked: vec![("payment", parked)],
            promises: vec![promise("order.created", "order", "payment", None)],
            away: Away::default(),
        });
        let events: Vec<&EventLine> = document.events.iter().collect();
        snapshot::check("tables/reconcile.txt", &at_all_widths(&event_table(&events)));
        snapshot::check("tables/reconcile-blocked.txt", &at_all_widths(&blocked_table(&document.blocked)));
        snapshot::check("json/reconcile.json", &json(&document));
        assert_eq!(summary(&document), ["1 orders, 1 of them behind a dead letter: 1 on-its-way"]);
    }

    fn promise(
        topic: &'static str,
        writer: &'static str,
        reader: &'static str,
        unchecked: Option<&str>,
    ) -> Promise {
        Promise { topic, writer, reader, unchecked: unchecked.map(str::to_owned) }
    }

    /// Without a service it is never said that nothing is missing, but what was checked and what was not.
    #[test]
    fn a_partial_answer_is_no_all_clear() {
        let is_away = Some("payment could not be asked");
        let document = document(Examination {
            orders: vec!["01a21184-8763-7214-acea-bb1c3b689082".to_owned()],
            next: String::new(),
            handled: Vec::new(),
            missing: Vec::new(),
            blocked: Vec::new(),
            promises: vec![
                promise("order.created", "order", "payment", is_away),
                promise("payment.completed", "payment", "order", is_away),
                promise("delivery.status.updated", "delivery", "order", None),
            ],
            away: Away::these(&["payment"]),
        });
        assert_eq!(
            summary(&document),
            [
                "1 orders, 0 of them known to be behind a dead letter: nothing is known to be missing; this is not all, see below",
                "checked: delivery.status.updated at order",
                "not checked: order.created at payment: payment could not be asked",
                "not checked: payment.completed at order: payment could not be asked",
            ]
        );
        snapshot::check("json/reconcile-partly.json", &json(&document));
    }
}
