//! The messages of a topic: the newest, those from an offset or a time on, or those of an order or a key.

use std::time::Duration;

use askama::Template;
use axum::{
    Extension,
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use holdfast_common::record::Record;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{
    message::{busy, cannot_be_shown, tool},
    record::{MessageRow, is_topic_name, topic_link},
    stuck,
    topics::{records, tools},
};
use crate::{
    browse::{
        self, BROWSE_TIME_MAX, Ends, Question, SEARCH_RECORDS_MAX, SEARCH_TIME_MAX, SHOWN_MAX, Seen, Start,
        WATCH_TIME_MAX, Which,
    },
    payloads::Payloads,
    scan::{Looked, Scan, Stop},
    session::Session,
    state::Console,
    topics::NotRead,
    view::{self, Frame, ROWS_MAX, Shown, link, message},
};

/// Of a key that is looked for.
const KEY_BYTES_MAX: usize = 255;

/// The address.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub(crate) struct Wanted {
    #[serde(default)]
    pub(crate) partition: String,
    #[serde(default)]
    offset: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    order: String,
    #[serde(default)]
    key: String,
}

impl Wanted {
    /// The newest messages.
    pub(crate) fn newest(partition: Option<i32>) -> Self {
        let partition = partition.map(|partition| partition.to_string()).unwrap_or_default();
        Self { partition, ..Self::default() }
    }

    /// Those of an order.
    pub(crate) fn of_order(id: Uuid) -> Self {
        Self { order: id.to_string(), ..Self::default() }
    }

    /// What it asks, or why it can't be meant.
    fn question(
        &self,
        topic: &str,
        payloads: Payloads,
        now: OffsetDateTime,
    ) -> Result<Question, &'static str> {
        let [partition, offset, time, order] =
            [&self.partition, &self.offset, &self.time, &self.order].map(|text| text.trim());
        let partition = match partition {
            "" => None,
            text => Some(number(text).ok_or("a partition is a number")?),
        };
        let which = match (order, self.key.as_str()) {
            ("", "") => Which::All,
            (order, "") => Which::Order(Uuid::try_parse(order).map_err(|_| "an order is named by its id")?),
            ("", _) if payloads != Payloads::Full => {
                return Err("keys are not shown here, and so not looked for: look for the order");
            }
            ("", key) if key.len() <= KEY_BYTES_MAX => Which::Key(key.to_owned()),
            ("", _) => return Err("a key that is looked for has at most 255 bytes"),
            _ => return Err("look for an order or for a key"),
        };
        let start = match (offset, time) {
            ("", "") => Start::Newest,
            ("", time) => Start::Time(
                time_of(time, now).ok_or("a time is an age such as 10m, or as 2026-01-31T12:00:00Z")?,
            ),
            (offset, "") => Start::Offset(number(offset).ok_or("an offset is a number")?),
            _ => return Err("begin at an offset or at a time"),
        };
        let has_place = partition.is_some() || matches!(which, Which::Key(_));
        if matches!(start, Start::Offset(_)) && !has_place {
            return Err("an offset is that of one partition: choose it");
        }
        Ok(Question { topic: topic.to_owned(), partition, start, which })
    }

    /// From another place on.
    fn from(&self, topic: &str, partition: i32, offset: i64) -> String {
        let wanted = Self {
            partition: partition.to_string(),
            offset: offset.to_string(),
            time: String::new(),
            ..self.clone()
        };
        wanted.link(topic)
    }

    /// The path of the page; empty if no topic can be called so.
    fn link(&self, topic: &str) -> String {
        match topic_link(topic) {
            path if path.is_empty() => path,
            path => link(&path, self),
        }
    }
}

fn number<N: TryFrom<i64>>(text: &str) -> Option<N> {
    N::try_from(text.parse::<i64>().ok().filter(|number| *number >= 0)?).ok()
}

fn time_of(text: &str, now: OffsetDateTime) -> Option<OffsetDateTime> {
    stuck::before(text, now).or_else(|| OffsetDateTime::parse(text, &Rfc3339).ok())
}

/// How far a partition was looked through.
#[derive(Debug)]
pub(super) struct LookedRow {
    pub(super) topic: Shown,
    pub(super) partition: i32,
    pub(super) from: i64,
    pub(super) next: i64,
    pub(super) end: i64,
    pub(super) records: u64,
    pub(super) found: usize,
    pub(super) why: &'static str,
    pub(super) onward: String,
    pub(super) back: String,
}

impl LookedRow {
    /// With links to what `wanted` asks for, after and before that.
    fn of(looked: &Looked, wanted: &Wanted, step: i64) -> Self {
        let ((topic, partition), span) = (&looked.span.place, &looked.span);
        let back = span.from.saturating_sub(step).max(span.first);
        let to = |is_there: bool, offset| {
            if is_there { wanted.from(topic, *partition, offset) } else { String::new() }
        };
        Self {
            topic: Shown::of(topic),
            partition: *partition,
            from: span.from,
            next: looked.next,
            end: span.end,
            records: looked.records,
            found: looked.found,
            why: match looked.stop {
                Stop::End => "to its end",
                Stop::Records => "at as many records as are looked at at once",
                Stop::Bytes => "at as many bytes as are looked at at once",
                Stop::Found => "until as much was found as is shown",
                Stop::Time => "until the time was over",
            },
            onward: to(looked.next < span.end, looked.next),
            back: to(span.from > span.first, back),
        }
    }

