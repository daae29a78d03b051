//! `certs status`.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use clap::Args;
use holdfast_certs::{LeafState, Phase, Pki, PkiError, Revoked};
use serde::Serialize;
use time::OffsetDateTime;

use super::{
    folder::{Folder, time_text},
    running::Running,
};
use crate::{
    options::Output,
    output::{Outcome, age_text, data, say},
    table::Table,
};

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(super) folder: Folder,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    phase: &'static str,
    authority_not_after: String,
    certificates: Vec<Line>,
    /// What is refused although it has not expired.
    revoked: Vec<RevokedLine>,
}

#[derive(Serialize)]
struct RevokedLine {
    serial: String,
    not_after: String,
    left_seconds: u64,
    reason: String,
}

impl RevokedLine {
    fn of(revoked: Revoked, now: OffsetDateTime) -> Self {
        Self {
            serial: revoked.serial,
            not_after: time_text(revoked.not_after),
            left_seconds: left(revoked.not_after, now).as_secs(),
            reason: revoked.reason,
        }
    }
}

/// Of a life that ends then; nothing of one that has ended.
fn left(not_after: OffsetDateTime, now: OffsetDateTime) -> Duration {
    (not_after - now).try_into().unwrap_or_default()
}

#[derive(Serialize)]
struct Line {
    name: String,
    state: &'static str,
    serial: String,
    issuer: String,
    not_after: String,
    /// `null` where it can't be read.
    left_seconds: Option<u64>,
    /// Components that use exactly these files.
    used_by: Vec<String>,
    /// Components of this identity that use others.
    not_yet_used_by: Vec<String>,
}

impl Status {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let pki = self.folder.open()?;
        let running = Running::of(&self.folder)?;
        let mut certificates = Vec::new();
        let expected = self.folder.expected()?.into_iter().chain(running.identities());
        let names: BTreeSet<String> = pki.identities()?.into_iter().chain(expected).collect();
        for name in names {
            certificates.push(line(&pki, &running, name).await?);
        }
        let all_used = certificates.iter().all(|line| line.not_yet_used_by.is_empty());
        let all_valid = certificates.iter().all(|line| line.state == LeafState::Valid.name());
        let now = OffsetDateTime::now_utc();
        let document = Document {
            phase: match pki.phase()? {
                None => "none",
                Some(Phase::Overlap) => "overlap",
                Some(Phase::Leaves) => "leaves",
            },
            authority_not_after: time_text(pki.authority_not_after()?),
            certificates,
            revoked: pki.revoked()?.into_iter().map(|revoked| RevokedLine::of(revoked, now)).collect(),
        };
        self.output.print(&document, || {
            data!("{}", certificate_table(&document.certificates))?;
            if !document.revoked.is_empty() {
                data!("\n{}", revoked_table(&document.revoked))?;
            }
            say!("{}", summary(&document));
            Ok(())
        })?;
        if document.phase != "none" {
            say!(
                "a rotation of the authority was interrupted: `{}` ends it",
                self.folder.hint("certs rotate --ca")?
            );
        }
        Ok(if all_valid && all_used { Outcome::Done } else { Outcome::Failed })
    }
}

/// Of one identity. Files that can't be used are a state, which is looked for here; one of them must not hide the others.
async fn line(pki: &Pki, running: &Running, name: String) -> Result<Line> {
    let state = match pki.leaf_status(&name) {
        Ok(leaf) => {
            let (used_by, not_yet_used_by) = running.users(&leaf).await;
            return Ok(Line {
                state: leaf.state.name(),
                name,
                serial: leaf.serial,
                issuer: leaf.issuer,
                not_after: time_text(leaf.not_after),
                left_seconds: Some(left(leaf.not_after, OffsetDateTime::now_utc()).as_secs()),
                used_by,
                not_yet_used_by,
            });
        }
        Err(PkiError::NoLeaf { .. }) => "missing",
        Err(error @ (PkiError::Parse { .. } | PkiError::File { .. })) => {
            say!("{name}: {:#}", anyhow::Error::from(error));
            "unreadable"
        }
        Err(error) => return Err(error.into()),
    };
    let nothing = || "-".to_owned();
    Ok(Line {
        state,
        not_yet_used_by: running.components_of(&name),
        name,
        serial: nothing(),
        issuer: nothing(),
        not_after: nothing(),
        left_seconds: None,
        used_by: Vec::new(),
    })
}

