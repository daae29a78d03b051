//! Options that several commands have.
//!
//! An empty or unknown value is refused while the command line is read, before anything is looked at: `--user "$UNSET"`
//! is a mistake, and never means everybody.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum, builder::PossibleValuesParser};
use holdfast_common::consumer::REASON_BYTES_MAX;
use holdfast_native::{
    control::{self, Found, Watched},
    layout::{Layout, participant_names, resolve},
    state::StackReport,
};
use holdfast_proto::OrderId;
use serde::Serialize;

use crate::output::{NothingMatched, data, say};

/// Which stack.
#[derive(Debug, Clone, Args)]
pub(crate) struct At {
    /// Folder of the stack's data
    #[arg(long, env = "HOLDFAST_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
}

impl At {
    /// The folder by its canonical name: child processes run in other folders, and databases that are kept elsewhere are
    /// found by this name.
    pub(crate) fn data_dir(&self) -> Result<PathBuf> {
        resolve(&self.data_dir).with_context(|| format!("cannot find {}", self.data_dir.display()))
    }

    /// Returns the stack of the folder, even one that has lost its supervisor; an error if none runs.
    pub(crate) fn running(&self) -> Result<(Layout, StackReport)> {
        let (layout, report, watched) = self.found()?;
        if watched == Watched::ByNobody {
            say!("{}", nobody_watches(&layout, &report));
        }
        Ok((layout, report))
    }

    /// The same for what its supervisor has to do: an error if it has lost that.
    pub(crate) fn supervised(&self) -> Result<(Layout, StackReport)> {
        let (layout, report, watched) = self.found()?;
        ensure!(watched == Watched::BySupervisor, "{}", nobody_watches(&layout, &report));
        Ok((layout, report))
    }

    fn found(&self) -> Result<(Layout, StackReport, Watched)> {
        let data_dir = self.data_dir()?;
        let (report, watched) = match control::find(&data_dir)? {
            Found::Running(report) => (Some(report), Watched::BySupervisor),
            Found::Abandoned(report) => (Some(report), Watched::ByNobody),
            Found::Starting => bail!("a stack is being started or deleted in {}", data_dir.display()),
            Found::Nothing => (None, Watched::ByNobody),
        };
        let found = report.map(|report| (Layout::new(data_dir.clone(), report.port_offset), report));
        let runs = |(layout, report): &(Layout, StackReport)| {
            watched == Watched::BySupervisor || control::anything_runs(layout, report)
        };
        let (layout, report) = found.filter(runs).ok_or_else(|| no_stack(&data_dir))?;
        Ok((layout, report, watched))
    }
}

/// In the same words, and with the same exit code, whatever was asked of it.
pub(crate) fn no_stack(data_dir: &Path) -> NothingMatched {
    let (folder, up) = (data_dir.display(), make_hint(data_dir, "up"));
    NothingMatched(if Layout::new(data_dir.to_owned(), 0).marker_file().exists() {
        format!("the stack in {folder} is stopped, its data is kept: `{up}` starts it")
    } else {
        format!("no stack was started in {folder}: `{up}` starts one")
    })
}

/// What a stack without its supervisor is, and what helps.
pub(crate) fn nobody_watches(layout: &Layout, report: &StackReport) -> String {
    format!(
        "the supervisor (process {}) is gone: what runs is not started again when it dies; `{}` restarts everything",
        report.supervisor_pid,
        hint(&layout.data_dir, "up")
    )
}

/// The folder of a stack for which none is named.
const DATA_DIR: &str = ".holdfast";

/// A command to type for the stack in `data_dir`: it names the folder unless it would be that of a command without.
pub(crate) fn hint(data_dir: &Path, command: &str) -> String {
    format!("holdfast {command}{}", folder_option(data_dir))
}

/// The same of a target of `make`.
pub(crate) fn make_hint(data_dir: &Path, target: &str) -> String {
    if is_default(data_dir) {
        return format!("make {target}");
    }
    format!("HOLDFAST_DATA_DIR={} make {target}", quoted(&data_dir.to_string_lossy()))
}

/// ` --data-dir DIR`, or nothing.
pub(crate) fn folder_option(data_dir: &Path) -> String {
    if is_default(data_dir) {
        return String::new();
    }
    format!(" --data-dir {}", quoted(&data_dir.to_string_lossy()))
}

fn is_default(data_dir: &Path) -> bool {
    resolve(Path::new(DATA_DIR)).is_ok_and(|default| default == data_dir)
}

/// A word of a shell's command line.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "/-._:@".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs; stable.
    Json,
}

