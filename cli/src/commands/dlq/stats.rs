//! `dlq stats`.

use std::io;

use anyhow::{Context as _, Result};
use clap::Args;
use holdfast_proto::{from_timestamp, ops::v1 as pb};
use serde::Serialize;
use time::OffsetDateTime;

use super::letter::time_text;
use crate::{
    options::Output,
    output::{Outcome, data, say, table},
    services::Services,
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
}

#[derive(Serialize)]
struct Line {
    service: &'static str,
    topic: String,
    class: String,
    parked: u64,
    oldest_parked_at: String,
    oldest_age_seconds: i64,
}

impl Line {
    fn of(stats: pb::DeadLetterStats, service: &'static str, now: OffsetDateTime) -> Self {
        let oldest = stats.oldest_parked_at.as_ref();
        Self {
            service,
            oldest_parked_at: time_text(oldest),
            oldest_age_seconds: from_timestamp(oldest).map_or(0, |at| (now - at).whole_seconds()),
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

impl Stats {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, None)?;
        let now = OffsetDateTime::now_utc();
        let mut document = Document { stats: Vec::new(), stopped_consumers: Vec::new() };
        for service in &services.all {
            let request = service.request(pb::GetDeadLetterStatsRequest {})?;
            let answer = service.dead_letters().get_dead_letter_stats(request).await;
            let answer = answer.with_context(|| service.failed())?.into_inner();
            document.stopped_consumers.extend(answer.stops.into_iter().map(|stop| Stop {
                service: service.name,
                reason: stop.reason,
                stopped_at: time_text(stop.stopped_at.as_ref()),
            }));
            document.stats.extend(answer.stats.into_iter().map(|stats| Line::of(stats, service.name, now)));
        }
        for Stop { service, reason, stopped_at } in &document.stopped_consumers {
            say!("{service}: a consumer stopped at {stopped_at}: {reason}. See `holdfast dlq resume --help`");
        }
        self.output.print(&document, || print(&document.stats))?;
        Ok(Outcome::Done)
    }
}

fn print(lines: &[Line]) -> io::Result<()> {
    let mut table = table(&["SERVICE", "TOPIC", "CLASS", "PARKED", "OLDEST", "AGE"]);
    for line in lines {
        table.add_row([
            line.service,
            &line.topic,
            &line.class,
            &line.parked.to_string(),
            &line.oldest_parked_at,
            &format!("{} s", line.oldest_age_seconds),
        ]);
    }
    data!("{table}")
}
