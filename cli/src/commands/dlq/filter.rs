//! Which dead letters.

use anyhow::{Context as _, Result};
use clap::Args;
use holdfast_common::consumer::Class;
use holdfast_operator::moment::parse_time;
use holdfast_proto::{ops::v1 as pb, to_timestamp, topic::EVENT_TOPICS};
use time::OffsetDateTime;
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
    #[arg(long, visible_alias = "key", value_name = "ORDER_ID", value_parser = parse_id)]
    order: Option<Uuid>,
    /// Parked at or after: 2026-01-31T12:00:00Z, 2026-01-31, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<OffsetDateTime>,
    /// Parked before: 2026-01-31T12:00:00Z, 2026-01-31, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<OffsetDateTime>,
}

impl Filter {
    pub(super) fn to_proto(&self) -> pb::DeadLetterFilter {
        pb::DeadLetterFilter {
            ids: Vec::new(),
            topic: self.topic.clone().unwrap_or_default(),
            class: self.class.clone().unwrap_or_default(),
            subject: self.order.map(|order| order.to_string()).unwrap_or_default(),
            since: self.since.map(to_timestamp),
            until: self.until.map(to_timestamp),
        }
    }

    /// Of letters in a state; unspecified: in any.
    pub(super) fn in_state(&self, state: pb::DeadLetterState) -> pb::ListDeadLettersRequest {
        let pb::DeadLetterFilter { ids, topic, class, subject, since, until } = self.to_proto();
        pb::ListDeadLettersRequest {
            ids,
            topic,
            class,
            subject,
            since,
            until,
            state: state.into(),
            ..pb::ListDeadLettersRequest::default()
        }
    }

    /// Whether it selects everything.
    pub(super) fn is_empty(&self) -> bool {
        let texts = [&self.service, &self.topic, &self.class];
        texts.iter().all(|text| text.is_none())
            && self.order.is_none()
            && self.since.is_none()
            && self.until.is_none()
    }
}

/// The id of an order, as a filter. An empty value must never match everything, so it is checked here, before any call.
fn parse_id(text: &str) -> Result<Uuid> {
    Uuid::try_parse(text)
        .ok()
        .filter(|id| !id.is_nil())
        .context("must be the id of an order, such as 01a21184-8763-7214-acea-bb1c3b689082")
}
