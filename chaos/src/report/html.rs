//! The page: readable without network and without scripts, in the dark and on paper.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    Report,
    chart::{Band, Line, chart},
};
use crate::{
    evidence::Evidence,
    journal::Operation,
    judge::{Outcome, recovery::quantiles},
};

const STYLE: &str = include_str!("style.css");

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(super) fn page(report: &Report, evidence: &Evidence) -> String {
    let outcome = report.judgement.outcome.name();
    let sections = [
        verdicts(report),
        run(report),
        calls(report),
        timeline(report, evidence),
        matrix(report),
        faults(report),
        marks(report),
        statistics(report),
        stories(report),
        not_tested(report),
    ];
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Chaos: {outcome}</title><style>{STYLE}</style>\
         </head><body><main><h1>Chaos run: <span class=\"{class}\">{outcome}</span></h1>{}</main></body></html>",
        sections.concat(),
        class = class(report.judgement.outcome),
    )
}

const fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Fail => "fail",
        Outcome::Unknown => "unknown",
    }
}

/// A table of rows; cells are HTML already.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut html = String::from("<div class=\"scroll\"><table><thead><tr>");
    for cell in head {
        // Writing to a String can't fail.
        let _ = write!(html, "<th>{cell}</th>");
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        let _ = write!(html, "<tr><td>{}</td></tr>", row.join("</td><td>"));
    }
    html.push_str("</tbody></table></div>");
    html
}

fn verdicts(report: &Report) -> String {
    let mut html = String::new();
    for reason in &report.judgement.unproven {
        let _ = write!(html, "<p class=\"unknown\">{}</p>", escape(reason));
    }
    let rows = report.judgement.verdicts.iter().map(|verdict| {
        let (class, name) = match (verdict.outcome, verdict.required) {
            (Outcome::Unknown, false) => ("", "not part of this run"),
            (outcome, _) => (class(outcome), outcome.name()),
        };
        let mut promise = escape(&verdict.promise);
        if verdict.violated > 0 {
            let _ = write!(promise, "<details open><summary>{} violations</summary><ul>", verdict.violated);
            for violation in &verdict.violations {
                let _ = write!(
                    promise,
                    "<li><code>{}</code>: {}</li>",
                    escape(&violation.subject),
                    escape(&violation.what)
                );
            }
            promise.push_str("</ul></details>");
        }
        vec![
            verdict.id.clone(),
            format!("<span class=\"{class}\">{name}</span>"),
            promise,
            format!("{} (at least {})", verdict.checked, verdict.checked_min),
        ]
    });
    html + "<h2>Verdicts</h2>" + &table(&["", "verdict", "promise", "checked"], rows)
}

fn run(report: &Report) -> String {
    let info = &report.info;
    let plan = &info.plan;
    let rows = [
        ("repeat", format!("<code>{}</code>", escape(&info.command))),
        ("scenario", format!("{}: {}", escape(&plan.name), escape(&plan.scenario.about))),
        ("began", escape(&info.began_at)),
        ("commit", escape(&info.commit)),
        ("machine", escape(&info.machine)),
        ("components", escape(&info.components.join(", "))),
        (
            "load",
            format!(
                "{} orders/s for {} s: {} s without faults, {} s with, {} s without",
                plan.scenario.orders_per_second,
                plan.load_seconds(),
                plan.scenario.control_seconds,
                plan.scenario.storm_seconds,
                plan.scenario.calm_seconds
            ),
        ),
        (
            "after the load",
            format!(
                "{} keys with an unknown outcome sent again, {} letters discarded, {} lost events re-emitted",
                info.resolved, info.discarded, info.re_emitted
            ),
        ),
    ];
    let rows = rows.map(|(name, value)| vec![name.to_owned(), value]);
    let json = escape(&serde_json::to_string_pretty(&plan.faults).unwrap_or_default());
    format!(
        "<h2>Run</h2>{}<details><summary>the plan</summary><pre>{json}</pre></details>",
        table(&["", ""], rows)
    )
}