    pub(super) fn all(scan: &Scan, wanted: &Wanted, which: &Which) -> Vec<Self> {
        let step = match which {
            Which::All => i64::try_from(SHOWN_MAX),
            Which::Order(_) | Which::Key(_) => i64::try_from(SEARCH_RECORDS_MAX),
        };
        let step = step.unwrap_or(i64::MAX);
        scan.looked.iter().take(ROWS_MAX).map(|looked| Self::of(looked, wanted, step)).collect()
    }
}

/// How far was looked for something, in a sentence.
pub(super) fn said(scan: &Scan, what: &str) -> String {
    let records: u64 = scan.looked.iter().map(|looked| looked.records).sum();
    let partitions = match scan.looked.len() {
        1 => "1 partition".to_owned(),
        partitions => format!("{partitions} partitions"),
    };
    format!("Looked at {records} records of {partitions} for {what}: {} match.", scan.found.len())
}

/// Whether something of what was to be looked at was not.
pub(super) fn is_cut(scan: &Scan) -> bool {
    scan.looked.iter().any(|looked| looked.stop != Stop::End)
}

/// The order in which messages of several partitions are shown.
pub(super) fn by_time(record: &Record) -> (Option<i64>, &str, i32, i64) {
    (record.timestamp_ms, &record.topic, record.partition, record.offset)
}

#[derive(Debug)]
struct PartitionRow {
    number: i32,
    link: String,
    first: String,
    end: String,
    records: String,
    leader: String,
    copies: String,
}

impl PartitionRow {
    fn of(topic: &str, ends: &Ends) -> Self {
        let known = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let view = ends.view;
        Self {
            number: view.number,
            link: Wanted::newest(Some(view.number)).link(topic),
            first: known(ends.first),
            end: known(ends.end),
            records: known(records(ends)),
            leader: view.leader.map_or_else(|| "none".to_owned(), |leader| format!("broker {leader}")),
            copies: format!("{} of {}", view.in_sync, view.replicas),
        }
    }
}

#[derive(Debug, Default, Template)]
#[template(path = "topic.html", blocks = ["live"])]
pub(super) struct View {
    frame: Frame,
    topic: Shown,
    topic_link: String,
    partition: Shown,
    offset: Shown,
    time: Shown,
    order: Shown,
    key: Shown,
    can_find_keys: bool,
    said: String,
    is_cut: bool,
    has_more: bool,
    messages: Vec<MessageRow>,
    looked: Vec<LookedRow>,
    partitions: Vec<PartitionRow>,
}

impl View {
    /// Without what could not be seen.
    fn without(frame: Frame, topic: &str, wanted: &Wanted, payloads: Payloads) -> Self {
        Self {
            frame,
            topic: Shown::of(topic),
            topic_link: topic_link(topic),
            partition: Shown::of(&wanted.partition),
            offset: Shown::of(&wanted.offset),
            time: Shown::of(&wanted.time),
            order: Shown::of(&wanted.order),
            key: Shown::of(&wanted.key),
            can_find_keys: payloads == Payloads::Full,
            said: "Nothing was looked at.".to_owned(),
            ..Self::default()
        }
    }

    pub(super) fn of(
        frame: Frame,
        wanted: &Wanted,
        question: &Question,
        seen: Seen,
        payloads: Payloads,
        now: OffsetDateTime,
    ) -> anyhow::Result<Self> {
        let Seen { topic, mut scan } = seen;
        let is_newest = question.start == Start::Newest && question.which == Which::All;
        let count = scan.found.len();
        scan.found.sort_by(|a, b| by_time(a).cmp(&by_time(b)));
        let said = match &question.which {
            Which::All if count == 0 => "No messages there.".to_owned(),
            Which::All if is_newest => "The newest messages, the newest first.".to_owned(),
            Which::All => "Messages from there on, the oldest first.".to_owned(),
            Which::Order(_) => said(&scan, "the order"),
            Which::Key(_) => said(&scan, "the key"),
        };
        let looked = if is_newest && question.partition.is_none() {
            Vec::new()
        } else {
            LookedRow::all(&scan, wanted, &question.which)
        };
        let is_cut = question.which != Which::All && is_cut(&scan);
        if is_newest {
            scan.found.reverse();
        }
        let messages = scan.found.iter().take(ROWS_MAX).map(|record| MessageRow::of(record, payloads, now));
        Ok(Self {
            said,
            is_cut,
            has_more: !is_newest && count > ROWS_MAX,
            messages: messages.collect::<anyhow::Result<_>>()?,
            looked,
            partitions: topic
                .partitions
                .iter()
                .take(ROWS_MAX)
                .map(|ends| PartitionRow::of(&topic.name, ends))
                .collect(),
            ..Self::without(frame, &topic.name, wanted, payloads)
        })
    }
}