/// Of the components of one identity, or of all.
fn counted<'l>(lines: impl IntoIterator<Item = &'l Line>) -> (usize, usize) {
    lines.into_iter().fold((0, 0), |(used, all), line| {
        (used + line.used_by.len(), all + line.used_by.len() + line.not_yet_used_by.len())
    })
}

fn summary(document: &Document) -> String {
    let in_use = match counted(&document.certificates) {
        (_, 0) => String::new(),
        (used, all) => format!("; {used} of {all} components use their certificates"),
    };
    format!("authority until {}, rotation: {}{in_use}", document.authority_not_after, document.phase)
}

fn certificate_table(certificates: &[Line]) -> Table {
    let mut table =
        Table::new(&["NAME", "STATE", "LEFT", "IN USE", "NOT AFTER", "SERIAL", "USED BY", "NOT YET"])
            .cutting(&["USED BY"])
            .sparing(&["NOT AFTER", "SERIAL"]);
    for line in certificates {
        let left =
            line.left_seconds.map_or_else(|| "-".to_owned(), |left| age_text(Duration::from_secs(left)));
        let in_use = match counted([line]) {
            (_, 0) => "-".to_owned(),
            (used, all) => format!("{used} of {all}"),
        };
        table.add_row([
            &line.name,
            line.state,
            &left,
            &in_use,
            &line.not_after,
            &line.serial,
            &line.used_by.join(" "),
            &line.not_yet_used_by.join(" "),
        ]);
    }
    table
}

fn revoked_table(revoked: &[RevokedLine]) -> Table {
    let mut table = Table::new(&["REVOKED SERIAL", "LEFT", "NOT AFTER", "REASON"])
        .cutting(&["REASON"])
        .sparing(&["NOT AFTER"]);
    for line in revoked {
        let left = age_text(Duration::from_secs(line.left_seconds));
        table.add_row([&line.serial, &left, &line.not_after, &line.reason]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{output::json, snapshot, table::at_all_widths};

    /// What can't be used, and who still uses something else, is seen at every width.
    #[test]
    fn certificates_are_shown() {
        let line = |name: &str, state, used_by: &[&str], not_yet: &[&str]| {
            let known = |text: &str| if state == "missing" { "-".to_owned() } else { text.to_owned() };
            Line {
                name: name.to_owned(),
                state,
                serial: known("4f1c0a7be2d94c5f8a3b6d7e9f012345"),
                issuer: known("Holdfast CA 2026-01-31"),
                not_after: known("2026-02-01T12:00:00Z"),
                left_seconds: (state != "missing").then_some(80_000),
                used_by: used_by.iter().map(ToString::to_string).collect(),
                not_yet_used_by: not_yet.iter().map(ToString::to_string).collect(),
            }
        };
        let certificates = vec![
            line("order", "valid", &["order", "order-2"], &["order-3"]),
            line("payments-db", "stale-trust", &["payments-db"], &[]),
            line("delivery", "missing", &[], &["delivery"]),
            line("operator", "valid", &[], &[]),
        ];
        snapshot::check("tables/certs-status.txt", &at_all_widths(&certificate_table(&certificates)));
        let not_after = time::macros::datetime!(2026-02-01 12:00 UTC);
        let entry = |serial: &str, reason: &str| Revoked {
            serial: serial.to_owned(),
            not_after,
            reason: reason.to_owned(),
        };
        let revoked = [
            entry("5a2d1b8cf3ea5d609b4c7e8fa0123456", "stolen laptop"),
            entry(
                "6b3e2c9d04fb6e71ac5d8f90b1234567",
                "its key was in a backup that somebody has copied to a disk that is lost",
            ),
        ];
        let now = time::macros::datetime!(2026-01-31 20:00 UTC);
        let revoked: Vec<_> = revoked.into_iter().map(|entry| RevokedLine::of(entry, now)).collect();
        snapshot::check("tables/certs-revoked.txt", &at_all_widths(&revoked_table(&revoked)));
        let document = Document {
            phase: "overlap",
            authority_not_after: "2027-01-31T12:00:00Z".to_owned(),
            certificates,
            revoked,
        };
        assert_eq!(
            summary(&document),
            "authority until 2027-01-31T12:00:00Z, rotation: overlap; 3 of 5 components use their certificates"
        );
        assert_eq!(left(not_after, not_after + Duration::from_secs(9)), Duration::ZERO);
        snapshot::check("json/certs-status.json", &json(&document));
    }
}