fn calls(report: &Report) -> String {
    let rows = report.statistics.calls.iter().map(|(name, calls)| {
        let cells = [calls.well, calls.failed, calls.unknown, calls.given_up].map(|count| count.to_string());
        [vec![name.clone()], cells.to_vec()].concat()
    });
    let calls =
        table(&["call", "answered well", "failed, no effect", "unknown", "given up by the client"], rows);
    let answers = report.statistics.answers.iter().map(|(status, count)| {
        let status = if *status == 0 { "no answer".to_owned() } else { status.to_string() };
        vec![status, count.to_string()]
    });
    format!(
        "<h2>Calls</h2>{calls}<p>{} keys had an unknown outcome at first; sent again, each was answered.</p>{}",
        report.statistics.unknown_resolved,
        table(&["status", "answers"], answers)
    )
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of hours are far below 2^52")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Of the calls that began in a second: how long the good answers took, in milliseconds, and how many others there were.
type Second = (Vec<f64>, f64);

fn timeline(report: &Report, evidence: &Evidence) -> String {
    let last = evidence.samples.last().map_or(report.info.load_ended, |sample| sample.time);
    let end = seconds(last.max(report.info.load_ended));
    let bands: Vec<Band> = report
        .faults
        .iter()
        .filter(|fault| fault.landed.is_some())
        .map(|fault| Band {
            begin: seconds(fault.begin),
            end: fault.over.map_or(end, seconds),
            what: format!(
                "{} {}: {}",
                fault.action.name(),
                fault.target,
                fault.landed.as_deref().unwrap_or_default()
            ),
        })
        .collect();
    let mut by_second: BTreeMap<u64, Second> = BTreeMap::new();
    for call in &evidence.calls {
        let Some(ended) = call.end.filter(|_| call.op != Operation::Credit) else { continue };
        let second = by_second.entry(call.begin / 1_000_000).or_default();
        if call.is_answered_well() {
            second.0.push(seconds(ended - call.begin) * 1_000.0);
        } else {
            second.1 += 1.0;
        }
    }
    let at = |second: &u64| seconds(second * 1_000_000);
    let line = |name, value: &dyn Fn(&Second) -> f64| Line {
        name,
        points: by_second.iter().map(|(second, calls)| (at(second), value(calls))).collect(),
    };
    #[expect(clippy::cast_precision_loss, reason = "calls of a second")]
    let calls =
        [line("answered well", &|calls| calls.0.len() as f64), line("not answered well", &|calls| calls.1)];
    let latency =
        |calls: &Second, index: usize| quantiles(calls.0.clone()).map_or(0.0, |values| values[index]);
    let latencies = [
        line("median", &|calls| latency(calls, 0)),
        line("95th percentile", &|calls| latency(calls, 1)),
        line("slowest", &|calls| latency(calls, 2)),
    ];
    let sampled = |name, value: &dyn Fn(&crate::watch::Sample) -> Option<i64>| Line {
        name,
        points: evidence
            .samples
            .iter()
            .filter_map(|sample| {
                #[expect(clippy::cast_precision_loss, reason = "records that wait")]
                Some((seconds(sample.time), value(sample)? as f64))
            })
            .collect(),
    };
    let lag = |service: &'static str| {
        sampled(service, &move |sample| sample.services.get(service).and_then(|service| service.lag))
    };
    let outbox = |service: &'static str| {
        sampled(service, &move |sample| sample.services.get(service).map(|service| service.outbox))
    };
    let charts = [
        chart("calls", "/s", end, &calls, &bands),
        chart("time of an answer", "ms", end, &latencies, &bands),
        chart(
            "orders on their way",
            "",
            end,
            &[sampled("unfinished", &|s| s.orders.map(|(open, _)| open))],
            &bands,
        ),
        chart("consumer lag", "records", end, &["order", "payment", "delivery"].map(lag), &bands),
        chart("outbox", "rows", end, &["order", "payment", "delivery"].map(outbox), &bands),
    ];
    format!("<h2>Timeline</h2><p>Bands are faults; hover over one to see which.</p>{}", charts.concat())
}

