//! Which dead letters.

use anyhow::{Context as _, Result};
use clap::Args;
use holdfast_common::{config::parse_duration, consumer::Class};
use holdfast_proto::{ops::v1 as pb, to_timestamp, topic::EVENT_TOPICS};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::options::service_names;

/// Which dead letters.
#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Of this service
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    pub(super) service: Option<String>,
    /// Of this topic
    #[arg(long, value_name = "TOPIC", value_parser = EVENT_TOPICS)]
    topic: Option<String>,
    /// Of this class
    #[arg(long, value_name = "CLASS", value_parser = Class::ALL.map(Class::as_str))]
    class: Option<String>,
    /// Of this order
    #[arg(long, value_name = "ORDER_ID", value_parser = parse_id)]
    key: Option<Uuid>,
    /// Parked at or after: 2026-01-31T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<OffsetDateTime>,
    /// Parked before: 2026-01-31T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<OffsetDateTime>,
}

impl Filter {
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

    /// Whether it selects everything.
    pub(super) fn is_empty(&self) -> bool {
        let texts = [&self.service, &self.topic, &self.class];
        texts.iter().all(|text| text.is_none())
            && self.key.is_none()
            && self.since.is_none()
            && self.until.is_none()
    }
}

/// An empty value must never match everything, so ids are checked here, before any call.
pub(super) fn parse_id(text: &str) -> Result<Uuid> {
    Uuid::try_parse(text)
        .ok()
        .filter(|id| !id.is_nil())
        .context("must be an id such as 01a21184-8763-7214-acea-bb1c3b689082")
}

pub(super) fn parse_time(text: &str) -> Result<OffsetDateTime> {
    if let Ok(ago) = parse_duration(text) {
        let ago = time::Duration::try_from(ago).context("is too long ago")?;
        return OffsetDateTime::now_utc().checked_sub(ago).context("is too long ago");
    }
    OffsetDateTime::parse(text, &Rfc3339)
        .context("must be a time such as 2026-01-31T12:00:00Z, or 2h for two hours ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times are read as the help says, and garbage is refused.
    #[test]
    fn times_are_read_as_the_help_says() {
        let ago = OffsetDateTime::now_utc() - parse_time("2h").expect("a time");
        assert!((ago.whole_seconds() - 7200).abs() <= 1, "{ago}");
        assert!(parse_time("2026-01-31T12:00:00Z").is_ok());
        for wrong in ["", "yesterday", "199999999h", "18446744073709551615ms"] {
            assert!(parse_time(wrong).is_err(), "{wrong:?}");
        }
    }
}
