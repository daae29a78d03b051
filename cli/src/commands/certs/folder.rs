//! Which certificates, and how they are shown.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use holdfast_certs::{Author, LeafStatus, Pki, PkiError, check_name};
use holdfast_native::layout::{KAFKA, Layout, PARTICIPANTS, Tls, identities};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    options::{At, By, hint, parse_reason, quoted},
    output::say,
};

#[derive(Debug, Args)]
pub(super) struct Folder {
    #[command(flatten)]
    pub(super) at: At,
    /// Folder of the certificates, if it is not the stack's own
    #[arg(long, env = "HOLDFAST_PKI_DIR", value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
}

impl Folder {
    pub(super) fn path(&self) -> Result<PathBuf> {
        match &self.dir {
            Some(dir) => Ok(dir.clone()),
            None => Ok(Layout::new(self.at.data_dir()?, 0).pki_dir()),
        }
    }

    /// The identities that every installation has; in a stack with TLS to its databases or its broker, those servers too.
    pub(super) fn expected(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = identities().map(str::to_owned).collect();
        if self.dir.is_none() {
            let layout = Layout::new(self.at.data_dir()?, 0);
            if layout.database_tls() == Tls::On {
                names.extend(PARTICIPANTS.iter().map(|participant| participant.server.to_owned()));
            }
            if layout.kafka_tls() == Tls::On {
                names.push(KAFKA.to_owned());
            }
        }
        Ok(names)
    }

    /// A command to type for the same certificates.
    pub(super) fn hint(&self, command: &str) -> Result<String> {
        Ok(match &self.dir {
            Some(dir) => format!("holdfast {command} --dir {}", quoted(&dir.to_string_lossy())),
            None => hint(&self.at.data_dir()?, command),
        })
    }

    /// The error with the command that mends it, where one does.
    pub(super) fn with_remedy(&self, error: anyhow::Error) -> anyhow::Error {
        match remedy(&error).map(|command| self.hint(command)) {
            Some(Ok(command)) => anyhow::anyhow!("{error:#}: `{command}`"),
            _ => error,
        }
    }

    /// To look at it.
    pub(super) fn open(&self) -> Result<Pki> {
        Ok(Pki::open(&self.path()?)?)
    }

    /// To change it.
    pub(super) fn open_by(&self, changes: &Changes) -> Result<Pki> {
        Ok(Pki::open_by(&self.path()?, author(changes.by.name(), changes.reason.clone()))?)
    }
}

/// Whose changes these are, and why.
#[derive(Debug, Args)]
pub(super) struct Changes {
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: Option<String>,
    #[command(flatten)]
    by: By,
}

/// Of changes, for the audit. One that can't be written down is said.
pub(super) fn author(name: String, reason: Option<String>) -> Author {
    Author { name, reason, unrecorded: |error| say!("{error}") }
}

/// The arguments of the command that mends what is wrong with certificates, if that is why something failed.
pub(crate) fn remedy(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| cause.downcast_ref::<PkiError>()?.remedy())
}

pub(super) fn parse_identity(text: &str) -> Result<String, PkiError> {
    check_name(text)?;
    Ok(text.to_owned())
}

/// Checked before anything is done: an unknown identity is a mistake, not a request for a new one.
pub(super) fn all_known(pki: &Pki, names: &[String]) -> Result<bool> {
    let known = pki.identities()?;
    let unknown: Vec<&str> = names.iter().filter(|name| !known.contains(name)).map(String::as_str).collect();
    if !unknown.is_empty() {
        say!("there is no certificate of {}; there are {}", unknown.join(", "), known.join(", "));
    }
    Ok(unknown.is_empty())
}

pub(super) fn report(leaf: &LeafStatus) {
    say!("{}: serial {}, until {}", leaf.name, leaf.serial, time_text(leaf.not_after));
}

/// A certificate that was issued, as `-o json` shows it.
#[derive(Debug, Serialize)]
pub(super) struct Issued {
    pub(super) name: String,
    pub(super) serial: String,
    /// The serial of the one that it replaces, if that could be read.
    pub(super) replaces: Option<String>,
    pub(super) not_after: String,
    /// Where its files are.
    pub(super) folder: String,
}

impl Folder {
    /// What an identity has now, where it had `before`.
    pub(super) fn issued(&self, leaf: LeafStatus, before: Option<LeafStatus>) -> Result<Issued> {
        Ok(Issued {
            folder: self.path()?.join(&leaf.name).display().to_string(),
            name: leaf.name,
            serial: leaf.serial,
            replaces: before.map(|before| before.serial),
            not_after: time_text(leaf.not_after),
        })
    }
}

pub(super) fn time_text(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// For snapshots.
#[cfg(test)]
pub(super) fn example(name: &str) -> Issued {
    Issued {
        name: name.to_owned(),
        serial: "4f1c0a7be2d94c5f8a3b6d7e9f012345".to_owned(),
        replaces: (name != "reporting").then(|| "5a2d1b8cf3ea5d609b4c7e8fa0123456".to_owned()),
        not_after: "2026-02-01T12:00:00Z".to_owned(),
        folder: format!("/srv/holdfast/pki/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of an identity is the name of its folder, and nothing else.
    #[test]
    fn an_empty_value_selects_nothing() {
        for wrong in ["", " ", "../order"] {
            assert!(parse_identity(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_identity("order").is_ok());
    }
}
