//! All topics of the brokers: what they have, who reads it, and how long it is kept.

use std::{collections::BTreeMap, time::Duration};

use askama::Template;
use axum::{Extension, extract::State, http::StatusCode, response::Response};
use holdfast_common::kafka::reader::Retention;
use holdfast_operator::text::age_text;
use holdfast_proto::topic;

use super::{message::busy, record::topic_link};
use crate::{
    browse::{self, BROWSE_TIME_MAX, Ends, TopicSeen, is_ours},
    session::Session,
    state::Console,
    topics::NotRead,
    view::{self, Frame, ROWS_MAX, Shown},
};

/// Partitions of one topic whose offsets are in the list.
const PARTITIONS_SHOWN_MAX: usize = 8;

#[derive(Debug, Template)]
#[template(path = "topics.html")]
pub(super) struct View {
    frame: Frame,
    topics: Vec<TopicRow>,
    has_more: bool,
}

#[derive(Debug)]
struct TopicRow {
    name: Shown,
    link: String,
    kind: String,
    readers: Vec<&'static str>,
    partitions: usize,
    records: String,
    offsets: Vec<String>,
    copies: String,
    kept: String,
}

impl View {
    pub(super) fn of(
        frame: Frame,
        mut topics: Vec<TopicSeen>,
        retention: &BTreeMap<String, Retention>,
    ) -> Self {
        // Ours come first.
        topics.sort_by_key(|topic| (!is_ours(&topic.name), topic.name.clone()));
        Self {
            frame,
            has_more: topics.len() > ROWS_MAX,
            topics: topics
                .iter()
                .take(ROWS_MAX)
                .map(|topic| TopicRow::of(topic, retention.get(&topic.name)))
                .collect(),
        }
    }
}

impl TopicRow {
    fn of(topic: &TopicSeen, retention: Option<&Retention>) -> Self {
        let offsets = |one: &Ends| {
            let number = one.view.number;
            match (one.first, one.end) {
                (Some(first), Some(end)) => format!("{number}: {first} to {end}"),
                _ => format!("{number}: no leader"),
            }
        };
        let mut lines: Vec<String> =
            topic.partitions.iter().take(PARTITIONS_SHOWN_MAX).map(offsets).collect();
        if topic.partitions.len() > PARTITIONS_SHOWN_MAX {
            lines.push("…".to_owned());
        }
        let records: Option<i64> = topic.partitions.iter().map(records).sum();
        let least = topic.partitions.iter().map(|one| (one.view.in_sync, one.view.replicas)).min();
        Self {
            name: Shown::of(&topic.name),
            link: topic_link(&topic.name),
            kind: kind(&topic.name),
            readers: topic::READINGS
                .iter()
                .filter(|(read, _)| *read == topic.name)
                .map(|(_, group)| *group)
                .collect(),
            partitions: topic.partitions.len(),
            records: records.map_or_else(|| "-".to_owned(), |records| records.to_string()),
            offsets: lines,
            copies: least.map(|(in_sync, of)| format!("{in_sync} of {of}")).unwrap_or_default(),
            kept: retention.map_or_else(|| "-".to_owned(), kept),
        }
    }
}

/// Offsets between the oldest record and the end; `None` without a leader.
pub(super) fn records(ends: &Ends) -> Option<i64> {
    Some((ends.end? - ends.first?).max(0))
}

fn kind(name: &str) -> String {
    match (topic::event_of(name), topic::copied_from(name)) {
        (Some((_, _, writer)), _) => format!("events of {writer}"),
        (None, Some((original, group))) => format!("dead letters of {group}, from {original}"),
        (None, None) if name.starts_with("__") => "Kafka's own".to_owned(),
        (None, None) => "not of this system".to_owned(),
    }
}

fn kept(retention: &Retention) -> String {
    let is_limit = |number: &i64| *number >= 0;
    if retention.policy == "compact" {
        return "the newest record of each key".to_owned();
    }
    let time = retention.time_ms.filter(is_limit).and_then(|ms| u64::try_from(ms).ok());
    let time = time.map_or_else(|| "forever".to_owned(), |ms| age_text(Duration::from_millis(ms)));
    match retention.bytes.filter(is_limit) {
        Some(bytes) => format!("{time}, at most {bytes} bytes a partition"),
        None => time,
    }
}

pub(crate) async fn page(State(console): State<Console>, Extension(session): Extension<Session>) -> Response {
    let (mut missing, mut seen) = (Vec::new(), (Vec::new(), BTreeMap::new()));
    match console.topics.read(BROWSE_TIME_MAX, browse::overview).await {
        Ok(read) => seen = read,
        Err(NotRead::Busy) => return busy(),
        Err(NotRead::NotThere(why) | NotRead::Failed(why)) => missing.push(why),
    }
    let mut frame = Frame::new(&console, "Topics", &session.author).missing(&missing);
    frame.commands.extend(tools(&console, ""));
    view::page(StatusCode::OK, &View::of(frame, seen.0, &seen.1))
}

/// What Kafka's own tools do that show topics.
pub(super) fn tools(console: &Console, of: &str) -> Vec<String> {
    let Some(brokers) = console.topics.addresses() else { return Vec::new() };
    let encrypted = if console.topics.has_tls() { " --command-config operator.properties" } else { "" };
    let command = |tool: &str| format!("{tool} --bootstrap-server {brokers}{encrypted}");
    vec![
        format!("{} --describe{of}", command("kafka-topics.sh")),
        format!("{}{of}", command("kafka-get-offsets.sh")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a topic has and how long it keeps it, in words.
    #[test]
    fn topics_are_told_apart() {
        for (name, expected) in [
            ("order.created", "events of order"),
            ("order.created.payment.dlq", "dead letters of payment, from order.created"),
            ("__consumer_offsets", "Kafka's own"),
            ("x", "not of this system"),
        ] {
            assert_eq!(kind(name), expected);
        }
        let of = |policy: &str, time_ms, bytes| {
            kept(&Retention { policy: policy.to_owned(), time_ms: Some(time_ms), bytes: Some(bytes) })
        };
        assert_eq!(of("delete", 604_800_000, -1), "7d");
        assert_eq!(of("delete", -1, 1_000), "forever, at most 1000 bytes a partition");
        assert_eq!(of("compact", -1, -1), "the newest record of each key");
    }
}
