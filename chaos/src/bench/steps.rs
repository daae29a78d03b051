//! Where an order spends its time on the way to PAID, by the spans of the services.
//!
//! The steps follow one another without a gap, from the request's arrival in the gateway to the commit that makes the order PAID. An order
//! that lacks a span, because it was dropped or is not here yet, is left out.

use std::{collections::HashMap, time::Duration};

use anyhow::Result;
use holdfast_proto::otlp::trace::v1::Span;
use serde::Serialize;

use super::latency::Latency;

const POST: &str = "POST /api/orders";
const CALL: &str = "holdfast.order.v1.OrderService/CreateOrder";

/// One step of all orders.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// What happens in it.
    pub name: String,
    /// How long it takes.
    pub time: Latency,
}

/// What leads to PAID, in this order; then all of it, and the time of the `POST`, which ends while the rest goes on.
pub(super) fn of(spans: &[Span]) -> Result<Vec<Step>> {
    let index = Index::of(spans);
    let orders: Vec<Vec<(&str, Duration)>> =
        spans.iter().filter(|span| span.name == POST).filter_map(|post| index.steps(post)).collect();
    let Some(first) = orders.first() else { return Ok(Vec::new()) };
    let names = first.iter().map(|(name, _)| *name).enumerate();
    names
        .map(|(nth, name)| {
            let time = Latency::of(orders.iter().map(|steps| steps[nth].1))?;
            Ok(Step { name: name.to_owned(), time })
        })
        .collect()
}

struct Index<'s> {
    by_trace: HashMap<&'s [u8], Vec<&'s Span>>,
    by_parent: HashMap<&'s [u8], Vec<&'s Span>>,
    by_id: HashMap<&'s [u8], &'s Span>,
    /// The relay's, by the creation of each event that they have sent.
    sends: HashMap<&'s [u8], &'s Span>,
}

impl<'s> Index<'s> {
    fn of(spans: &'s [Span]) -> Self {
        let (mut by_trace, mut by_parent) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        let (mut by_id, mut sends) = (HashMap::new(), HashMap::new());
        for span in spans {
            by_trace.entry(span.trace_id.as_slice()).or_default().push(span);
            by_parent.entry(span.parent_span_id.as_slice()).or_default().push(span);
            by_id.insert(span.span_id.as_slice(), span);
            if span.name.starts_with("send ") {
                sends.extend(span.links.iter().map(|link| (link.span_id.as_slice(), span)));
            }
        }
        Self { by_trace, by_parent, by_id, sends }
    }

    /// The steps of one order, each from the end of the one before.
    fn steps(&self, post: &'s Span) -> Option<Vec<(&'static str, Duration)>> {
        let trace = self.by_trace.get(post.trace_id.as_slice())?;
        let below = |parent: &Span, name: &str| {
            trace.iter().copied().find(|span| span.parent_span_id == parent.span_id && span.name == name)
        };
        let call = below(post, CALL)?;
        let served = below(call, CALL)?;
        let insert = below(served, "order.insert_order")?;
        let created = below(served, "create order.created")?;
        let charged = below(created, "process order.created")?;
        let completed = below(charged, "create payment.completed")?;
        // Delivery reads the same event.
        let paid = trace.iter().copied().find(|span| {
            span.parent_span_id == completed.span_id
                && span.name == "process payment.completed"
                && self
                    .batch(span)
                    .is_some_and(|batch| self.statement(batch, "order.update_orders").is_some())
        })?;
        let (charging, paying) = (self.batch(charged)?, self.batch(paid)?);
        let (charge, pay) = (self.statement(charging, "COMMIT")?, self.statement(paying, "COMMIT")?);
        let sent = |event: &Span| self.sends.get(event.span_id.as_slice()).copied();
        let ends = [
            ("gateway: until the call of order", call.start_time_unix_nano),
            ("call: until order has it", served.start_time_unix_nano),
            ("order: until the statement", insert.start_time_unix_nano),
            ("order: statement and its commit", insert.end_time_unix_nano),
            ("order: until the relay sends", sent(created)?.start_time_unix_nano),
            ("Kafka: until payment has the event", charging.start_time_unix_nano),
            ("payment: statements of the batch", charge.start_time_unix_nano),
            ("payment: COMMIT", charge.end_time_unix_nano),
            ("payment: until the relay sends", sent(completed)?.start_time_unix_nano),
            ("Kafka: until order has the event", paying.start_time_unix_nano),
            ("order: statements of the batch", pay.start_time_unix_nano),
            ("order: COMMIT, which is PAID", pay.end_time_unix_nano),
        ];
        let mut from = post.start_time_unix_nano;
        let mut steps: Vec<_> = ends
            .into_iter()
            .map(|(name, end)| {
                let step = (name, Duration::from_nanos(end.saturating_sub(from)));
                from = end;
                step
            })
            .collect();
        steps.push(("all of that", between(post.start_time_unix_nano, pay.end_time_unix_nano)));
        steps.push(("POST in the gateway", between(post.start_time_unix_nano, post.end_time_unix_nano)));
        Some(steps)
    }

