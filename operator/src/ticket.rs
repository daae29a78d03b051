//! Tickets into the console. Whoever may write into its folder of tickets is let in, once for each ticket: `holdfast console` leaves
//! one and prints the address that has it; the console takes it away when the address is opened.
//!
//! What lies in the folder is the digest of a ticket, so who reads it there has no ticket. It also says who that is, and what they may
//! do: nothing in the address or in the browser can say more.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
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

/// What somebody who is signed in may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum May {
    /// Look.
    #[default]
    Look,
    /// Change things, too.
    Change,
}

/// Who opens the address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Author {
    /// Named in the audit.
    pub name: String,
    /// What they may do.
    pub may: May,
}

/// What the folder says of a ticket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    author: String,
    /// One of an earlier version does not say it.
    #[serde(default)]
    may: May,
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

/// Leaves a ticket for `author` in `folder`, which whoever starts the console has made, and returns it. It is for the folder's owner:
/// root leaves one for a console that runs as somebody else. Tickets that have expired are taken away.
pub fn issue(folder: &Path, author: &Author, now: OffsetDateTime) -> Result<String> {
    check_author(&author.name)?;
    sweep(folder, now).with_context(|| format!("cannot leave a ticket in {}", folder.display()))?;
    let ticket = secret()?;
    let entry = Entry {
        author: author.name.clone(),
        may: author.may,
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
    belongs_to_its_folder(&file, folder).with_context(|| format!("cannot hand over {}", path.display()))?;
    Ok(ticket)
}

/// Takes a ticket away, and returns whose it was; `None` if there is no such ticket, or it has expired. Of several that come with
/// the same one, one gets it.
pub fn redeem(folder: &Path, ticket: &str, now: OffsetDateTime) -> Result<Option<Author>> {
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
    let author = Author { name: entry.author, may: entry.may };
    Ok((entry.expires_at > now.unix_timestamp()).then_some(author))
}

/// What opens the console that browsers reach at `published`, for whoever has the ticket.
#[must_use]
pub fn address(published: SocketAddr, ticket: &str) -> String {
    format!("http://{published}/open?ticket={ticket}")
}

/// What to say beside such an address.
#[must_use]
pub fn announcement(may: May) -> String {
    let may = match may {
        May::Look => "to look",
        May::Change => "to look and to change things",
    };
    let minutes = TICKET_TIME.as_secs() / 60;
    format!("{may}: open this address within {minutes} minutes, it works once")
}

fn belongs_to_its_folder(file: &File, folder: &Path) -> io::Result<()> {
    let owner = fs::metadata(folder)?;
    if owner.uid() == file.metadata()?.uid() {
        return Ok(());
    }
    fchown(file, Some(owner.uid()), Some(owner.gid()))
}

fn read(path: &PathBuf) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
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
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    fn author(name: &str, may: May) -> Author {
        Author { name: name.to_owned(), may }
    }

    /// A ticket lets one in, once, for five minutes, to do what it was made for; it is the folder's owner's alone, and the folder does not
    /// say what it is.
    #[test]
    fn a_ticket_is_for_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        // Only root can; for others it stays their own.
        let _ = chown(folder, Some(65_533), Some(65_533));
        let owner = fs::metadata(folder).expect("there").uid();
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let alice = author("alice", May::Look);
        let ticket = issue(folder, &alice, now).expect("issued");
        let file = fs::read_dir(folder).expect("readable").next().expect("one").expect("readable").path();
        let found = fs::metadata(&file).expect("there");
        assert_eq!((found.permissions().mode() & 0o777, found.uid()), (0o600, owner));
        assert!(!file.to_string_lossy().contains(&ticket));
        assert!(!fs::read_to_string(&file).expect("text").contains(&ticket));
        for wrong in ["", "..", "0", &digest_of(&ticket), &ticket[1..]] {
            assert_eq!(redeem(folder, wrong, now).expect("looked"), None, "{wrong}");
        }
        assert_eq!(redeem(folder, &ticket, now).expect("looked"), Some(alice.clone()));
        assert_eq!(redeem(folder, &ticket, now).expect("looked"), None, "twice");

        let late = now + time::Duration::try_from(TICKET_TIME).expect("short");
        let expired = issue(folder, &alice, now).expect("issued");
        assert_eq!(redeem(folder, &expired, late).expect("looked"), None, "too late");
        issue(folder, &alice, now).expect("issued");
        let bob = author("bob", May::Change);
        let ticket = issue(folder, &bob, late).expect("issued");
        assert_eq!(fs::read_dir(folder).expect("readable").count(), 1, "what has expired is swept away");
        assert_eq!(redeem(folder, &ticket, late).expect("looked"), Some(bob));
    }

    /// What an earlier version has left does not let anybody change things; a folder that nobody has made is not made here.
    #[test]
    fn nobody_may_more_than_was_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = OffsetDateTime::UNIX_EPOCH;
        let entry = r#"{"author": "alice", "expires_at": 1}"#;
        fs::write(folder.path().join(digest_of("x")), entry).expect("written");
        let redeemed = redeem(folder.path(), "x", now).expect("looked");
        assert_eq!(redeemed, Some(author("alice", May::Look)));
        assert!(issue(&folder.path().join("none"), &author("alice", May::Look), now).is_err());
    }

    /// A name that the audit would refuse gets no ticket.
    #[test]
    fn a_name_is_one_that_the_audit_takes() {
        let folder = tempfile::tempdir().expect("a folder");
        for wrong in ["", "a\nb", &"x".repeat(AUTHOR_CHARACTERS_MAX + 1)] {
            assert!(
                issue(folder.path(), &author(wrong, May::Look), OffsetDateTime::UNIX_EPOCH).is_err(),
                "{wrong:?}"
            );
        }
    }
}
