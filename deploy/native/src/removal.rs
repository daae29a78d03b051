//! Which files in a stack's folder belong to the stack. Only they are deleted; what somebody else put there stays, and is
//! named.
//!
//! It also guards a start: a folder that holds somebody else's files under our names never becomes a stack's, because a
//! start overwrites them, and a later deletion would delete them.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    files::DRAFT,
    layout::{Layout, PARTICIPANTS, every_component_name},
};

/// Files of an installation of certificates, without `.draft`.
const PKI_FILES: [&str; 12] = [
    "audit.1.jsonl",
    "audit.jsonl",
    "ca.crt",
    "ca.key",
    "ca.next.crt",
    "ca.next.key",
    "jwks.json",
    "lock",
    "revoked",
    "rotation",
    "token.key",
    "token.kid",
];
/// Files of the broker, beside its logs.
const BROKER_FILES: [&str; 5] =
    ["log4j2.xml", "server.properties", "tls.pem", "ca.crt", crate::certificates::UNREAD];
/// Files of the console of an earlier version, which was no component.
const CONSOLE_FILES: [&str; 3] = ["console.log", "console.toml", "process"];
/// Digits of the name of a ticket, the digest of a secret.
const TICKET_DIGITS: usize = 64;
/// Files of one identity.
const IDENTITY_FILES: [&str; 7] =
    ["addresses", "ca.crl", "ca.crt", "jwks.json", "revoked", "tls.crt", "tls.key"];

/// Whether a start has marked the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Folder {
    /// It has: files under our names are ours.
    Marked,
    /// It has not. Without a stack's lock file, which older versions left as well, our names prove nothing: another
    /// project may have a `config/order.toml` as well.
    Unmarked,
}

/// A folder's content, sorted by who it belongs to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// A stack writes these: files, and folders that are a component's alone.
    pub(crate) ours: Vec<PathBuf>,
    /// Folders that are deleted once they are empty, inner ones first.
    folders: Vec<PathBuf>,
    /// Everything else in the folders that a stack writes into.
    pub(crate) foreign: Vec<PathBuf>,
}

impl Content {
    /// Looks at the folders that a stack writes into.
    pub(crate) fn of(layout: &Layout, folder: Folder) -> Result<Self> {
        let mut content = Self::default();
        let proven = folder == Folder::Marked || layout.lock_file().exists();
        let certificates_proven = proven || layout.pki_dir().join("lock").exists();
        let names = every_component_name();
        let config: BTreeSet<String> = names
            .iter()
            .flat_map(|name| {
                ["toml", "program", "password", "start"].map(|extension| format!("{name}.{extension}"))
            })
            .chain(PARTICIPANTS.iter().map(|participant| format!("{}.password", participant.owner_role())))
            .chain(
                [
                    "database-password",
                    "database-tls",
                    "kafka-tls",
                    "redis-password",
                    "redis.conf",
                    "remembered.json",
                    "scale",
                    "scale-failure",
                ]
                .map(str::to_owned),
            )
            .collect();
        let logs: BTreeSet<String> =
            names.iter().flat_map(|name| [format!("{name}.log"), format!("{name}.log.old")]).collect();
        content.divide(&layout.data_dir.join("config"), |path| {
            proven && is_file_named(path, |name| config.contains(name.strip_suffix(DRAFT).unwrap_or(name)))
        })?;
        content.divide(&layout.data_dir.join("logs"), |path| {
            proven && is_file_named(path, |name| logs.contains(name))
        })?;

        let broker = layout.kafka_dir();
        content.divide(&broker, |path| {
            let is_file =
                is_file_named(path, |name| BROKER_FILES.contains(&name.strip_suffix(DRAFT).unwrap_or(name)));
            let signs = ["meta.properties", "meta.properties.tmp", "bootstrap.checkpoint"];
            proven && (is_file || (*path == broker.join("logs") && is_folder_with(path, &signs)))
        })?;

        let servers = layout.data_dir.join("postgres");
        let files: Vec<PathBuf> =
            PARTICIPANTS.iter().flat_map(|participant| participant.server_files(&servers)).collect();
        content.divide(&servers, |path| {
            proven
                && files.contains(path)
                && (is_file_named(path, |_| true)
                    || is_folder_with(path, &["PG_VERSION", "initialising", "pg_wal"]))
        })?;

        let console = layout.console_dir();
        let tickets = console.join("tickets");
        if is_folder(&tickets) {
            let is_ticket =
                |name: &str| name.len() == TICKET_DIGITS && name.bytes().all(|b| b.is_ascii_hexdigit());
            content.divide(&tickets, |path| proven && is_file_named(path, is_ticket))?;
        }
        content.divide(&console, |path| {
            let is_file = is_file_named(path, |name| CONSOLE_FILES.contains(&name));
            proven && (is_file || (*path == tickets && is_folder(path)))
        })?;
        content.ours.retain(|path| *path != tickets);

        let identities: Vec<PathBuf> = entries(&layout.pki_dir())?
            .into_iter()
            .filter(|path| certificates_proven && is_folder(path) && path.join("ca.crt").exists())
            .collect();
        for identity in &identities {
            content.divide(identity, |path| is_file_named(path, |name| is_written(&IDENTITY_FILES, name)))?;
        }
        content.divide(&layout.pki_dir(), |path| {
            let is_file = is_file_named(path, |name| is_written(&PKI_FILES, name));
            certificates_proven && (is_file || identities.contains(path))
        })?;
        content.ours.retain(|path| !identities.contains(path));
        Ok(content)
    }

