//! Everything that is known of one order: calls, rows, events, letters, the faults around it, and the lines of the logs.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use crate::{evidence::Evidence, storm::FaultRecord};

/// Faults this close to a call are part of its story, in microseconds.
const NEAR: u64 = 5_000_000;
/// Lines of a log that are shown; the logs are beside the evidence.
const LOG_LINES_MAX: usize = 40;

/// The story of `subject`, an order or a user, as lines in the order of their times where they have one.
#[must_use]
pub fn story(evidence: &Evidence, subject: &str, logs: &Path) -> Vec<String> {
    let mut timed: Vec<(u64, String)> = Vec::new();
    let key = evidence
        .state
        .orders
        .iter()
        .find(|order| order.order_id == subject)
        .and_then(|order| order.key.clone());
    for call in &evidence.calls {
        let facts = &call.facts;
        let is_about = facts.order_id.as_deref() == Some(subject)
            || facts.key.as_deref() == Some(subject)
            || (facts.key.is_some() && facts.key == key);
        if is_about {
            let json = serde_json::to_string(facts).unwrap_or_default();
            let end = call.end.map_or("never".to_owned(), time);
            timed.push((
                call.begin,
                format!("{} until {end}: {} {:?} {json}", time(call.begin), call.op.name(), call.stage),
            ));
        }
    }
    let near = |fault: &&FaultRecord| {
        timed.iter().any(|(at, _)| {
            fault.begin <= at + NEAR && *at <= fault.over.unwrap_or(u64::MAX).saturating_add(NEAR)
        })
    };
    let faults: Vec<(u64, String)> = evidence
        .faults
        .iter()
        .filter(near)
        .map(|fault| {
            let landed = fault.landed.as_deref().unwrap_or("did not land");
            (
                fault.begin,
                format!("{}: {} {}: {landed}", time(fault.begin), fault.action.name(), fault.target),
            )
        })
        .collect();
    timed.extend(faults);
    timed.sort();
    let mut lines: Vec<String> = timed.into_iter().map(|(_, line)| line).collect();
    let state = &evidence.state;
    lines.extend(state.orders.iter().filter(|row| row.order_id == subject).map(|row| format!("{row:?}")));
    lines.extend(state.payments.iter().filter(|row| row.order_id == subject).map(|row| format!("{row:?}")));
    lines.extend(state.accounts.iter().filter(|row| row.user_id == subject).map(|row| format!("{row:?}")));
    lines.extend(state.deliveries.iter().filter(|row| row.order_id == subject).map(|row| format!("{row:?}")));
    let about = |record: &&crate::evidence::Record| record.subject.as_deref() == Some(subject);
    lines.extend(evidence.records.iter().filter(about).map(|record| format!("{record:?}")));
    let letters = state.letters.iter().filter(|letter| letter.subject.as_deref() == Some(subject));
    lines.extend(letters.map(|letter| format!("{letter:?}")));
    lines.extend(log_lines(subject, logs));
    lines
}

fn time(us: u64) -> String {
    format!("{}.{:03} s", us / 1_000_000, us / 1_000 % 1_000)
}

/// What the logs say of it, if they are there.
fn log_lines(subject: &str, logs: &Path) -> Vec<String> {
    let mut found = Vec::new();
    // Without the logs the story is shorter.
    let Ok(files) = std::fs::read_dir(logs) else { return found };
    for file in files.filter_map(Result::ok) {
        let Ok(log) = File::open(file.path()) else { continue };
        for line in BufReader::new(log).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            if line.contains(subject) && found.len() < LOG_LINES_MAX {
                found.push(format!("{}: {line}", file.file_name().to_string_lossy()));
            }
        }
    }
    found
}
