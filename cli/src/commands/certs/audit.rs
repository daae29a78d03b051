//! `certs audit`.

use anyhow::Result;
use clap::Args;
use holdfast_certs::AuditEntry;
use holdfast_operator::moment::parse_time;
use serde::Serialize;
use time::OffsetDateTime;

use super::folder::{Folder, parse_identity, time_text};
use crate::{
    options::Output,
    output::{Outcome, data, say},
    table::Table,
};

#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    pub(super) folder: Folder,
    /// Only of these identities, and of the authority
    #[arg(value_parser = parse_identity)]
    names: Vec<String>,
    /// Since: 2026-01-31T12:00:00Z, 2026-01-31, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<OffsetDateTime>,
    /// At most this many
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    audit: Vec<Line>,
}

/// A change, as `-o json` shows it.
#[derive(Serialize)]
struct Line {
    at: String,
    actor: String,
    action: &'static str,
    /// `null` of an authority.
    identity: Option<String>,
    serial: Option<String>,
    replaces: Option<String>,
    authority: Option<String>,
    reason: Option<String>,
}

impl Line {
    fn of(entry: AuditEntry) -> Self {
        Self {
            at: time_text(entry.at.replace_nanosecond(0).unwrap_or(entry.at)),
            actor: entry.actor,
            action: entry.action.name(),
            identity: entry.identity,
            serial: entry.serial,
            replaces: entry.replaces,
            authority: entry.authority,
            reason: entry.reason,
        }
    }
}

impl Audit {
    pub(super) fn run(&self) -> Result<Outcome> {
        let audit = self.folder.open()?.audit()?;
        if audit.unreadable > 0 {
            say!("{} lines of the audit cannot be read, as where a disk was full", audit.unreadable);
        }
        let lines = audit.entries.into_iter().filter(|entry| self.matches(entry)).map(Line::of);
        let document = Document { audit: lines.take(self.limit as usize).collect() };
        let nothing = document.audit.is_empty();
        if nothing {
            say!("nothing was done to any certificate that matches");
        }
        self.output
            .print(&document, || if nothing { Ok(()) } else { data!("{}", table(&document.audit)) })?;
        Ok(if nothing { Outcome::NothingMatched } else { Outcome::Done })
    }

    /// An authority concerns everybody.
    fn matches(&self, entry: &AuditEntry) -> bool {
        let is_named =
            self.names.is_empty() || entry.identity.as_ref().is_none_or(|of| self.names.contains(of));
        is_named && self.since.is_none_or(|since| entry.at >= since)
    }
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new(&["AT", "ACTOR", "ACTION", "IDENTITY", "SERIAL", "REPLACES", "REASON"])
        .cutting(&["REASON", "ACTOR"])
        .sparing(&["SERIAL", "REPLACES"]);
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for line in lines {
        table.add_row([
            line.at.clone(),
            line.actor.clone(),
            line.action.to_owned(),
            or_none(&line.identity),
            or_none(&line.serial),
            or_none(&line.replaces),
            line.reason.clone().unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use holdfast_certs::Action;
    use time::macros::datetime;

    use super::*;
    use crate::{output::json, snapshot, table::at_all_widths};

    /// Who did what, and why, is seen at every width.
    #[test]
    fn changes_are_shown() {
        let entry = |action, actor: &str, identity: Option<&str>, reason: Option<&str>| AuditEntry {
            at: datetime!(2026-01-31 12:00:00.123 UTC),
            actor: actor.to_owned(),
            action,
            identity: identity.map(str::to_owned),
            serial: identity.map(|_| "4f1c0a7be2d94c5f8a3b6d7e9f012345".to_owned()),
            replaces: identity
                .filter(|_| action != Action::Revoke)
                .map(|_| "5a2d1b8cf3ea5d609b4c7e8fa0123456".to_owned()),
            authority: Some("Holdfast CA 17".to_owned()),
            reason: reason.map(str::to_owned),
        };
        let lines: Vec<_> = [
            entry(Action::ReplaceAuthority, "alice", None, Some("an exercise")),
            entry(Action::Revoke, "bob", Some("gateway"), Some("stolen laptop")),
            entry(Action::Renew, "supervisor", Some("order"), Some("less than 12 h were left")),
            entry(Action::Rotate, "alice", Some("payment"), None),
        ]
        .map(Line::of)
        .into();
        snapshot::check("tables/certs-audit.txt", &at_all_widths(&table(&lines)));
        snapshot::check("json/certs-audit.json", &json(&Document { audit: lines }));
    }
}