    fn divide(&mut self, folder: &Path, is_ours: impl Fn(&PathBuf) -> bool) -> Result<()> {
        if !is_folder(folder) {
            // A link, or a file with the name of one of our folders.
            if fs::symlink_metadata(folder).is_ok() {
                self.foreign.push(folder.to_owned());
            }
            return Ok(());
        }
        for path in entries(folder)? {
            let side = if is_ours(&path) { &mut self.ours } else { &mut self.foreign };
            side.push(path);
        }
        self.folders.push(folder.to_owned());
        Ok(())
    }

    /// What is left after all of ours is deleted.
    pub(crate) fn left(mut self, layout: &Layout) -> Result<Vec<PathBuf>> {
        let beside = entries(&layout.data_dir)?;
        let is_named = |path: &PathBuf| self.foreign.iter().any(|foreign| foreign.starts_with(path));
        let beside: Vec<PathBuf> = beside.into_iter().filter(|path| !is_named(path)).collect();
        self.foreign.extend(beside);
        self.foreign.sort();
        Ok(self.foreign)
    }

    /// Deletes our files, and then the folders that are empty.
    pub(crate) fn delete(&self) -> Result<()> {
        self.ours.iter().try_for_each(|path| remove(path))?;
        for folder in &self.folders {
            // Not empty: it holds somebody else's files.
            let _ = fs::remove_dir(folder);
        }
        Ok(())
    }
}

/// Deletes a file, or a folder with everything in it; of a link, never its target. It may be gone already. A folder on which a disk
/// is mounted is emptied, and stays.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if [ErrorKind::NotFound, ErrorKind::ResourceBusy].contains(&error.kind()) => Ok(()),
        other => other.with_context(|| format!("cannot delete {}", path.display())),
    }
}

pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        paths.sort();
        Ok(paths)
    };
    match read() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => other.with_context(|| format!("cannot read {}", folder.display())),
    }
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

fn is_file_named(path: &Path, is_name: impl Fn(&str) -> bool) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
        && path.file_name().and_then(|name| name.to_str()).is_some_and(is_name)
}

/// Whether a folder is a component's: it has one of its files, or is still empty.
fn is_folder_with(path: &Path, signs: &[&str]) -> bool {
    is_folder(path)
        && (signs.iter().any(|sign| path.join(sign).exists())
            || entries(path).is_ok_and(|paths| paths.is_empty()))
}

