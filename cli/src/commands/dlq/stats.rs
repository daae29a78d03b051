//! `dlq stats`.

use std::{collections::BTreeSet, io};

use anyhow::Result;
use clap::Args;
use holdfast_proto::{from_timestamp, ops::v1 as pb};
use serde::Serialize;
use time::OffsetDateTime;

use super::letter::{age_of, time_text};
use crate::{
    options::Output,
    output::{Outcome, data, say},
    services::Services,
    table::Table,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Stats {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    stats: Vec<Line>,
    stopped_consumers: Vec<Stop>,
    allowances: Vec<AllowanceLine>,
}

/// Letters of one service, topic and class.
#[derive(Serialize)]
pub(super) struct Line {
    service: &'static str,
    topic: String,
    class: String,
    parked: u64,
    oldest_parked_at: String,
    oldest_age_seconds: i64,
    #[serde(skip)]
    age: String,
}

impl Line {
    pub(super) fn of(stats: pb::DeadLetterStats, service: &'static str, now: OffsetDateTime) -> Self {
        let oldest = stats.oldest_parked_at.as_ref();
        Self {
            service,
            oldest_parked_at: time_text(oldest),
            oldest_age_seconds: from_timestamp(oldest).map_or(0, |at| (now - at).whole_seconds()),
            age: age_of(oldest),
            topic: stats.topic,
            class: stats.class,
            parked: stats.parked,
        }
    }
}

#[derive(Serialize)]
struct Stop {
    service: &'static str,
    reason: String,
    stopped_at: String,
}

/// What an operator lets a consumer park before the limit applies again.
#[derive(Serialize)]
pub(super) struct AllowanceLine {
    service: &'static str,
    allowed: u64,
    /// Parked of them, as the consumer said about a second ago.
    used: u64,
    left: u64,
    since: String,
    #[serde(skip)]
    age: String,
}

impl AllowanceLine {
    pub(super) fn of(allowance: &pb::ConsumerAllowance, service: &'static str) -> Self {
        let &pb::ConsumerAllowance { allowed, used, ref since } = allowance;
        Self {
            service,
            allowed,
            used,
            left: allowed.saturating_sub(used),
            since: time_text(since.as_ref()),
            age: age_of(since.as_ref()),
        }
    }
}

impl Stats {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, None)?;
        let now = OffsetDateTime::now_utc();
        let answers = services
            .ask(async |service| {
                let request = service.request(pb::GetDeadLetterStatsRequest {})?;
                Ok(service.answer(service.dead_letters().get_dead_letter_stats(request).await)?)
            })
            .await?;
        let mut document =
            Document { stats: Vec::new(), stopped_consumers: Vec::new(), allowances: Vec::new() };
        for (service, answer) in &answers.each {
            document.stopped_consumers.extend(answer.stops.iter().map(|stop| Stop {
                service: service.name,
                reason: stop.reason.clone(),
                stopped_at: time_text(stop.stopped_at.as_ref()),
            }));
            let allowances = answer.allowances.iter();
            document.allowances.extend(allowances.map(|of| AllowanceLine::of(of, service.name)));
            document
                .stats
                .extend(answer.stats.iter().map(|stats| Line::of(stats.clone(), service.name, now)));
        }
        // What there is most of, and so what to look at first.
        document.stats.sort_by_key(|line| (std::cmp::Reverse(line.parked), line.service));
        for Stop { service, reason, stopped_at } in &document.stopped_consumers {
            let resume = self.target.hint(&format!("dlq resume --service {service} --reason TEXT"))?;
            say!(
                "{service}: a consumer stopped at {stopped_at}: {reason}. It goes on by itself once the cause is mended, or by {resume}"
            );
        }
        let ended_by = document.allowances.iter().map(|line| line.service).collect::<BTreeSet<_>>();
        for service in ended_by {
            let end =
                self.target.hint(&format!("dlq resume --service {service} --end-allowance --reason TEXT"))?;
            say!("{service}: an operator lets dead letters pass the limit; {end} takes back what is left");
        }
        self.output.print(&document, || print(&document))?;
        say!("{}", total(&document.stats, answers.elsewhere()));
        Ok(answers.outcome(Outcome::Done))
    }
}

/// `elsewhere` is as [`Answers::elsewhere`] has it.
fn total(lines: &[Line], elsewhere: &str) -> String {
    let parked: u64 = lines.iter().map(|line| line.parked).sum();
    let oldest = lines.iter().max_by_key(|line| line.oldest_age_seconds);
    match oldest {
        None => format!("no dead letter is parked{elsewhere}"),
        Some(oldest) => {
            format!("{parked} parked{elsewhere}, the oldest for {}", oldest.age)
        }
    }
}

fn print(document: &Document) -> io::Result<()> {
    if !document.stats.is_empty() {
        data!("{}", table(&document.stats))?;
    }
    if !document.allowances.is_empty() {
        data!("{}", allowance_table(&document.allowances))?;
    }
    Ok(())
}

/// What may be parked before the limit applies again, and how much of it is left.
pub(super) fn allowance_table(lines: &[AllowanceLine]) -> Table {
    let mut table = Table::new(&["ALLOWED", "USED", "LEFT", "SERVICE", "SINCE"]);
    for line in lines {
        let [allowed, used, left] = [line.allowed, line.used, line.left].map(|count| count.to_string());
        table.add_row([&allowed, &used, &left, line.service, &line.age]);
    }
    table
}

pub(super) fn table(lines: &[Line]) -> Table {
    let mut table = Table::new(&["PARKED", "SERVICE", "CLASS", "TOPIC", "OLDEST"]);
    for line in lines {
        table.add_row([&line.parked.to_string(), line.service, &line.class, &line.topic, &line.age]);
    }
    table
}