/// `-o`, of each command that prints data.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// How to print
    #[arg(short = 'o', long = "output", value_name = "OUTPUT", value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl Output {
    /// Prints `document` for programs, or has `for_people` print it.
    pub(crate) fn print(
        &self,
        document: &impl Serialize,
        for_people: impl FnOnce() -> io::Result<()>,
    ) -> Result<()> {
        match self.format {
            Format::Json => data!("{}", serde_json::to_string_pretty(document)?)?,
            Format::Table => for_people()?,
        }
        Ok(())
    }
}

/// How letters are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    /// For people, as wide as the terminal.
    Table,
    /// For people, everything.
    Wide,
    /// For programs; stable.
    Json,
    /// Their ids only, for other commands.
    Id,
}

/// `-o` of commands that print letters.
#[derive(Debug, Args)]
pub(crate) struct ListOutput {
    /// How to print
    #[arg(short = 'o', long = "output", value_name = "OUTPUT", value_enum, default_value_t = ListFormat::Table)]
    format: ListFormat,
}

impl ListOutput {
    /// Prints `document` or `ids` for programs, or has `for_people` print it, which is told whether to print everything.
    pub(crate) fn print<'i>(
        &self,
        document: &impl Serialize,
        ids: impl Iterator<Item = &'i str>,
        for_people: impl FnOnce(bool) -> io::Result<()>,
    ) -> Result<()> {
        match self.format {
            ListFormat::Json => data!("{}", serde_json::to_string_pretty(document)?)?,
            ListFormat::Id => {
                for id in ids {
                    data!("{id}")?;
                }
            }
            ListFormat::Table => for_people(false)?,
            ListFormat::Wide => for_people(true)?,
        }
        Ok(())
    }
}

/// Who is named in the audit beside the certificate's identity.
#[derive(Debug, Args)]
pub(crate) struct By {
    /// Who you are, for the audit; the user of this process unless it is said
    #[arg(long, env = "USER", value_name = "NAME")]
    author: Option<String>,
}

impl By {
    /// Somebody, also where no variable says who: a container, a cron job.
    pub(crate) fn name(&self) -> String {
        self.author.clone().filter(|author| !author.trim().is_empty()).unwrap_or_else(user_of_this_process)
    }
}

fn user_of_this_process() -> String {
    let Ok(own) = fs::metadata("/proc/self") else { return "unknown".to_owned() };
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    user_name(&users, own.uid()).unwrap_or_else(|| format!("uid {}", own.uid()))
}

/// By the lines of `/etc/passwd`.
fn user_name(users: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

/// The values of `--service`: those that have dead letters, outbox rows and positions.
pub(crate) fn service_names() -> PossibleValuesParser {
    PossibleValuesParser::new(participant_names())
}

/// The id of an order.
pub(crate) fn parse_order(text: &str) -> Result<OrderId> {
    OrderId::parse(text).ok().context("must be an id such as 01a21184-8763-7214-acea-bb1c3b689082")
}

/// The value of `--reason`.
pub(crate) fn parse_reason(text: &str) -> Result<String> {
    let fits = !text.trim().is_empty() && text.len() <= REASON_BYTES_MAX;
    anyhow::ensure!(fits, "must be 1 to {REASON_BYTES_MAX} bytes");
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hint is a command for the stack that it is about, whatever its folder is called.
    #[test]
    fn a_hint_names_its_stack() {
        let default = resolve(Path::new(DATA_DIR)).expect("resolved");
        assert_eq!(hint(&default, "down"), "holdfast down");
        assert_eq!(make_hint(&default, "up"), "make up");
        assert_eq!(hint(Path::new("/x/y"), "down"), "holdfast down --data-dir /x/y");
        assert_eq!(hint(Path::new("/x y/o'z"), "down"), "holdfast down --data-dir '/x y/o'\\''z'");
        assert_eq!(make_hint(Path::new("/x y"), "up"), "HOLDFAST_DATA_DIR='/x y' make up");
    }

    /// Who changes something is named, whatever the environment says.
    #[test]
    fn somebody_is_always_named() {
        let name = |author: Option<&str>| By { author: author.map(str::to_owned) }.name();
        assert_eq!(name(Some("alice")), "alice");
        assert!(!name(None).is_empty());
        assert_eq!(name(Some(" ")), name(None));
        let users = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        assert_eq!(user_name(users, 1_000).as_deref(), Some("alice"));
        assert_eq!(user_name(users, 1), None);
    }

    /// A reason says something, and fits where it is kept.
    #[test]
    fn a_reason_says_something() {
        for wrong in ["", " ", &"x".repeat(REASON_BYTES_MAX + 1)] {
            assert!(parse_reason(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(parse_reason("broken").expect("a reason"), "broken");
    }
}
