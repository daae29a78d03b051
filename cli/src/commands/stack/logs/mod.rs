//! `logs`: those of one component, or of several merged by time.

mod entry;
mod tail;

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use holdfast_native::{
    layout::{Layout, every_component_name, service_of},
    log,
};
use holdfast_operator::moment::parse_time;
use time::OffsetDateTime;

use self::{
    entry::{Entry, Level},
    tail::Tail,
};
use crate::{
    options::At,
    output::{Outcome, say},
};

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Entries with which following begins, unless it is said otherwise.
const FOLLOWED_FROM: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    at: At,
    /// Components, as `holdfast status` shows them; all if none is named
    #[arg(value_name = "COMPONENT", value_parser = parse_component)]
    names: Vec<String>,
    /// Keep printing what is written from now on; begins with the last 100 entries
    #[arg(short, long)]
    follow: bool,
    /// Only the last N entries
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<usize>,
    /// Since: 2026-01-31T12:00:00Z, 2026-01-31, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<OffsetDateTime>,
    /// Only entries that are at least so grave
    #[arg(long, value_enum, default_value_t = Level::Trace)]
    level: Level,
    /// How to print; by default as text on a terminal, and elsewhere as the components have written it
    #[arg(short = 'o', long = "output", value_name = "OUTPUT", value_enum)]
    format: Option<Format>,
}

/// How entries are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people: time, level, message, fields.
    Text,
    /// As the components have written it.
    Raw,
}

pub(super) fn parse_component(text: &str) -> Result<String> {
    let known = every_component_name();
    let is_first = |name: &&String| service_of(name).is_none_or(|service| service == name.as_str());
    anyhow::ensure!(
        known.iter().any(|name| name == text),
        "there is no such component; there are {}, and replicas of services such as order-2",
        known.iter().filter(is_first).map(String::as_str).collect::<Vec<_>>().join(", ")
    );
    Ok(text.to_owned())
}

/// A component whose log is read.
struct Source {
    /// Printed before each line where several logs are shown.
    prefix: String,
    /// The part that was set aside, which nobody follows.
    old: Tail,
    now: Tail,
}

impl Logs {
    pub(crate) fn run(&self) -> Result<Outcome> {
        let layout = Layout::new(self.at.data_dir()?, 0);
        let known = layout.component_names();
        let is_wanted = |name: &&String| self.names.is_empty() || self.names.contains(name);
        let wanted: Vec<&String> = known.iter().filter(is_wanted).collect();
        for name in self.names.iter().filter(|name| !known.contains(name)) {
            say!("{name} has not run in {}; there are {}", layout.data_dir.display(), known.join(", "));
        }
        let exists = |name: &String| layout.log_file(name).exists();
        if wanted.is_empty() || (!self.follow && !wanted.iter().any(|name| exists(name))) {
            let of =
                if self.names.is_empty() { String::new() } else { format!(" of {}", self.names.join(", ")) };
            say!("there are no logs{of} in {}", layout.data_dir.display());
            return Ok(Outcome::NothingMatched);
        }
        let width = wanted.iter().map(|name| name.len()).max().unwrap_or(0);
        let mut sources: Vec<Source> = wanted
            .iter()
            .map(|name| Source {
                prefix: if wanted.len() > 1 { format!("{name:width$} | ") } else { String::new() },
                old: Tail::new(log::before(&layout.log_file(name))),
                now: Tail::new(layout.log_file(name)),
            })
            .collect();
        match self.print_all(&mut sources) {
            // The reader of our output has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::Done),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(Outcome::Done),
        }
    }

    fn print_all(&self, sources: &mut [Source]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let most = self.tail.or(self.follow.then_some(FOLLOWED_FROM));
        let first = self.merged(sources, most, |source| {
            let mut entries = [source.old.entries()?, source.now.entries()?].concat();
            if !self.follow {
                source.now.add_unfinished(&mut entries);
            }
            Ok(entries)
        })?;
        self.print(&mut out, sources, first)?;
        if !self.follow {
            return Ok(());
        }
        loop {
            let new = self.merged(sources, None, |source| source.now.entries())?;
            if new.is_empty() {
                #[expect(clippy::disallowed_methods, reason = "this command has no runtime")]
                std::thread::sleep(LOOK_EVERY);
            }
            self.print(&mut out, sources, new)?;
        }
    }

