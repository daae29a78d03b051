//! `certs status`.

use std::collections::BTreeSet;

use anyhow::Result;
use clap::Args;
use holdfast_certs::{LeafState, Phase, Pki, PkiError};
use serde::Serialize;

use super::{
    folder::{Folder, time_text},
    running::Running,
};
use crate::{
    options::Output,
    output::{Outcome, data, say},
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
}

#[derive(Serialize)]
struct Line {
    name: String,
    state: &'static str,
    serial: String,
    issuer: String,
    not_after: String,
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
        let names: BTreeSet<String> = pki.identities()?.into_iter().chain(self.folder.expected()?).collect();
        for name in names {
            certificates.push(line(&pki, &running, name).await?);
        }
        let all_used = certificates.iter().all(|line| line.not_yet_used_by.is_empty());
        let all_valid = certificates.iter().all(|line| line.state == state_text(LeafState::Valid));
        let document = Document {
            phase: match pki.phase()? {
                None => "none",
                Some(Phase::Overlap) => "overlap",
                Some(Phase::Leaves) => "leaves",
            },
            authority_not_after: time_text(pki.authority_not_after()?),
            certificates,
        };
        self.output.print(&document, || {
            data!("{}", certificate_table(&document.certificates))?;
            say!("authority until {}, rotation: {}", document.authority_not_after, document.phase);
            Ok(())
        })?;
        Ok(if all_valid && all_used { Outcome::Done } else { Outcome::Failed })
    }
}

/// Of one identity. Files that can't be used are a state, which is looked for here; one of them must not hide the others.
async fn line(pki: &Pki, running: &Running, name: String) -> Result<Line> {
    let state = match pki.leaf_status(&name) {
        Ok(leaf) => {
            let (used_by, not_yet_used_by) = running.users(&leaf).await;
            return Ok(Line {
                state: state_text(leaf.state),
                name,
                serial: leaf.serial,
                issuer: leaf.issuer,
                not_after: time_text(leaf.not_after),
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
        used_by: Vec::new(),
    })
}

const fn state_text(state: LeafState) -> &'static str {
    match state {
        LeafState::Valid => "valid",
        LeafState::Expired => "expired",
        LeafState::Revoked => "revoked",
        LeafState::Untrusted => "untrusted",
        LeafState::ForeignName => "foreign-name",
        LeafState::NoKey => "no-key",
        LeafState::ForeignKey => "foreign-key",
        LeafState::StaleTrust => "stale-trust",
    }
}

fn certificate_table(certificates: &[Line]) -> Table {
    let mut table = Table::new(&["NAME", "STATE", "NOT AFTER", "SERIAL", "USED BY", "NOT YET"])
        .cutting(&["USED BY"])
        .sparing(&["NOT AFTER", "SERIAL"]);
    for line in certificates {
        table.add_row([
            &line.name,
            line.state,
            &line.not_after,
            &line.serial,
            &line.used_by.join(" "),
            &line.not_yet_used_by.join(" "),
        ]);
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
        let document = Document {
            phase: "overlap",
            authority_not_after: "2027-01-31T12:00:00Z".to_owned(),
            certificates,
        };
        snapshot::check("json/certs-status.json", &json(&document));
    }
}