/// Whether a file has one of these names, or is the draft of one.
fn is_written(names: &[&str], name: &str) -> bool {
    let drafts = || {
        names.iter().filter_map(|name| Path::new(name).with_extension("draft").to_str().map(str::to_owned))
    };
    names.contains(&name) || drafts().any(|draft| draft == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack() -> (Layout, PathBuf) {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("holdfast-removal-{}-{number}", std::process::id()));
        for inner in [
            "config",
            "logs",
            "kafka/logs",
            "postgres/orders-db",
            "pki/order",
            "pki/reporting",
            "console/tickets",
        ] {
            fs::create_dir_all(folder.join(inner)).expect("created");
        }
        for file in [
            "config/order.toml",
            "config/order-2.toml",
            "config/order-2.program",
            "config/order-2.program.draft",
            "config/order.toml.draft",
            "config/database-password",
            "config/database-tls",
            "config/remembered.json",
            "config/scale",
            "config/scale-failure",
            "config/kafka-tls",
            "config/order.password",
            "config/order-owner.password",
            "config/orders-db.password",
            "config/redis-password",
            "config/redis.conf",
            "logs/orders-db.log",
            "logs/supervisor.log",
            "logs/order.log.old",
            "logs/redis.log",
            "kafka/server.properties",
            "kafka/log4j2.xml",
            "kafka/server.properties.draft",
            "kafka/tls.pem",
            "kafka/tls.pem.draft",
            "kafka/ca.crt",
            "kafka/certificates.unread",
            "kafka/logs/meta.properties",
            "postgres/orders-db/PG_VERSION",
            "postgres/orders-db.password",
            "pki/ca.crt",
            "pki/audit.jsonl",
            "pki/ca.draft",
            "pki/lock",
            "pki/order/ca.crt",
            "pki/order/tls.key",
            "pki/order/tls.draft",
            "pki/reporting/ca.crt",
            "pki/reporting/tls.crt",
            "config/console.toml",
            "logs/console.log",
            "console/console.toml",
            "console/console.log",
            "console/process",
            "console/tickets/00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        ] {
            fs::write(folder.join(file), "x").expect("written");
        }
        (Layout::new(folder.clone(), 0), folder)
    }

    /// Everything that a stack writes is deleted, and nothing is left.
    #[test]
    fn what_a_stack_writes_goes() {
        let (layout, folder) = stack();
        let content = Content::of(&layout, Folder::Marked).expect("read");
        assert_eq!(content.foreign, Vec::<PathBuf>::new());
        content.delete().expect("deleted");
        assert_eq!(entries(&folder).expect("read"), Vec::<PathBuf>::new());
        fs::remove_dir(folder).expect("empty");
    }

    /// What somebody else put beside it stays and is named, even under our names and behind links.
    #[test]
    fn what_somebody_else_put_there_stays() {
        let (layout, folder) = stack();
        let elsewhere = folder.with_extension("elsewhere");
        fs::create_dir_all(elsewhere.join("payments-db")).expect("created");
        fs::write(elsewhere.join("payments-db/PG_VERSION"), "x").expect("written");
        let foreign = [
            "config/app.yaml",
            "logs/2026.txt",
            "kafka/notes",
            "postgres/dump.sql",
            "postgres/payments-db",
            "pki/order/notes",
            "pki/mine.pem",
            "console/notes",
            "console/tickets/notes",
        ];
        for file in foreign {
            if file == "postgres/payments-db" {
                std::os::unix::fs::symlink(elsewhere.join("payments-db"), folder.join(file)).expect("linked");
            } else {
                fs::write(folder.join(file), "precious").expect("written");
            }
        }
        let content = Content::of(&layout, Folder::Marked).expect("read");
        let mut named: Vec<_> = content
            .foreign
            .iter()
            .map(|path| path.strip_prefix(&folder).expect("in it").to_owned())
            .collect();
        named.sort();
        let mut expected: Vec<PathBuf> = foreign.iter().map(PathBuf::from).collect();
        expected.sort();
        assert_eq!(named, expected);
        content.delete().expect("deleted");
        for file in foreign {
            assert!(fs::symlink_metadata(folder.join(file)).is_ok(), "{file} stays");
        }
        assert!(elsewhere.join("payments-db/PG_VERSION").exists(), "behind the link too");
        assert!(!folder.join("config/order.toml").exists() && !folder.join("pki/order/tls.key").exists());
        fs::remove_dir_all(folder).expect("gone");
        fs::remove_dir_all(elsewhere).expect("gone");
    }

    /// Another project's folders are not taken for a stack's; those of a stack of an older version, without a marker, are.
    #[test]
    fn names_of_ours_alone_make_no_stack() {
        let (layout, folder) = stack();
        fs::remove_file(folder.join("pki/lock")).expect("gone");
        let content = Content::of(&layout, Folder::Unmarked).expect("read");
        assert_eq!(content.ours, Vec::<PathBuf>::new());
        assert!(content.foreign.contains(&folder.join("config/order.toml")), "{content:?}");
        // Certificates may be created before the first start.
        fs::write(folder.join("pki/lock"), "").expect("written");
        let content = Content::of(&layout, Folder::Unmarked).expect("read");
        assert!(content.ours.contains(&folder.join("pki/ca.crt")), "{content:?}");
        assert!(content.foreign.iter().all(|path| !path.starts_with(folder.join("pki"))), "{content:?}");
        fs::write(layout.lock_file(), "").expect("written");
        assert_eq!(Content::of(&layout, Folder::Unmarked).expect("read").foreign, Vec::<PathBuf>::new());
        fs::remove_dir_all(folder).expect("gone");
    }

    /// A folder under our name that is a link, or that none of our components has written, is somebody else's.
    #[test]
    fn what_a_link_leads_to_is_not_ours() {
        let folder = std::env::temp_dir().join(format!("holdfast-removal-project-{}", std::process::id()));
        fs::create_dir_all(folder.join("kafka/logs")).expect("created");
        fs::create_dir_all(folder.join("postgres/orders-db")).expect("created");
        fs::write(folder.join("kafka/logs/app.log"), "x").expect("written");
        fs::write(folder.join("postgres/orders-db/dump.sql"), "x").expect("written");
        fs::create_dir_all(folder.join("elsewhere")).expect("created");
        std::os::unix::fs::symlink(folder.join("elsewhere"), folder.join("config")).expect("linked");
        let content = Content::of(&Layout::new(folder.clone(), 0), Folder::Marked).expect("read");
        let names = ["config", "kafka/logs", "postgres/orders-db"].map(|name| folder.join(name));
        assert_eq!(content.foreign, names);
        assert_eq!(content.ours, Vec::<PathBuf>::new());
        fs::remove_dir_all(folder).expect("gone");
    }
}