/// The view, or why there is none.
async fn view(
    console: &Console,
    session: &Session,
    topic: &str,
    wanted: &Wanted,
    question: Question,
    time_max: Duration,
) -> Result<View, Response> {
    let is_newest = question.start == Start::Newest && question.which == Which::All;
    let asked = question.clone();
    let read =
        console.topics.read(time_max, move |reader, deadline| browse::look(reader, deadline, &asked)).await;
    let (seen, missing) = match read {
        Ok(seen) => {
            let missing = seen.topic.without_leader().take(ROWS_MAX).collect();
            (Some(seen), missing)
        }
        Err(NotRead::Failed(why)) => (None, vec![why]),
        Err(NotRead::Busy) => return Err(busy()),
        Err(NotRead::NotThere(why)) => return Err(message(StatusCode::NOT_FOUND, "Not there", why)),
    };
    let now = OffsetDateTime::now_utc();
    let mut frame = Frame::new(console, "Messages", &session.author).missing(&missing);
    if is_newest {
        frame =
            frame.live(&[("page", "topic"), ("topic", topic), ("partition", wanted.partition.trim())], now);
    }
    let from =
        seen.as_ref().and_then(|seen| seen.scan.looked.first().filter(|_| seen.scan.looked.len() == 1));
    let place = match from {
        Some(looked) => {
            let ((_, partition), from) = (&looked.span.place, looked.span.from);
            format!("--topic {topic} --partition {partition} --offset {from} --max-messages {SHOWN_MAX}")
        }
        None => format!("--topic {topic} --from-beginning --timeout-ms 5000"),
    };
    frame.commands.extend(tool(console, &place));
    frame.commands.extend(tools(console, &format!(" --topic {topic}")));
    match seen {
        None => Ok(View::without(frame, topic, wanted, console.payloads)),
        Some(seen) => View::of(frame, wanted, &question, seen, console.payloads, now)
            .map_err(|error| cannot_be_shown(&error)),
    }
}

/// The newest messages, as they are watched; `None` if they can't be shown now.
pub(super) async fn newest(console: &Console, topic: &str, partition: Option<i32>) -> Option<View> {
    let wanted = Wanted::newest(partition);
    let question = wanted.question(topic, console.payloads, OffsetDateTime::now_utc()).ok()?;
    view(console, &Session::default(), topic, &wanted, question, WATCH_TIME_MAX).await.ok()
}

pub(crate) async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(topic): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Response {
    if !is_topic_name(&topic) {
        return message(StatusCode::NOT_FOUND, "Not there", "no topic can be called so");
    }
    let question = match wanted.question(&topic, console.payloads, OffsetDateTime::now_utc()) {
        Ok(question) => question,
        Err(why) => return message(StatusCode::BAD_REQUEST, "Not understood", why),
    };
    let time_max = if question.which == Which::All { BROWSE_TIME_MAX } else { SEARCH_TIME_MAX };
    match view(&console, &session.author, &topic, &wanted, question, time_max).await {
        Ok(view) => view::page(StatusCode::OK, &view),
        Err(response) => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::Span;

    fn now() -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000)
    }

    /// Links say how to look further in both directions, with what was looked for, and not where there is no more.
    #[test]
    fn it_says_how_to_look_further() {
        let wanted = Wanted { order: Uuid::nil().to_string(), time: "10m".to_owned(), ..Wanted::default() };
        let looked = |first, from, next, end| Looked {
            span: Span { place: ("order.created".to_owned(), 2), first, from, end },
            next,
            records: 7,
            found: 0,
            stop: Stop::Records,
        };
        let links = |looked: &Looked| {
            let row = LookedRow::of(looked, &wanted, 100);
            (row.onward, row.back)
        };
        let to = |offset| format!("/topics/order.created?partition=2&offset={offset}&order={}", Uuid::nil());
        assert_eq!(links(&looked(0, 500, 600, 900)), (to(600), to(400)));
        assert_eq!(links(&looked(450, 500, 900, 900)), (String::new(), to(450)));
        assert_eq!(links(&looked(500, 500, 500, 900)), (to(500), String::new()));
        let mut foreign = looked(0, 5, 6, 9);
        foreign.span.place.0 = "<a>".to_owned();
        assert_eq!(links(&foreign), (String::new(), String::new()));
    }

    /// Where keys are not shown none is looked for: whether there is one would be shown then.
    #[test]
    fn a_key_that_is_not_shown_is_not_looked_for() {
        let wanted = Wanted { key: "alice".to_owned(), ..Wanted::default() };
        let which = |payloads| wanted.question("t", payloads, now()).map(|question| question.which);
        assert_eq!(which(Payloads::Full), Ok(Which::Key("alice".to_owned())));
        assert!(which(Payloads::Masked).is_err() && which(Payloads::Off).is_err());
    }

    /// A time is an age or a date.
    #[test]
    fn a_time_is_an_age_or_a_date() {
        assert_eq!(time_of("10m", now()), Some(now() - time::Duration::minutes(10)));
        assert_eq!(time_of("2024-10-04T00:00:00Z", now()), Some(now()));
        assert_eq!(time_of("soon", now()), None);
    }
}
