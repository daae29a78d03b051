//! One message: its key, headers and value, decoded and as bytes.

use std::fmt::Display;

use anyhow::Result;
use askama::Template;
use axum::{
    Extension,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use holdfast_common::{kafka::reader::Place, record};
use time::OffsetDateTime;

use super::record::{About, Record, events_of, is_topic_name, message_link, topic_link, written};
use crate::{
    browse::{self, BROWSE_TIME_MAX},
    payloads::Payloads,
    session::Session,
    state::Console,
    topics::NotRead,
    view::{self, Frame, Moment, Shown, message},
};

#[derive(Debug, Template)]
#[template(path = "message_page.html")]
pub(super) struct View {
    frame: Frame,
    topic: Shown,
    topic_link: String,
    partition: i32,
    offset: i64,
    written: Moment,
    order: String,
    order_link: String,
    letter_link: String,
    bytes: usize,
    headers_unreadable: bool,
    record: Record,
    before: String,
    after: String,
}

impl View {
    /// With the offsets that its partition has.
    pub(super) fn of(
        frame: Frame,
        record: &record::Record,
        (first, end): (i64, i64),
        payloads: Payloads,
        now: OffsetDateTime,
    ) -> Result<Self> {
        let About { order, order_link, letter_link } = About::of(record);
        let headers = record
            .headers
            .iter()
            .map(|header| (header.name.as_str(), header.value.as_deref().unwrap_or_default()));
        let neighbour = |offset: i64| {
            let is_there = (first..end).contains(&offset);
            if is_there { message_link(&record.topic, record.partition, offset) } else { String::new() }
        };
        Ok(Self {
            frame,
            topic: Shown::of(&record.topic),
            topic_link: topic_link(&record.topic),
            partition: record.partition,
            offset: record.offset,
            written: written(record, now),
            order,
            order_link,
            letter_link,
            bytes: record.size_bytes(),
            headers_unreadable: record.headers_unreadable,
            record: Record::of(
                payloads,
                events_of(&record.topic),
                record.key.as_deref(),
                headers,
                record.value.as_deref(),
            )?,
            before: neighbour(record.offset - 1),
            after: neighbour(record.offset + 1),
        })
    }
}

/// What Kafka's own tool does that shows messages.
pub(super) fn tool(console: &Console, place: &str) -> Option<String> {
    let brokers = console.topics.addresses()?;
    let encrypted = if console.topics.has_tls() { " --command-config operator.properties" } else { "" };
    let shown = ["key", "headers", "timestamp", "offset"].map(|part| format!("print.{part}=true"));
    let shown = shown.map(|property| format!(" --formatter-property {property}")).concat();
    Some(format!("kafka-console-consumer.sh --bootstrap-server {brokers}{encrypted} {place}{shown}"))
}

/// All readers are taken.
pub(super) fn busy() -> Response {
    let text = "as many pages as may read topics at a time do so now: load this page again in a moment";
    view::busy("Too many readers", text)
}

/// Why there is no page.
pub(super) fn not_read(why: NotRead) -> Response {
    match why {
        NotRead::Busy => busy(),
        NotRead::NotThere(why) => message(StatusCode::NOT_FOUND, "Not there", why),
        NotRead::Failed(why) => message(StatusCode::SERVICE_UNAVAILABLE, "Topics can't be read", why),
    }
}

pub(super) fn cannot_be_shown(error: &impl Display) -> Response {
    message(StatusCode::INTERNAL_SERVER_ERROR, "Cannot be shown", format!("{error:#}"))
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path((topic, partition, offset)): Path<(String, String, String)>,
) -> Response {
    let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
    let partition = number(&partition).and_then(|number| i32::try_from(number).ok());
    let (Some(partition), Some(offset), true) = (partition, number(&offset), is_topic_name(&topic)) else {
        let text = "a message is named by its topic, partition and offset";
        return message(StatusCode::NOT_FOUND, "No such message", text);
    };
    let place: Place = (topic.clone(), partition);
    let read = console
        .topics
        .read(BROWSE_TIME_MAX, move |reader, deadline| browse::record(reader, deadline, &place, offset))
        .await;
    let (record, first, end) = match read {
        Ok(read) => read,
        Err(why) => return not_read(why),
    };
    let mut frame = Frame::new(&console, "Message", &session.author);
    let place = format!("--topic {topic} --partition {partition} --offset {offset} --max-messages 1");
    frame.commands.extend(tool(&console, &place));
    match View::of(frame, &record, (first, end), console.payloads, OffsetDateTime::now_utc()) {
        Ok(view) => view::page(StatusCode::OK, &view),
        Err(error) => cannot_be_shown(&error),
    }
}
