//! Leaves that are refused although they have not expired: one line each, `serial end reason`.
//!
//! Rotation makes a stolen leaf worthless within a day; the list makes it worthless within seconds. An entry is dropped
//! when the leaf itself has expired, so the list stays short.

use std::{fs, io, path::Path};

use time::OffsetDateTime;

use crate::{PkiError, error::at};

/// A leaf that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Lower-case hexadecimal.
    pub serial: String,
    /// The leaf's own end.
    pub not_after: OffsetDateTime,
    /// For people.
    pub reason: String,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct DenyList(Vec<Revoked>);

impl DenyList {
    /// Reads a list; a file that isn't there is an empty one.
    pub(crate) fn read(path: &Path) -> Result<Self, PkiError> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(at(path)(error)),
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        let entry = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let serial = words.next()?.to_owned();
            let not_after = OffsetDateTime::from_unix_timestamp(words.next()?.parse().ok()?).ok()?;
            Some(Revoked { serial, not_after, reason: words.next().unwrap_or_default().to_owned() })
        };
        Self(text.lines().filter_map(entry).collect())
    }

    pub(crate) fn contains(&self, serial: &str) -> bool {
        self.0.iter().any(|revoked| revoked.serial == serial)
    }

    pub(crate) fn into_entries(self) -> Vec<Revoked> {
        self.0
    }

    pub(crate) fn serials(&self) -> Vec<String> {
        self.0.iter().map(|revoked| revoked.serial.clone()).collect()
    }

    /// Adds an entry and drops those whose leaf has expired anyway.
    pub(crate) fn add(&mut self, revoked: Revoked) {
        let now = OffsetDateTime::now_utc();
        self.0.retain(|entry| entry.not_after > now && entry.serial != revoked.serial);
        self.0.push(Revoked { reason: revoked.reason.replace(['\n', '\r'], " "), ..revoked });
    }

    pub(crate) fn to_text(&self) -> String {
        let line = |revoked: &Revoked| {
            format!("{} {} {}\n", revoked.serial, revoked.not_after.unix_timestamp(), revoked.reason)
        };
        self.0.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    /// What is written is read back, entries of expired leaves are dropped, and a reason stays on its line.
    #[test]
    fn the_list_stays_short_and_readable() {
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).expect("in range");
        let entry = |serial: &str, left: Duration, reason: &str| Revoked {
            serial: serial.to_owned(),
            not_after: now + left,
            reason: reason.to_owned(),
        };
        let mut list = DenyList::default();
        list.add(entry("aa", Duration::hours(-1), "long ago"));
        list.add(entry("bb", Duration::hours(1), "stolen\ncc 99999999999 forged"));
        list.add(entry("bb", Duration::hours(1), "stolen"));
        list.add(entry("dd", Duration::hours(1), ""));
        let read = DenyList::parse(&list.to_text());
        assert!(read.contains("bb") && read.contains("dd"));
        assert!(!read.contains("aa") && !read.contains("cc"));
        assert_eq!(read.to_text(), list.to_text());
        assert_eq!(list.to_text().lines().count(), 2);
    }
}