    /// The transaction in which an event was handled.
    fn batch(&self, process: &Span) -> Option<&'s Span> {
        let mut links =
            process.links.iter().filter_map(|link| self.by_id.get(link.span_id.as_slice()).copied());
        links.find(|span| span.name == "process batch")
    }

    fn statement(&self, batch: &Span, name: &str) -> Option<&'s Span> {
        let statements = self.by_parent.get(batch.span_id.as_slice())?;
        statements.iter().copied().find(|span| span.name == name)
    }
}

fn between(from: u64, until: u64) -> Duration {
    Duration::from_nanos(until.saturating_sub(from))
}

#[cfg(test)]
mod tests {
    use holdfast_proto::otlp::trace::v1::span::Link;

    use super::*;

    /// A span of a trace below another one, with links, from one millisecond to another.
    fn span(trace: u8, id: u8, parent: u8, name: &str, links: &[u8], ms: (u64, u64)) -> Span {
        let links = links.iter().map(|id| Link { span_id: vec![*id], ..Link::default() }).collect();
        Span {
            trace_id: vec![trace],
            span_id: vec![id],
            parent_span_id: if parent == 0 { Vec::new() } else { vec![parent] },
            name: name.to_owned(),
            start_time_unix_nano: ms.0 * 1_000_000,
            end_time_unix_nano: ms.1 * 1_000_000,
            links,
            ..Span::default()
        }
    }

    /// Each step ends where the next begins, and an order that lacks a span is left out.
    #[test]
    fn the_steps_of_an_order_have_no_gaps() {
        let mut spans = vec![
            span(1, 1, 0, POST, &[], (0, 9)),
            span(1, 2, 1, CALL, &[], (1, 8)),
            span(1, 3, 2, CALL, &[], (2, 7)),
            span(1, 4, 3, "order.insert_order", &[], (3, 6)),
            span(1, 5, 3, "create order.created", &[], (3, 3)),
            span(2, 6, 0, "send order.created", &[5], (7, 9)),
            span(3, 7, 0, "process batch", &[], (9, 14)),
            span(3, 8, 7, "COMMIT", &[], (12, 13)),
            span(1, 9, 5, "process order.created", &[7], (9, 13)),
            span(1, 10, 9, "create payment.completed", &[], (11, 11)),
            span(4, 11, 0, "send payment.completed", &[10], (14, 16)),
            // Delivery's.
            span(5, 12, 0, "process batch", &[], (15, 18)),
            span(1, 13, 10, "process payment.completed", &[12], (15, 18)),
            span(6, 14, 0, "process batch", &[], (16, 23)),
            span(6, 15, 14, "order.update_orders", &[], (17, 18)),
            span(6, 16, 14, "COMMIT", &[], (19, 22)),
            span(1, 17, 10, "process payment.completed", &[14], (16, 22)),
            span(7, 18, 0, POST, &[], (0, 100)),
        ];
        let steps = of(&spans).expect("in range");
        let ms: Vec<f64> = steps.iter().map(|step| step.time.max_ms.round()).collect();
        assert_eq!(ms, [1.0, 1.0, 1.0, 3.0, 1.0, 2.0, 3.0, 1.0, 1.0, 2.0, 3.0, 3.0, 22.0, 9.0]);
        assert!(steps.iter().all(|step| step.time.count == 1));
        spans.retain(|span| span.name != "send payment.completed");
        assert!(of(&spans).expect("in range").is_empty());
    }
}
