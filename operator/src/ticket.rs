//! Tickets into the console. Whoever may write into its folder of tickets is let in, once for each ticket: `holdfast console` leaves
//! one and prints the address that has it; the console takes it away when the address is opened.
//!
//! What lies in the folder is the digest of a ticket, so who reads it there has no ticket.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::{digest, rand};
use holdfast_proto::hexadecimal;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A ticket that was not used by then is worth nothing.
pub const TICKET_TIME: Duration = Duration::from_secs(5 * 60);
/// Characters of a name; the audit keeps more, and other words beside it.
pub const AUTHOR_CHARACTERS_MAX: usize = 64;
/// Bytes of randomness in a ticket.
const RANDOM_BYTES: usize = 32;
/// Of a file in the folder: far more than one has.
const FILE_BYTES_MAX: u64 = 4 * 1024;

/// What the folder says of a ticket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    author: String,
    /// In seconds since 1970.
    expires_at: i64,
}

/// A secret of 256 random bits, as text.
pub fn secret() -> Result<String> {
    let mut bytes = [0; RANDOM_BYTES];
    rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
    Ok(hexadecimal(&bytes))
}

/// By which a secret can be recognised, but not made.
#[must_use]
pub fn digest_of(secret: &str) -> String {
    hexadecimal(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref())
}

/// A name that the audit takes: control characters are refused there.
pub fn check_author(author: &str) -> Result<()> {
    let length = author.chars().count();
    let fits = (1..=AUTHOR_CHARACTERS_MAX).contains(&length) && !author.chars().any(char::is_control);
    ensure!(fits, "the name of the author must be 1 to {AUTHOR_CHARACTERS_MAX} characters");
    Ok(())
}

/// Leaves a ticket for `author` in `folder`, which is made for its owner alone if it is not there, and returns it. Tickets that have
/// expired are taken away.
pub fn issue(folder: &Path, author: &str, now: OffsetDateTime) -> Result<String> {
    check_author(author)?;
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    sweep(folder, now)?;
    let ticket = secret()?;
    let entry = Entry {
        author: author.to_owned(),
        expires_at: (now + time::Duration::try_from(TICKET_TIME)?).unix_timestamp(),
    };
    let path = folder.join(digest_of(&ticket));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(serde_json::to_string(&entry)?.as_bytes())?;
    Ok(ticket)
}

/// Takes a ticket away, and returns whose it was; `None` if there is no such ticket, or it has expired. Of several that come with
/// the same one, one gets it.
pub fn redeem(folder: &Path, ticket: &str, now: OffsetDateTime) -> Result<Option<String>> {
    let path = folder.join(digest_of(ticket));
    let entry = match read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    match fs::remove_file(&path) {
        // Somebody was faster.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("cannot delete {}", path.display()))?,
    }
    let entry: Entry = serde_json::from_str(&entry).context("a ticket is not what was written")?;
    check_author(&entry.author)?;
    Ok((entry.expires_at > now.unix_timestamp()).then_some(entry.author))
}

fn read(path: &PathBuf) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Takes away what has expired, so that the folder stays small.
fn sweep(folder: &Path, now: OffsetDateTime) -> Result<()> {
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        let entry = read(&path).ok().and_then(|text| serde_json::from_str::<Entry>(&text).ok());
        if entry.is_some_and(|entry| entry.expires_at <= now.unix_timestamp()) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A ticket lets one in, once, for five minutes; the folder is closed to others and does not say what the ticket is.
    #[test]
    fn a_ticket_is_for_one() {
        let base = tempfile::tempdir().expect("a folder");
        let folder = base.path().join("tickets");
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let ticket = issue(&folder, "alice", now).expect("issued");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        let file = fs::read_dir(&folder).expect("readable").next().expect("one").expect("readable").path();
        assert_eq!(mode(&file), 0o600);
        assert!(!file.to_string_lossy().contains(&ticket));
        assert!(!fs::read_to_string(&file).expect("text").contains(&ticket));
        for wrong in ["", "..", "0", &digest_of(&ticket), &ticket[1..]] {
            assert_eq!(redeem(&folder, wrong, now).expect("looked"), None, "{wrong}");
        }
        assert_eq!(redeem(&folder, &ticket, now).expect("looked").as_deref(), Some("alice"));
        assert_eq!(redeem(&folder, &ticket, now).expect("looked"), None, "twice");

        let late = now + time::Duration::try_from(TICKET_TIME).expect("short");
        let expired = issue(&folder, "alice", now).expect("issued");
        assert_eq!(redeem(&folder, &expired, late).expect("looked"), None, "too late");
        issue(&folder, "alice", now).expect("issued");
        issue(&folder, "bob", late).expect("issued");
        assert_eq!(fs::read_dir(&folder).expect("readable").count(), 1, "what has expired is swept away");
    }

    /// A name that the audit would refuse gets no ticket.
    #[test]
    fn a_name_is_one_that_the_audit_takes() {
        let folder = tempfile::tempdir().expect("a folder");
        for wrong in ["", "a\nb", &"x".repeat(AUTHOR_CHARACTERS_MAX + 1)] {
            assert!(issue(folder.path(), wrong, OffsetDateTime::UNIX_EPOCH).is_err(), "{wrong:?}");
        }
    }
}