fn matrix(report: &Report) -> String {
    let rows = report.recovery_by_kind.iter().map(|(kind, summary)| {
        let show = |values: Option<[f64; 3]>| {
            values.map_or("-".to_owned(), |[p50, p95, max]| format!("{p50:.2} / {p95:.2} / {max:.2}"))
        };
        vec![
            escape(kind),
            summary.landed.to_string(),
            summary.missed.to_string(),
            show(summary.accepts),
            show(summary.drained),
        ]
    });
    let head = [
        "fault",
        "landed",
        "without effect",
        "first order accepted after it, s: p50 / p95 / max",
        "nothing waits, s",
    ];
    format!("<h2>Faults by kind</h2>{}", table(&head, rows))
}

fn faults(report: &Report) -> String {
    let rows = report.faults.iter().map(|fault| {
        let recovery = report.recoveries.iter().find(|recovery| recovery.fault == fault.number);
        let after = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        vec![
            fault.number.to_string(),
            format!("{:.1}", seconds(fault.begin)),
            format!("{} {}", fault.action.name(), escape(&fault.target)),
            fault.over.map_or("never".to_owned(), |over| {
                format!("{:.2}", seconds(over.saturating_sub(fault.begin)))
            }),
            escape(fault.landed.as_deref().unwrap_or("did not land")),
            escape(fault.error.as_deref().unwrap_or_default()),
            after(recovery.and_then(|recovery| recovery.accepts_after)),
            after(recovery.and_then(|recovery| recovery.drained_after)),
        ]
    });
    let head =
        ["", "at, s", "fault", "lasted, s", "seen to land", "error", "accepts after, s", "drained after, s"];
    format!(
        "<h2>Faults</h2><details><summary>all {}</summary>{}</details>",
        report.faults.len(),
        table(&head, rows)
    )
}

fn marks(report: &Report) -> String {
    let rows = report.marks.iter().map(|(mark, count)| {
        let count = if *count == 0 {
            "<span class=\"unknown\">not reached</span>".to_owned()
        } else {
            count.to_string()
        };
        vec![escape(mark), count]
    });
    format!("<h2>Rare places that were reached</h2>{}", table(&["place", "times"], rows))
}

fn statistics(report: &Report) -> String {
    let numbers = &report.statistics;
    let percent = |share: f64| format!("{:.3} %", share * 100.0);
    let chance = numbers.violation_chance_max.map_or("-".to_owned(), percent);
    let unseen = numbers.unseen_share.map_or("-".to_owned(), percent);
    let rows = [
        ("calls answered well at the first attempt", percent(numbers.attempts_well)),
        ("orders accepted in the end", percent(numbers.orders_well)),
        (
            "calls that nothing excuses",
            format!("{}, {} of them failed", numbers.unexcused, numbers.unexcused_failed),
        ),
        ("faults that landed", numbers.landed.to_string()),
        ("if nothing was violated: chance of a violation per fault, with 95 % confidence, below", chance),
        ("share of what can happen that was not seen yet, about (Good-Turing)", unseen),
    ];
    let rows = rows.map(|(name, value)| vec![name.to_owned(), value]);
    format!(
        "<h2>Statistics</h2>{}<p>A run of minutes says little by itself: numbers add up over the runs of one commit.</p>",
        table(&["", ""], rows)
    )
}

fn stories(report: &Report) -> String {
    if report.stories.is_empty() {
        return String::new();
    }
    let mut html = String::from("<h2>Violations, with all that is known</h2>");
    for (subject, lines) in &report.stories {
        let _ =
            write!(html, "<h3><code>{}</code></h3><pre>{}</pre>", escape(subject), escape(&lines.join("\n")));
    }
    html
}

fn not_tested(report: &Report) -> String {
    let items: Vec<String> =
        report.not_tested.iter().map(|item| format!("<li>{}</li>", escape(item))).collect();
    let items = items.concat();
    format!(
        "<h2>What was not tested</h2><ul>{items}</ul><p>The raw history lies beside this page: <code>journal.jsonl</code>, \
         <code>faults.jsonl</code>, <code>samples.jsonl</code>, <code>state.json</code>, <code>records.jsonl</code>, \
         <code>logs</code>. <code>holdfast chaos check</code> judges it again.</p>"
    )
}
