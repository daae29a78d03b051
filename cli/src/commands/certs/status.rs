//! `certs status`.

use anyhow::Result;
use clap::Args;
use holdfast_certs::{LeafState, Phase};
use serde::Serialize;

use super::{
    folder::{Folder, time_text},
    running::Running,
};
use crate::{
    options::Output,
    output::{Outcome, Table, data, wide_table},
};

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    folder: Folder,
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
        for name in pki.identities()? {
            let leaf = pki.leaf_status(&name)?;
            let (used_by, not_yet_used_by) = running.users(&leaf).await;
            certificates.push(Line {
                state: state_text(leaf.state),
                name,
                serial: leaf.serial,
                issuer: leaf.issuer,
                not_after: time_text(leaf.not_after),
                used_by,
                not_yet_used_by,
            });
        }
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
            eprintln!("authority until {}, rotation: {}", document.authority_not_after, document.phase);
            Ok(())
        })?;
        Ok(if all_valid { Outcome::Done } else { Outcome::Failed })
    }
}

const fn state_text(state: LeafState) -> &'static str {
    match state {
        LeafState::Valid => "valid",
        LeafState::Expired => "expired",
        LeafState::Revoked => "revoked",
        LeafState::Untrusted => "untrusted",
    }
}

fn certificate_table(certificates: &[Line]) -> Table {
    let mut table = wide_table(&["NAME", "STATE", "NOT AFTER", "SERIAL", "USED BY", "NOT YET"]);
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
