//! Which certificates, and how they are shown.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use holdfast_certs::{LeafStatus, Pki, PkiError, check_name};
use holdfast_native::layout::{KAFKA, Layout, PARTICIPANTS, Tls, identities};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    options::{At, hint, quoted},
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
    fn hint(&self, command: &str) -> Result<String> {
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

    pub(super) fn open(&self) -> Result<Pki> {
        Ok(Pki::open(&self.path()?)?)
    }
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

pub(super) fn time_text(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
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