    /// What is wanted of all sources, in the order of its times; the last `most`. Of each no more is kept than can be shown.
    fn merged(
        &self,
        sources: &mut [Source],
        most: Option<usize>,
        read: impl Fn(&mut Source) -> io::Result<Vec<Entry>>,
    ) -> io::Result<Vec<(usize, Entry)>> {
        let mut merged = Vec::new();
        for (index, source) in sources.iter_mut().enumerate() {
            let wanted = last(self.select(read(source)?), most);
            merged.extend(wanted.into_iter().map(|(time, entry)| (time, (index, entry))));
        }
        merged.sort_by_key(|(time, _)| *time);
        Ok(last(merged, most).into_iter().map(|(_, entry)| entry).collect())
    }

    /// Those of one source that are wanted, with their times. What says no time stays behind what it followed.
    fn select(&self, entries: Vec<Entry>) -> Vec<(Option<OffsetDateTime>, Entry)> {
        let mut before = None;
        let timed = entries.into_iter().map(|entry| {
            before = entry.time.or(before);
            (before, entry)
        });
        let is_wanted = |(time, entry): &(Option<OffsetDateTime>, Entry)| {
            entry.level >= self.level && self.since.is_none_or(|since| time.is_some_and(|time| time >= since))
        };
        timed.filter(is_wanted).collect()
    }

    fn print(
        &self,
        out: &mut impl io::Write,
        sources: &[Source],
        entries: Vec<(usize, Entry)>,
    ) -> io::Result<()> {
        let format =
            self.format.unwrap_or(if io::stdout().is_terminal() { Format::Text } else { Format::Raw });
        for (source, entry) in entries {
            let lines = match format {
                Format::Text => entry.readable(),
                Format::Raw => entry.raw().collect(),
            };
            for line in lines {
                writeln!(out, "{}{line}", sources[source].prefix)?;
            }
        }
        out.flush()
    }
}

/// The last `most`.
fn last<T>(mut entries: Vec<T>, most: Option<usize>) -> Vec<T> {
    let most = most.unwrap_or(entries.len());
    entries.split_off(entries.len().saturating_sub(most))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        logs: Logs,
    }

    /// A value that is no component's name is refused.
    #[test]
    fn an_empty_value_selects_nothing() {
        for wrong in ["", " ", "nobody"] {
            assert!(parse_component(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_component("order-9").is_ok());
    }

    /// Entries of several logs are in the order of their times, with what follows them; filters take whole entries.
    #[test]
    fn logs_are_merged_and_filtered() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, lines: &[&str]| {
            std::fs::write(folder.path().join(name), lines.concat()).expect("written");
        };
        write(
            "order",
            &[
                "started\n",
                "{\"time\":\"2026-01-31T12:00:01Z\",\"level\":\"INFO\",\"message\":\"one\"}\n",
                "{\"time\":\"2026-01-31T12:00:04Z\",\"level\":\"ERROR\",\"message\":\"four\"}\n",
            ],
        );
        write(
            "kafka",
            &["2026-01-31 12:00:02,500 WARN slow\n", "\tat java\n", "2026-01-31 12:00:03,000 INFO ok\n"],
        );
        let shown = |arguments: &[&str], most| {
            let logs = Line::parse_from([&["logs"], arguments].concat()).logs;
            let tail = |name: &str| Tail::new(folder.path().join(name));
            let source = |name: &str| Source { prefix: String::new(), old: tail("absent"), now: tail(name) };
            let mut sources = ["order", "kafka"].map(source);
            let merged = logs.merged(&mut sources, most, |source| source.now.entries()).expect("read");
            merged
                .iter()
                .map(|(source, entry)| format!("{source} {}", entry.readable().join("+")))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            shown(&[], None),
            [
                "0 started",
                "0 2026-01-31 12:00:01.000 INFO  one",
                "1 2026-01-31 12:00:02,500 WARN slow+\\tat java",
                "1 2026-01-31 12:00:03,000 INFO ok",
                "0 2026-01-31 12:00:04.000 ERROR four",
            ]
        );
        assert_eq!(shown(&[], Some(2)), shown(&[], None)[3..]);
        assert_eq!(shown(&[], Some(0)), [""; 0]);
        assert_eq!(shown(&["--level", "warn"], Some(1)), ["0 2026-01-31 12:00:04.000 ERROR four"]);
        assert_eq!(shown(&["--level", "warn", "--since", "2026-01-31T12:00:03Z"], None).len(), 1);
        assert_eq!(shown(&["--since", "2026-01-31T12:00:02Z"], None).len(), 3);
    }
}
