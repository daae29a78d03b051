//! One entry of a log: its time and level, whoever wrote it, and how it is shown. Services write objects of JSON, the supervisor,
//! PostgreSQL, Kafka and Redis lines of their own.

use std::fmt::Write as _;

use clap::ValueEnum;
use holdfast_proto::text::on_one_line;
use serde_json::{Map, Value};
use time::{
    OffsetDateTime, PrimitiveDateTime,
    format_description::{StaticFormatDescription, well_known::Rfc3339},
    macros::format_description,
};

/// How grave an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    /// By the word that any of the components writes for it.
    fn of(word: &str) -> Option<Self> {
        Some(match word.trim_end_matches(':') {
            "TRACE" => Self::Trace,
            "DEBUG" | "DEBUG1" | "DEBUG2" => Self::Debug,
            "INFO" | "LOG" | "NOTICE" | "HINT" | "DETAIL" | "STATEMENT" | "CONTEXT" => Self::Info,
            "WARN" | "WARNING" => Self::Warn,
            "ERROR" | "FATAL" | "PANIC" => Self::Error,
            _ => return None,
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Trace => "TRACE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

/// A line that says its time, with the lines that follow it and don't.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) time: Option<OffsetDateTime>,
    /// Of lines without one: `Info`.
    pub(super) level: Level,
    lines: Vec<String>,
}

const OF_POSTGRES: StaticFormatDescription =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond]");
const OF_KAFKA: StaticFormatDescription =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second],[subsecond]");
const OF_REDIS: StaticFormatDescription =
    format_description!("[day] [month repr:short] [year] [hour]:[minute]:[second].[subsecond]");
const SHOWN: StaticFormatDescription =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]");

impl Entry {
    /// An entry that begins with this line; `None` if it belongs to the one before.
    pub(super) fn beginning(line: &str) -> Option<Self> {
        let (time, level) = read(line)?;
        Some(Self { time: Some(time), level, lines: vec![line.to_owned()] })
    }

    /// A line that follows none that says its time.
    pub(super) fn without_time(line: &str) -> Self {
        Self { time: None, level: Level::Info, lines: vec![line.to_owned()] }
    }

    pub(super) fn continue_with(&mut self, line: &str) {
        self.lines.push(line.to_owned());
    }

    /// As it was written; what would act on a terminal is escaped.
    pub(super) fn raw(&self) -> impl Iterator<Item = String> {
        self.lines.iter().map(|line| on_one_line(line).into_owned())
    }

    /// For people: time, level, message and fields of an object; other lines as they are.
    pub(super) fn readable(&self) -> Vec<String> {
        let Some((first, rest)) = self.lines.split_first() else { return Vec::new() };
        let first = match serde_json::from_str::<Map<String, Value>>(first) {
            Ok(object) => self.of_object(object),
            Err(_) => first.clone(),
        };
        std::iter::once(&first).chain(rest).map(|line| on_one_line(line).into_owned()).collect()
    }

    fn of_object(&self, mut object: Map<String, Value>) -> String {
        let mut text = self.time.and_then(|time| time.format(SHOWN).ok()).unwrap_or_default();
        let message = object.remove("message").unwrap_or_default();
        // Writing to a String can't fail.
        let _ = write!(text, " {:5} {}", self.level.name(), word(&message));
        for known in ["time", "level", "service.name", "target", "span_id"] {
            object.remove(known);
        }
        for (name, value) in &object {
            let _ = write!(text, "  {name}={}", word(value));
        }
        text
    }
}

/// A value without the quotes of JSON, where it is a text.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Time and level of a line.
fn read(line: &str) -> Option<(OffsetDateTime, Level)> {
    if line.starts_with('{') {
        let object: Map<String, Value> = serde_json::from_str(line).ok()?;
        let time = OffsetDateTime::parse(object.get("time")?.as_str()?, &Rfc3339).ok()?;
        return Some((time, Level::of(object.get("level")?.as_str()?)?));
    }
    // The words at the beginning of a line, by spaces.
    let words: Vec<&str> = line.splitn(6, ' ').collect();
    let at =
        |words: &[&str], format| Some(PrimitiveDateTime::parse(&words.join(" "), format).ok()?.assume_utc());
    let level = |place: usize| words.get(place).and_then(|word| Level::of(word)).unwrap_or(Level::Info);
    match words.as_slice() {
        // 2026-01-31T12:00:00.5Z stopping
        [time, ..] if time.contains('T') => Some((OffsetDateTime::parse(time, &Rfc3339).ok()?, Level::Info)),
        // 2026-01-31 12:00:00,123 WARN …
        [date, time, ..] if time.contains(',') => Some((at(&[date, time], OF_KAFKA)?, level(2))),
        // 2026-01-31 12:00:00.123 UTC [4711] LOG: …
        [date, time, _, _, ..] if date.contains('-') => Some((at(&[date, time], OF_POSTGRES)?, level(4))),
        // 4711:M 31 Jan 2026 12:00:00.123 * …
        [_, day, month, year, time, rest] => {
            let level = if rest.starts_with('#') { Level::Warn } else { Level::Info };
            Some((at(&[day, month, year, time], OF_REDIS)?, level))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    /// Whoever has written a line, its time and its level are known.
    #[test]
    fn every_component_is_read() {
        let noon = datetime!(2026-01-31 12:00:00.123 UTC);
        for (line, level) in [
            (r#"{"time":"2026-01-31T12:00:00.123Z","level":"WARN","message":"x"}"#, Level::Warn),
            (r#"{"time":"2026-01-31T13:00:00.123+01:00","level":"DEBUG","message":"x"}"#, Level::Debug),
            ("2026-01-31T12:00:00.123Z order: ended (exit status: 1)", Level::Info),
            ("2026-01-31 12:00:00,123 WARN [Broker id=1] slow (kafka.server)", Level::Warn),
            ("2026-01-31 12:00:00.123 UTC [4711] LOG:  database system is ready", Level::Info),
            ("2026-01-31 12:00:00.123 UTC [4711] FATAL:  no space left", Level::Error),
            ("4711:M 31 Jan 2026 12:00:00.123 # overcommit is off", Level::Warn),
            ("4711:M 31 Jan 2026 12:00:00.123 * Ready to accept connections", Level::Info),
        ] {
            assert_eq!(read(line), Some((noon, level)), "{line}");
        }
        for line in [
            "",
            "\tat kafka.Server.main(Server.java:1)",
            "{",
            "{\"time\": 1}",
            "words without a time in them",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    /// An object is shown as a sentence with its fields; nothing of it acts on a terminal.
    #[test]
    fn an_object_is_readable() {
        let line = "{\"time\":\"2026-01-31T12:00:00.1239Z\",\"level\":\"INFO\",\"service.name\":\"order\",\
                    \"message\":\"parked \\u001b]0;owned\\u0007\",\"records\":3,\"order_id\":\"o-1\",\"target\":\"x\"}";
        let mut entry = Entry::beginning(line).expect("it has a time");
        entry.continue_with("\tat x");
        assert_eq!(
            entry.readable(),
            [
                "2026-01-31 12:00:00.123 INFO  parked \\u001b]0;owned\\u0007  order_id=o-1  records=3",
                "\\tat x"
            ]
        );
        assert_eq!(entry.raw().next().as_deref(), Some(line));
    }
}
