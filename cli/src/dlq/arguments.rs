//! The command line of `dlq`.

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use holdfast_common::{
    config::parse_duration,
    consumer::{Class, REASON_BYTES_MAX},
};
use holdfast_proto::{ops::v1 as pb, to_timestamp, topic::EVENT_TOPICS};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::arguments::{At, Format, service_names};

#[derive(Debug, Subcommand)]
pub(crate) enum DlqAction {
    /// Show dead letters, oldest first
    List(DlqList),
    /// Show one: headers, reason, attempts, history, and its value decoded by its schema
    Show(DlqShow),
    /// Have dead letters handled again, whole aggregates in order; a dry run unless --execute
    Redrive(DlqRedrive),
    /// Replace the value, the key or headers of a dead letter; the original is kept
    Edit(DlqEdit),
    /// Give dead letters up; what waits behind them is released at the next redrive
    Discard(DlqDiscard),
    /// Have consumers go on that stopped because of too many dead letters
    Resume(DlqResume),
    /// Pass over records that cannot be read at all, as readiness names them; they are set aside by their place
    Skip(DlqSkip),
    /// Show how many are parked, since when, and which consumers stopped because of them
    Stats(DlqStats),
    /// Show who did what to which dead letter
    Audit(DlqAudit),
}

/// Which dead letters.
#[derive(Debug, Args)]
pub(crate) struct DlqFilter {
    /// Of this service
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    pub(crate) service: Option<String>,
    /// Of this topic
    #[arg(long, value_name = "TOPIC", value_parser = EVENT_TOPICS)]
    pub(crate) topic: Option<String>,
    /// Of this class
    #[arg(long, value_name = "CLASS", value_parser = Class::ALL.map(Class::as_str))]
    pub(crate) class: Option<String>,
    /// Of this order
    #[arg(long, value_name = "ORDER_ID", value_parser = parse_id)]
    pub(crate) key: Option<Uuid>,
    /// Parked at or after: 2026-01-31T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) since: Option<OffsetDateTime>,
    /// Parked before: 2026-01-31T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) until: Option<OffsetDateTime>,
}

impl DlqFilter {
    pub(super) fn to_proto(&self) -> pb::DeadLetterFilter {
        pb::DeadLetterFilter {
            ids: Vec::new(),
            topic: self.topic.clone().unwrap_or_default(),
            class: self.class.clone().unwrap_or_default(),
            subject: self.key.map(|key| key.to_string()).unwrap_or_default(),
            since: self.since.map(to_timestamp),
            until: self.until.map(to_timestamp),
        }
    }

    /// Whether it narrows anything but the service.
    pub(super) fn is_empty(&self) -> bool {
        let texts = [&self.service, &self.topic, &self.class];
        texts.iter().all(|text| text.is_none())
            && self.key.is_none()
            && self.since.is_none()
            && self.until.is_none()
    }
}

/// An empty value must never match everything, so ids are checked here, before anything is asked for.
fn parse_id(text: &str) -> Result<Uuid> {
    Uuid::try_parse(text)
        .ok()
        .filter(|id| !id.is_nil())
        .context("must be an id such as 01a21184-8763-7214-acea-bb1c3b689082")
}

pub(crate) fn parse_reason(text: &str) -> Result<String> {
    let fits = !text.trim().is_empty() && text.len() <= REASON_BYTES_MAX;
    anyhow::ensure!(fits, "must be 1 to {REASON_BYTES_MAX} bytes");
    Ok(text.to_owned())
}

fn parse_time(text: &str) -> Result<OffsetDateTime> {
    if let Ok(ago) = parse_duration(text) {
        let ago = time::Duration::try_from(ago).context("is too long ago")?;
        return OffsetDateTime::now_utc().checked_sub(ago).context("is too long ago");
    }
    OffsetDateTime::parse(text, &Rfc3339)
        .context("must be a time such as 2026-01-31T12:00:00Z, or 2h for two hours ago")
}

/// Where a dead letter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DlqState {
    Parked,
    Redriven,
    Discarded,
    SetAside,
}

