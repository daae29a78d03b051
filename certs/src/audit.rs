//! What was done to the certificates of an installation: a line of JSON for each change, which is only ever added, and has neither a
//! key nor anything else that is secret.
//!
//! It is written after the change, under the lock of the folder. A change that can't be written down is a change all the same: a full
//! disk must not let certificates expire. Whoever changes something is told ([`Author`]).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{PkiError, error::at, files};

const CURRENT: &str = "audit.jsonl";
/// What was [`CURRENT`] before that became too long.
const EARLIER: &str = "audit.1.jsonl";
/// Some 4,000 changes; an installation makes about twenty a day by itself. The earlier file has as much.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Of what people write.
const TEXT_CHARS_MAX: usize = 1_000;

/// Who changes certificates, and why.
#[derive(Debug, Clone)]
pub struct Author {
    /// Their name; of a process that changes them by itself, its name.
    pub name: String,
    /// Why, if they have said so.
    pub reason: Option<String>,
    /// Told when a change could not be written down.
    pub unrecorded: fn(&PkiError),
}

impl Default for Author {
    /// Nobody that is known.
    fn default() -> Self {
        let unrecorded = |error: &PkiError| {
            // Without standard error there is nobody to tell.
            let _ = writeln!(io::stderr(), "{error}");
        };
        Self { name: "unknown".to_owned(), reason: None, unrecorded }
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// An authority was created, where there was none.
    CreateAuthority,
    /// An identity got a certificate, its first or one that an operator has asked for.
    Issue,
    /// A certificate was replaced in time, or because it could not be used, without anybody having asked for it.
    Renew,
    /// A certificate was replaced because somebody asked for all, or for these, to be.
    Rotate,
    /// A certificate was put on the deny list; another one replaces it.
    Revoke,
    /// The rotation of the authority has begun: the next one is trusted beside the one of before.
    TrustNextAuthority,
    /// It has ended: the authority of before is not trusted any more.
    ReplaceAuthority,
    /// What a newer version has written.
    #[serde(other)]
    Other,
}

impl Action {
    /// As it is shown, and written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CreateAuthority => "create-authority",
            Self::Issue => "issue",
            Self::Renew => "renew",
            Self::Rotate => "rotate",
            Self::Revoke => "revoke",
            Self::TrustNextAuthority => "trust-next-authority",
            Self::ReplaceAuthority => "replace-authority",
            Self::Other => "other",
        }
    }
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Who.
    pub actor: String,
    /// What.
    pub action: Action,
    /// Whose certificate; `None` of an authority.
    pub identity: Option<String>,
    /// The serial that was issued, or revoked: lower-case hexadecimal.
    pub serial: Option<String>,
    /// The serial of the certificate that it replaces.
    pub replaces: Option<String>,
    /// The name of the authority that has signed it, or that the change is about.
    pub authority: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// What is left of the audit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// The newest first.
    pub entries: Vec<AuditEntry>,
    /// Lines that are no entries, as where a disk was full.
    pub unreadable: usize,
}

/// Adds an entry. The caller has the lock of the folder.
pub(crate) fn record(folder: &Path, entry: &AuditEntry) -> Result<(), PkiError> {
    let path = folder.join(CURRENT);
    append(folder, &path, entry).map_err(|source| PkiError::Audit { path, source })
}

fn append(folder: &Path, path: &Path, entry: &AuditEntry) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|file| file.len() >= FILE_BYTES_MAX) {
        fs::rename(path, folder.join(EARLIER))?;
    }
    let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
    files::belongs_to_its_folder(&file, path)?;
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    // Half a line, of a disk that was full, must not take the next one with it.
    if !ends_with_a_line(&mut file)? {
        line.insert(0, b'\n');
    }
    file.write_all(&line)?;
    file.sync_data()
}

fn ends_with_a_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Reads what is there.
pub(crate) fn read(folder: &Path) -> Result<Audit, PkiError> {
    let mut audit = Audit::default();
    for path in [folder.join(EARLIER), folder.join(CURRENT)] {
        for line in text_of(&path)?.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(entry) => audit.entries.push(entry),
                Err(_) => audit.unreadable += 1,
            }
        }
    }
    audit.entries.reverse();
    Ok(audit)
}

fn text_of(path: &PathBuf) -> Result<Vec<u8>, PkiError> {
    match fs::read(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at(path)(error)),
    }
}

/// As much of a text as an entry has.
pub(crate) fn bounded(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn entry(identity: &str) -> AuditEntry {
        AuditEntry {
            at: OffsetDateTime::now_utc(),
            actor: "alice".to_owned(),
            action: Action::Issue,
            identity: Some(identity.to_owned()),
            serial: Some("0a".to_owned()),
            replaces: None,
            authority: None,
            reason: Some("two\nlines".to_owned()),
        }
    }

    /// What is written is read, the newest first and its owner's alone; half a line costs itself only, and a word of a newer version
    /// nothing.
    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read(folder.path()).expect("nothing"), Audit::default());
        record(folder.path(), &entry("order")).expect("written");
        let path = folder.path().join(CURRENT);
        let mut file = OpenOptions::new().append(true).open(&path).expect("there");
        file.write_all(b"{\"at\":\"2026-01-31T12:0").expect("half a line");
        record(folder.path(), &entry("payment")).expect("written");
        let newer = serde_json::to_string(&entry("gateway")).expect("JSON").replace("\"issue\"", "\"bless\"");
        file.write_all(format!("{newer}\n").as_bytes()).expect("written");
        let audit = read(folder.path()).expect("read");
        let identities: Vec<_> = audit.entries.iter().filter_map(|entry| entry.identity.as_deref()).collect();
        assert_eq!(identities, ["gateway", "payment", "order"]);
        assert_eq!((audit.entries[0].action, audit.unreadable), (Action::Other, 1));
        assert_eq!(audit.entries[1].reason.as_deref(), Some("two\nlines"));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        for action in [
            Action::CreateAuthority,
            Action::Issue,
            Action::Renew,
            Action::Rotate,
            Action::Revoke,
            Action::TrustNextAuthority,
            Action::ReplaceAuthority,
        ] {
            assert_eq!(serde_json::to_value(action).expect("JSON"), action.name());
        }
    }

    /// It has a bound: the earlier half goes.
    #[test]
    fn it_does_not_grow_without_bound() {
        let folder = tempfile::tempdir().expect("a folder");
        let long = vec![b'\n'; usize::try_from(FILE_BYTES_MAX).expect("it fits")];
        for identity in ["first", "second", "third"] {
            record(folder.path(), &entry(identity)).expect("written");
            let mut file = OpenOptions::new().append(true).open(folder.path().join(CURRENT)).expect("there");
            file.write_all(&long).expect("written");
        }
        let audit = read(folder.path()).expect("read");
        let identities: Vec<_> = audit.entries.iter().filter_map(|entry| entry.identity.as_deref()).collect();
        assert_eq!(identities, ["third", "second"]);
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 2);
        assert_eq!(bounded(&"ä".repeat(TEXT_CHARS_MAX + 1)).chars().count(), TEXT_CHARS_MAX);
    }
}