impl From<DlqState> for pb::DeadLetterState {
    fn from(state: DlqState) -> Self {
        match state {
            DlqState::Parked => Self::Parked,
            DlqState::Redriven => Self::Redriven,
            DlqState::Discarded => Self::Discarded,
            DlqState::SetAside => Self::SetAside,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DlqList {
    #[command(flatten)]
    pub(crate) at: At,
    #[command(flatten)]
    pub(crate) filter: DlqFilter,
    /// In this state
    #[arg(long, value_enum)]
    pub(crate) state: Option<DlqState>,
    /// At most this many
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct DlqShow {
    #[command(flatten)]
    pub(crate) at: At,
    /// Its id
    #[arg(value_parser = parse_id)]
    pub(crate) id: Uuid,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// Who stands in the audit beside the identity.
#[derive(Debug, Args)]
pub(crate) struct By {
    /// Who you are, for the audit
    #[arg(long, env = "USER", value_name = "NAME")]
    author: Option<String>,
}

impl By {
    pub(crate) fn name(&self) -> String {
        self.author.clone().unwrap_or_default()
    }
}

#[derive(Debug, Args)]
pub(crate) struct DlqRedrive {
    #[command(flatten)]
    pub(crate) at: At,
    /// These; what else is parked of the same orders goes with them
    #[arg(value_parser = parse_id)]
    pub(crate) ids: Vec<Uuid>,
    #[command(flatten)]
    pub(crate) filter: DlqFilter,
    /// All that are parked
    #[arg(long)]
    pub(crate) all: bool,
    /// Do it; without this it is only shown
    #[arg(long)]
    pub(crate) execute: bool,
    /// So many a second: 50/s
    #[arg(long, value_name = "N/s", value_parser = parse_rate)]
    pub(crate) rate: Option<f64>,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max: Option<u32>,
    /// Those too that were redriven 3 times in vain
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) by: By,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

fn parse_rate(text: &str) -> Result<f64> {
    let rate: f64 =
        text.strip_suffix("/s").unwrap_or(text).parse().context("must be a number such as 50/s")?;
    anyhow::ensure!(rate.is_finite() && rate > 0.0, "must be more than 0");
    Ok(rate)
}

#[derive(Debug, Args)]
pub(crate) struct DlqEdit {
    #[command(flatten)]
    pub(crate) at: At,
    /// Its id
    #[arg(value_parser = parse_id)]
    pub(crate) id: Uuid,
    /// The event as JSON: a file, or - for standard input
    #[arg(long, value_name = "FILE|-", required_unless_present_any = ["header", "record_key"], value_parser = NonEmptyStringValueParser::new())]
    pub(crate) value: Option<String>,
    /// A header, in the place of all of its name; may be given again
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_header)]
    pub(crate) header: Vec<(String, String)>,
    /// The record's key
    #[arg(long, value_name = "TEXT")]
    pub(crate) record_key: Option<String>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) by: By,
}

fn parse_header(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').context("must be NAME=VALUE")?;
    anyhow::ensure!(!name.is_empty(), "must be NAME=VALUE");
    Ok((name.to_owned(), value.to_owned()))
}

#[derive(Debug, Args)]
pub(crate) struct DlqDiscard {
    #[command(flatten)]
    pub(crate) at: At,
    /// Their ids
    #[arg(required = true, num_args = 1..=1000, value_parser = parse_id)]
    pub(crate) ids: Vec<Uuid>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    pub(crate) reason: String,
    /// Don't ask
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) by: By,
}

#[derive(Debug, Args)]
pub(crate) struct DlqResume {
    #[command(flatten)]
    pub(crate) at: At,
    /// Of this service
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    pub(crate) service: String,
    /// Let each park so many more before the limit holds again
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) park: u32,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) by: By,
}

#[derive(Debug, Args)]
pub(crate) struct DlqSkip {
    #[command(flatten)]
    pub(crate) at: At,
    /// Of this service
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    pub(crate) service: String,
    /// Their topic
    #[arg(long, value_name = "TOPIC", value_parser = EVENT_TOPICS)]
    pub(crate) topic: String,
    /// Their partition
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) partition: i32,
    /// The first of them: where readiness says that reading stands
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    pub(crate) offset: i64,
    /// How many
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) records: u32,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    pub(crate) reason: String,
    /// Don't ask
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) by: By,
}

#[derive(Debug, Args)]
pub(crate) struct DlqStats {
    #[command(flatten)]
    pub(crate) at: At,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct DlqAudit {
    #[command(flatten)]
    pub(crate) at: At,
    /// Of this dead letter
    #[arg(value_parser = parse_id)]
    pub(crate) id: Option<Uuid>,
    /// Since: 2026-01-31T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) since: Option<OffsetDateTime>,
    /// At most this many
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates and times are read as the help says, and garbage is refused.
    #[test]
    fn rates_and_times_are_read_as_the_help_says() {
        assert!((parse_rate("50/s").expect("a rate") - 50.0).abs() < f64::EPSILON);
        assert!((parse_rate("0.5").expect("a rate") - 0.5).abs() < f64::EPSILON);
        for wrong in ["", "fast", "0/s", "-1/s", "inf/s", "50/m"] {
            assert!(parse_rate(wrong).is_err(), "{wrong:?}");
        }
        let ago = OffsetDateTime::now_utc() - parse_time("2h").expect("a time");
        assert!((ago.whole_seconds() - 7200).abs() <= 1, "{ago}");
        assert!(parse_time("2026-01-31T12:00:00Z").is_ok());
        for wrong in ["", "yesterday", "199999999h", "18446744073709551615ms"] {
            assert!(parse_time(wrong).is_err(), "{wrong:?}");
        }
        let header = parse_header("ce_type=a=b").expect("a header");
        assert_eq!(header, ("ce_type".to_owned(), "a=b".to_owned()));
        assert!(parse_header("ce_type").is_err() && parse_header("=x").is_err());
    }
}
