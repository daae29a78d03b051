//! The folder of an installation: its authority, its identities, its deny list, and how far a rotation is.

use holdfast_proto::hexadecimal;
use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    net::IpAddr,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use nix::fcntl::{Flock, FlockArg};
use time::{Duration, OffsetDateTime};

use crate::{
    PkiError,
    audit::{self, Action, Audit, AuditEntry, Author},
    authority::{AUTHORITY_LIFE, Authority, LEAF_LIFE_MAX, LeafRequest, service_uri},
    deny_list::{DenyList, Revoked},
    error::at,
    files::{self, Access},
    inspect::{self, Summary},
};

const LEAF_LIFE_MIN: Duration = Duration::minutes(1);

/// How far the rotation of the authority has come. Each step is safe to repeat, and nothing fails between them: peers
/// trust both authorities from the first step to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The new authority exists and is trusted everywhere; the old one still signs.
    Overlap,
    /// The new one signs, and every leaf is renewed; the old one is still trusted.
    Leaves,
}

/// The state of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafState {
    /// It is valid.
    Valid,
    /// It has expired.
    Expired,
    /// On the deny list.
    Revoked,
    /// No authority of the trust bundle beside it has signed it.
    Untrusted,
    /// It is another identity's.
    ForeignName,
    /// There is no key beside it.
    NoKey,
    /// The key beside it is another certificate's.
    ForeignKey,
    /// It trusts, or refuses, others than the installation does.
    StaleTrust,
}

impl LeafState {
    /// As it is shown, and written in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Untrusted => "untrusted",
            Self::ForeignName => "foreign-name",
            Self::NoKey => "no-key",
            Self::ForeignKey => "foreign-key",
            Self::StaleTrust => "stale-trust",
        }
    }
}

/// The state of one identity, from its files.
#[derive(Debug, Clone)]
pub struct LeafStatus {
    /// The identity.
    pub name: String,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// Name of the authority that signed it.
    pub issuer: String,
    /// Its end.
    pub not_after: OffsetDateTime,
    /// Names of the authorities that it trusts.
    pub trusts: Vec<String>,
    /// The fingerprint that a service with these files shows in its metric `holdfast_certificate_info`.
    pub fingerprint: String,
    /// The same without the deny list, as its clients of Kafka show it in `holdfast_kafka_clients`.
    pub client_fingerprint: String,
    /// Its state.
    pub state: LeafState,
}

/// See the module.
#[derive(Debug)]
pub struct Pki {
    directory: PathBuf,
    author: Author,
}

impl Pki {
    /// Opens the folder; creates an authority if there is none. One that has lost its key or its certificate is never replaced: that
    /// would have all that it has signed refused.
    pub fn open_or_init(directory: &Path) -> Result<Self, PkiError> {
        Self::open_or_init_by(directory, Author::default())
    }

    /// The same for changes that the audit has under this name.
    pub fn open_or_init_by(directory: &Path, author: Author) -> Result<Self, PkiError> {
        fs::create_dir_all(directory).map_err(at(directory))?;
        let pki = Self { directory: directory.to_owned(), author };
        let _lock = pki.lock()?;
        if !pki.path("ca.crt").exists() {
            // Without anything that it has signed, the key is that of an interrupted start: it is written first.
            if !pki.identities()?.is_empty() {
                return Err(PkiError::NoAuthorityCertificate { path: pki.path("ca.crt") });
            }
            pki.write_authority("ca", &Authority::generate(AUTHORITY_LIFE)?)?;
            pki.record_authority(Action::CreateAuthority, "ca");
        }
        Ok(pki)
    }

    /// Opens the folder of an existing installation. The authority's key need not be there: only what signs needs it.
    pub fn open(directory: &Path) -> Result<Self, PkiError> {
        Self::open_by(directory, Author::default())
    }

    /// The same for changes that the audit has under this name.
    pub fn open_by(directory: &Path, author: Author) -> Result<Self, PkiError> {
        let pki = Self { directory: directory.to_owned(), author };
        if pki.path("ca.crt").exists() {
            Ok(pki)
        } else if directory.is_dir() && !pki.identities()?.is_empty() {
            Err(PkiError::NoAuthorityCertificate { path: pki.path("ca.crt") })
        } else {
            Err(PkiError::NoAuthority { path: directory.to_owned() })
        }
    }

    /// The authority that signs now.
    pub fn authority(&self) -> Result<Authority, PkiError> {
        self.load(self.signer()?)
    }

    /// The name of the files of the authority that signs now.
    fn signer(&self) -> Result<&'static str, PkiError> {
        Ok(if self.phase()? == Some(Phase::Leaves) { "ca.next" } else { "ca" })
    }

    /// Makes sure that `name` has a leaf with more than half of a full life left: 12 h.
    pub fn ensure_leaf(&self, name: &str) -> Result<(), PkiError> {
        let _lock = self.lock()?;
        let before = self.leaf_status(name);
        let (action, reason) = match &before {
            Ok(leaf) if leaf.state != LeafState::Valid => {
                (Action::Renew, format!("it could not be used: {}", leaf.state.name()))
            }
            Ok(leaf) if leaf.not_after - OffsetDateTime::now_utc() > LEAF_LIFE_MAX / 2 => return Ok(()),
            Ok(_) => (Action::Renew, "less than 12 h were left".to_owned()),
            Err(PkiError::NoLeaf { .. }) => (Action::Issue, "there was none".to_owned()),
            Err(error) => (Action::Renew, format!("it could not be read: {error}")),
        };
        self.write_leaf(name, LEAF_LIFE_MAX)?;
        self.record_leaf(action, name, before.ok(), Some(reason));
        Ok(())
    }

    /// Has every leaf of `name` that is issued from now on say that it answers at these addresses.
    pub fn answers_at(&self, name: &str, addresses: &[IpAddr]) -> Result<(), PkiError> {
        check_name(name)?;
        let _lock = self.lock()?;
        let folder = self.path(name);
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let text: String = addresses.iter().map(|address| address.to_string() + "\n").collect();
        let path = folder.join("addresses");
        files::write(&path, &text, Access::Public).map_err(at(&path))
    }

    /// Issues a leaf that lives for `life`, at most a day.
    pub fn issue(&self, name: &str, life: Duration) -> Result<(), PkiError> {
        self.replace_leaf(Action::Issue, name, life)
    }

    /// Replaces the leaf of `name`, because all are to be replaced.
    pub fn rotate(&self, name: &str) -> Result<(), PkiError> {
        self.replace_leaf(Action::Rotate, name, LEAF_LIFE_MAX)
    }

    fn replace_leaf(&self, action: Action, name: &str, life: Duration) -> Result<(), PkiError> {
        let _lock = self.lock()?;
        let before = self.leaf_status(name).ok();
        self.write_leaf(name, life)?;
        self.record_leaf(action, name, before, None);
        Ok(())
    }

    /// Renews the leaf of `name`, then puts the old one on the deny list. Services refuse it as soon as they have read
    /// the list, on open connections too.
    pub fn revoke(&self, name: &str, reason: &str) -> Result<LeafStatus, PkiError> {
        let _lock = self.lock()?;
        let leaf = self.leaf_status(name)?;
        self.write_leaf(name, LEAF_LIFE_MAX)?;
        let mut list = self.deny_list()?;
        list.add(Revoked {
            serial: leaf.serial.clone(),
            not_after: leaf.not_after,
            reason: reason.to_owned(),
        });
        files::write(&self.path("revoked"), &list.to_text(), Access::Public).map_err(at(&self.directory))?;
        self.record(&AuditEntry {
            identity: Some(name.to_owned()),
            serial: Some(leaf.serial.clone()),
            authority: Some(leaf.issuer.clone()),
            reason: Some(reason.to_owned()),
            ..self.entry(Action::Revoke)
        });
        self.record_leaf(
            Action::Issue,
            name,
            Some(leaf.clone()),
            Some("the one of before is revoked".to_owned()),
        );
        self.distribute()?;
        Ok(leaf)
    }

    /// The leaves that are refused, and have not expired.
    pub fn revoked(&self) -> Result<Vec<Revoked>, PkiError> {
        let now = OffsetDateTime::now_utc();
        Ok(self.deny_list()?.into_entries().into_iter().filter(|entry| entry.not_after > now).collect())
    }

    /// What was done here, as far as it is kept: the latest 1 to 2 MiB.
    pub fn audit(&self) -> Result<Audit, PkiError> {
        audit::read(&self.directory)
    }

    /// The identities that have files, by name: also those of which some were lost.
    pub fn identities(&self) -> Result<Vec<String>, PkiError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(at(&self.directory))? {
            let entry = entry.map_err(at(&self.directory))?;
            let has_files =
                ["tls.crt", "tls.key", "ca.crt"].iter().any(|file| entry.path().join(file).exists());
            let name = entry.file_name().to_str().map(str::to_owned);
            names.extend(name.filter(|name| has_files && check_name(name).is_ok()));
        }
        names.sort();
        Ok(names)
    }

    /// The state of one identity, from its files.
    pub fn leaf_status(&self, name: &str) -> Result<LeafStatus, PkiError> {
        check_name(name)?;
        let folder = self.path(name);
        if !folder.join("tls.crt").exists() {
            return Err(PkiError::NoLeaf { name: name.to_owned() });
        }
        let read = |file: &str| {
            let path = folder.join(file);
            fs::read_to_string(&path).map_err(at(&path))
        };
        let (certificate, bundle, revoked) = (read("tls.crt")?, read("ca.crt")?, read("revoked")?);
        let leaf = inspect::certificate(&folder.join("tls.crt"), &certificate)?;
        let authorities = inspect::certificates(&folder.join("ca.crt"), &bundle)?;
        let list = DenyList::parse(&revoked);
        // The last second belongs to it, as those see it who check it (RFC 5280, 4.1.2.5).
        let state = if leaf.not_after.unix_timestamp() < OffsetDateTime::now_utc().unix_timestamp() {
            LeafState::Expired
        } else if list.contains(&leaf.serial) || self.deny_list()?.contains(&leaf.serial) {
            LeafState::Revoked
        } else if leaf.uris != [service_uri(name)] {
            LeafState::ForeignName
        } else if !authorities.iter().any(|authority| leaf.is_signed_by(authority)) {
            LeafState::Untrusted
        } else if bundle != self.trust_bundle()? || list.serials() != self.deny_list()?.serials() {
            LeafState::StaleTrust
        } else {
            key_state(&folder.join("tls.key"), &leaf)?
        };
        let trusts = authorities.into_iter().map(|authority| authority.subject).collect();
        let Summary { serial, issuer, not_after, .. } = leaf;
        let (fingerprint, client_fingerprint) = (
            fingerprint(&[certificate.as_str(), &bundle, &revoked]),
            fingerprint(&[certificate.as_str(), &bundle]),
        );
        let name = name.to_owned();
        Ok(LeafStatus { name, serial, issuer, not_after, trusts, fingerprint, client_fingerprint, state })
    }

    /// What a leaf of `name` has in it.
    pub fn request(&self, name: &str, life: Duration) -> Result<LeafRequest, PkiError> {
        let addresses = addresses(&self.path(name))?;
        Ok(LeafRequest { addresses, ..LeafRequest::service(name, life) })
    }

    /// The end of the authority that signs now.
    pub fn authority_not_after(&self) -> Result<OffsetDateTime, PkiError> {
        let path = self.path(&format!("{}.crt", self.signer()?));
        Ok(inspect::certificate(&path, &fs::read_to_string(&path).map_err(at(&path))?)?.not_after)
    }

    /// How far a rotation of the authority is; `None` if there is none.
    pub fn phase(&self) -> Result<Option<Phase>, PkiError> {
        let path = self.path("rotation");
        match fs::read_to_string(&path) {
            Ok(text) if text.trim() == "overlap" => Ok(Some(Phase::Overlap)),
            Ok(text) if text.trim() == "leaves" => Ok(Some(Phase::Leaves)),
            Ok(_) => Err(PkiError::NotDue),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(&path)(error)),
        }
    }

    /// Step 1 of 3: creates the next authority, and adds it to everybody's trust beside the current one.
    pub fn begin_rotation(&self) -> Result<(), PkiError> {
        let _lock = self.lock()?;
        if self.phase()?.is_none() {
            self.write_authority("ca.next", &Authority::generate(AUTHORITY_LIFE)?)?;
            self.write_phase("overlap")?;
            self.record_authority(Action::TrustNextAuthority, "ca.next");
        }
        self.distribute()
    }

    /// Step 2 of 3, when everybody uses the files of step 1: the next authority signs, and every leaf is renewed by it.
    pub fn renew_all_by_next(&self) -> Result<(), PkiError> {
        let _lock = self.lock()?;
        if self.phase()?.is_none() {
            return Err(PkiError::NotDue);
        }
        self.write_phase("leaves")?;
        for name in self.identities()? {
            let before = self.leaf_status(&name).ok();
            self.write_leaf(&name, LEAF_LIFE_MAX)?;
            self.record_leaf(Action::Rotate, &name, before, None);
        }
        Ok(())
    }

    /// Step 3 of 3, when everybody uses the files of step 2: nobody trusts the old authority any more.
    pub fn finish_rotation(&self) -> Result<(), PkiError> {
        let _lock = self.lock()?;
        if self.phase()? != Some(Phase::Leaves) {
            return Err(PkiError::NotDue);
        }
        // A crash in between leaves the marker, and the step is done again.
        self.write_authority("ca", &self.load("ca.next")?)?;
        let marker = self.path("rotation");
        fs::remove_file(&marker).map_err(at(&marker))?;
        for file in ["ca.next.crt", "ca.next.key"] {
            // Meaningless leftovers: without the marker nobody reads them.
            let _ = fs::remove_file(self.path(file));
        }
        self.record_authority(Action::ReplaceAuthority, "ca");
        self.distribute()
    }

    /// By the author of this value, now.
    fn entry(&self, action: Action) -> AuditEntry {
        AuditEntry {
            at: OffsetDateTime::now_utc(),
            actor: audit::bounded(&self.author.name),
            action,
            identity: None,
            serial: None,
            replaces: None,
            authority: None,
            reason: self.author.reason.as_deref().map(audit::bounded),
        }
    }

    /// The leaf that `name` has now. Without a `reason` it is the author's.
    fn record_leaf(&self, action: Action, name: &str, before: Option<LeafStatus>, reason: Option<String>) {
        let entry = self.entry(action);
        let now = self.leaf_status(name).ok();
        self.record(&AuditEntry {
            identity: Some(name.to_owned()),
            serial: now.as_ref().map(|leaf| leaf.serial.clone()),
            replaces: before.map(|leaf| leaf.serial),
            authority: now.map(|leaf| leaf.issuer),
            reason: reason.or(entry.reason.clone()),
            ..entry
        });
    }

    /// `file` is the authority's, without its ending.
    fn record_authority(&self, action: Action, file: &str) {
        let path = self.path(&format!("{file}.crt"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let authority = inspect::certificate(&path, &text).ok().map(|certificate| certificate.subject);
        self.record(&AuditEntry { authority, ..self.entry(action) });
    }

    /// What was done stays done, whether or not it can be written down.
    fn record(&self, entry: &AuditEntry) {
        if let Err(error) = audit::record(&self.directory, entry) {
            (self.author.unrecorded)(&error);
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// One process at a time changes the folder: an operator's command and the supervisor that renews leaves.
    fn lock(&self) -> Result<Flock<File>, PkiError> {
        let path = self.path("lock");
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(at(&path))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| at(&path)(errno.into()))
    }

    fn load(&self, name: &str) -> Result<Authority, PkiError> {
        let key = self.path(&format!("{name}.key"));
        if !key.exists() {
            return Err(PkiError::NoAuthorityKey { path: key });
        }
        Authority::load(&self.path(&format!("{name}.crt")), &key)
    }

    fn write_authority(&self, name: &str, authority: &Authority) -> Result<(), PkiError> {
        let (key, certificate) = (self.path(&format!("{name}.key")), self.path(&format!("{name}.crt")));
        files::write(&key, authority.key(), Access::Private).map_err(at(&key))?;
        files::write(&certificate, authority.certificate(), Access::Public).map_err(at(&certificate))
    }

    fn write_phase(&self, phase: &str) -> Result<(), PkiError> {
        let path = self.path("rotation");
        files::write(&path, phase, Access::Public).map_err(at(&path))
    }

    /// The authorities that peers are checked against now.
    fn trust_bundle(&self) -> Result<String, PkiError> {
        let certificate = |name: &str| {
            let path = self.path(name);
            let text = fs::read_to_string(&path).map_err(at(&path))?;
            inspect::certificate(&path, &text)?;
            Ok::<_, PkiError>(text)
        };
        let mut bundle = certificate("ca.crt")?;
        if self.phase()?.is_some() {
            bundle.push_str(&certificate("ca.next.crt")?);
        }
        Ok(bundle)
    }

    fn deny_list(&self) -> Result<DenyList, PkiError> {
        DenyList::read(&self.path("revoked"))
    }

    fn write_leaf(&self, name: &str, life: Duration) -> Result<(), PkiError> {
        check_name(name)?;
        if !(LEAF_LIFE_MIN..=LEAF_LIFE_MAX).contains(&life) {
            return Err(PkiError::LeafLife);
        }
        let since = self.authority_not_after()?;
        if since <= OffsetDateTime::now_utc() {
            return Err(PkiError::AuthorityExpired { since });
        }
        let leaf = self.authority()?.leaf(&self.request(name, life)?)?;
        let folder = self.path(name);
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        self.write_trust(&folder)?;
        // The two are not replaced atomically: a reader that sees a key without its certificate keeps what it has, and
        // tries again.
        for (file, content, access) in
            [("tls.key", &leaf.key, Access::Private), ("tls.crt", &leaf.certificate, Access::Public)]
        {
            let path = folder.join(file);
            files::write(&path, content, access).map_err(at(&path))?;
        }
        Ok(())
    }

    /// Trust bundle and deny list beside the leaf of each identity.
    fn distribute(&self) -> Result<(), PkiError> {
        for name in self.identities()? {
            self.write_trust(&self.path(&name))?;
        }
        Ok(())
    }

    fn write_trust(&self, folder: &Path) -> Result<(), PkiError> {
        let deny_list = self.deny_list()?;
        let list = folder.join("ca.crl");
        let mut changed = !list.exists();
        for (file, content) in [("ca.crt", self.trust_bundle()?), ("revoked", deny_list.to_text())] {
            let path = folder.join(file);
            if fs::read_to_string(&path).is_ok_and(|before| before == content) {
                continue;
            }
            files::write(&path, &content, Access::Public).map_err(at(&path))?;
            changed = true;
        }
        if changed {
            let lists = self.revocation_lists(&deny_list.serials(), &list)?;
            files::write(&list, &lists, Access::Public).map_err(at(&list))?;
        }
        Ok(())
    }

    /// A list of each authority that is trusted now: without one, PostgreSQL accepts no certificate of it.
    /// One that has lost its key, and is being replaced, signs no new one: then its list in the file of before stays.
    fn revocation_lists(&self, serials: &[String], before: &Path) -> Result<String, PkiError> {
        let mut lists = match self.load("ca") {
            Ok(authority) => authority.revocation_list(serials)?,
            Err(PkiError::NoAuthorityKey { .. }) if self.phase()?.is_some() => {
                let path = self.path("ca.crt");
                let certificate = fs::read_to_string(&path).map_err(at(&path))?;
                inspect::list_of(&inspect::certificate(&path, &certificate)?.subject, before)?
            }
            Err(error) => return Err(error),
        };
        if self.phase()?.is_some() {
            lists.push_str(&self.load("ca.next")?.revocation_list(serials)?);
        }
        Ok(lists)
    }
}

/// Whether the key in a file is that of a certificate.
fn key_state(path: &Path, leaf: &Summary) -> Result<LeafState, PkiError> {
    match fs::read_to_string(path) {
        Ok(key) if inspect::public_key_of(&key).is_some_and(|key| key == leaf.public_key) => {
            Ok(LeafState::Valid)
        }
        Ok(_) => Ok(LeafState::ForeignKey),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(LeafState::NoKey),
        // Not UTF-8.
        Err(error) if error.kind() == ErrorKind::InvalidData => Ok(LeafState::ForeignKey),
        Err(error) => Err(at(path)(error)),
    }
}

/// What [`Pki::answers_at`] has written; none for most.
fn addresses(folder: &Path) -> Result<Vec<IpAddr>, PkiError> {
    let path = folder.join("addresses");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at(&path)(error)),
    }
}

/// The same as in `holdfast_common::identity`, which publishes it as a metric: certificate, trust bundle and perhaps deny list,
/// without the key.
fn fingerprint(contents: &[&str]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for content in contents {
        context.update(content.as_bytes());
    }
    hexadecimal(&context.finish().as_ref()[..8])
}

/// Whether an identity can have this name.
pub fn check_name(name: &str) -> Result<(), PkiError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        Ok(())
    } else {
        Err(PkiError::Name { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    /// The authority is created once, and fresh leaves are left alone.
    #[test]
    fn the_authority_is_created_once() {
        let folder = folder();
        let first = Pki::open_or_init(folder.path()).expect("created");
        first.ensure_leaf("order").expect("issued");
        let before = first.leaf_status("order").expect("there");
        let second = Pki::open_or_init(folder.path()).expect("read");
        assert_eq!(
            first.authority().expect("read").certificate(),
            second.authority().expect("read").certificate()
        );
        second.ensure_leaf("order").expect("fresh");
        assert_eq!(second.leaf_status("order").expect("there").serial, before.serial);
        second.issue("order", LEAF_LIFE_MAX).expect("issued");
        assert_ne!(second.leaf_status("order").expect("there").serial, before.serial);
        second.issue("payment", Duration::hours(1)).expect("issued");
        second.ensure_leaf("payment").expect("renewed before it ends");
        let left = second.leaf_status("payment").expect("there").not_after - OffsetDateTime::now_utc();
        assert!(left > Duration::hours(23), "{left}");
    }

    /// Names that could leave the folder, and leaves that live forever, are refused.
    #[test]
    fn odd_requests_are_refused() {
        let folder = folder();
        let pki = Pki::open_or_init(folder.path()).expect("created");
        for name in ["", "..", "a/b", "Order", "ca.next", &"a".repeat(65)] {
            assert!(matches!(pki.issue(name, LEAF_LIFE_MAX), Err(PkiError::Name { .. })), "{name:?}");
        }
        for life in [Duration::hours(25), Duration::ZERO, Duration::seconds(-1)] {
            assert!(matches!(pki.issue("order", life), Err(PkiError::LeafLife)), "{life}");
        }
        assert!(matches!(Pki::open(&folder.path().join("other")), Err(PkiError::NoAuthority { .. })));
    }

    /// Nobody but the owner can read a private key, not even after a rotation.
    #[test]
    fn private_keys_are_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = folder();
        let pki = Pki::open_or_init(folder.path()).expect("created");
        pki.issue("order", LEAF_LIFE_MAX).expect("issued");
        pki.begin_rotation().expect("begun");
        pki.renew_all_by_next().expect("renewed");
        let private = |file: &str| {
            let mode = fs::metadata(folder.path().join(file)).expect("there").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{file}");
        };
        private("ca.next.key");
        pki.finish_rotation().expect("finished");
        private("ca.key");
        private("order/tls.key");
    }

    /// At each step of a rotation every leaf is trusted by every identity, before and after the step; repeating a step
    /// does no harm, and one that is not due is refused.
    #[test]
    fn nothing_is_untrusted_at_any_step_of_a_rotation() {
        let folder = folder();
        let pki = Pki::open_or_init(folder.path()).expect("created");
        for name in ["order", "gateway"] {
            pki.issue(name, LEAF_LIFE_MAX).expect("issued");
        }
        let statuses = || ["order", "gateway"].map(|name| pki.leaf_status(name).expect("there"));
        let before = statuses();
        // Services reload at different times, so those before and after a step must trust each other.
        let trusted = |older: &[LeafStatus], newer: &[LeafStatus]| {
            for one in older.iter().chain(newer) {
                for other in older.iter().chain(newer) {
                    assert!(other.trusts.contains(&one.issuer), "{one:?} by {other:?}");
                }
                assert_eq!(one.state, LeafState::Valid);
            }
        };
        assert!(matches!(pki.renew_all_by_next(), Err(PkiError::NotDue)));
        assert!(matches!(pki.finish_rotation(), Err(PkiError::NotDue)));
        for _ in 0..2 {
            pki.begin_rotation().expect("begun");
        }
        let both = statuses();
        trusted(&before, &both);
        assert!(matches!(pki.finish_rotation(), Err(PkiError::NotDue)));
        for _ in 0..2 {
            pki.renew_all_by_next().expect("renewed");
        }
        let renewed = statuses();
        trusted(&both, &renewed);
        pki.finish_rotation().expect("finished");
        let after = statuses();
        trusted(&renewed, &after);
        assert_eq!(pki.phase().expect("readable"), None);
        assert!(!after[0].trusts.contains(&before[0].issuer), "the old one is gone");
        pki.issue("order", LEAF_LIFE_MAX).expect("the new one signs");
        trusted(&after, &statuses());
    }

    /// An authority that has lost its key is still the one whose leaves are good: they are seen as valid, it is never replaced in
    /// silence, what would be signed says what is missing, and a rotation replaces it step by step.
    #[test]
    fn a_lost_key_is_said_and_replaced_only_by_a_rotation() {
        let folder = folder();
        let pki = Pki::open_or_init(folder.path()).expect("created");
        for name in ["order", "gateway"] {
            pki.issue(name, LEAF_LIFE_MAX).expect("issued");
        }
        let revoked = pki.revoke("gateway", "stolen laptop").expect("revoked");
        let certificate = || fs::read(folder.path().join("ca.crt")).expect("there");
        let before = certificate();
        fs::remove_file(folder.path().join("ca.key")).expect("lost");
        let states =
            |pki: &Pki| ["order", "gateway"].map(|name| pki.leaf_status(name).expect("readable").state);
        for pki in [Pki::open(folder.path()), Pki::open_or_init(folder.path())] {
            let pki = pki.expect("opened");
            assert_eq!(states(&pki), [LeafState::Valid; 2]);
            assert!(pki.authority_not_after().is_ok());
            pki.ensure_leaf("order").expect("fresh");
            let error = pki.issue("order", LEAF_LIFE_MAX).expect_err("nothing signs");
            let refused = error.to_string();
            assert!(refused.contains("ca.key") && error.remedy() == Some("certs rotate --ca"), "{refused}");
        }
        assert_eq!(certificate(), before);

        pki.begin_rotation().expect("begun");
        assert_eq!(states(&pki), [LeafState::Valid; 2]);
        // PostgreSQL accepts nothing of an authority of which it has no list.
        let order = folder.path().join("order");
        assert_eq!(refused(&order), vec![vec![revoked.serial]; 2], "the old list stays");
        pki.renew_all_by_next().expect("renewed");
        pki.finish_rotation().expect("finished");
        assert_eq!(states(&pki), [LeafState::Valid; 2]);
        assert_eq!(refused(&order).len(), 1);
        assert_ne!(certificate(), before);

        fs::remove_file(folder.path().join("ca.crt")).expect("lost");
        for opened in [Pki::open(folder.path()), Pki::open_or_init(folder.path())] {
            let refused = opened.expect_err("lost").to_string();
            assert!(refused.contains("ca.crt"), "{refused}");
        }
    }

    /// A start that was interrupted before its authority was whole begins again.
    #[test]
    fn half_an_authority_is_made_anew() {
        let folder = folder();
        fs::write(folder.path().join("ca.key"), "half").expect("written");
        Pki::open_or_init(folder.path()).expect("made anew").issue("order", LEAF_LIFE_MAX).expect("it signs");
    }

    fn copy(from: &Path, to: &Path, files: &[&str]) {
        for file in files {
            fs::copy(from.join(file), to.join(file)).expect("copied");
        }
    }

    /// Whatever keeps a leaf from being used is a state of its own, and is mended by renewing it.
    #[test]
    fn whatever_makes_a_leaf_useless_is_seen() {
        type Damage = fn(&Path);
        let damages: [(Damage, Option<LeafState>); 8] = [
            (|order| fs::remove_file(order.join("tls.key")).expect("removed"), Some(LeafState::NoKey)),
            (|order| fs::write(order.join("tls.key"), "x").expect("written"), Some(LeafState::ForeignKey)),
            (|order| copy(&order.join("../payment"), order, &["tls.key"]), Some(LeafState::ForeignKey)),
            (
                |order| fs::write(order.join("revoked"), "0a 9999999999 x\n").expect("written"),
                Some(LeafState::StaleTrust),
            ),
            (|order| fs::write(order.join("ca.crt"), "").expect("written"), Some(LeafState::Untrusted)),
            (|order| fs::write(order.join("tls.crt"), "x").expect("written"), None),
            (|order| fs::write(order.join("tls.crt"), [0xff]).expect("written"), None),
            (|order| fs::remove_file(order.join("tls.crt")).expect("removed"), None),
        ];
        let folder = folder();
        let pki = Pki::open_or_init(folder.path()).expect("created");
        let other = tempfile::tempdir().expect("a folder");
        Pki::open_or_init(other.path()).expect("created").issue("order", LEAF_LIFE_MAX).expect("issued");
        let (order, payment) = (folder.path().join("order"), folder.path().join("payment"));
        for name in ["order", "payment"] {
            pki.issue(name, LEAF_LIFE_MAX).expect("issued");
        }
        let state = || pki.leaf_status("order").map(|leaf| leaf.state).ok();
        let mended = || {
            assert!(pki.identities().expect("listed").contains(&"order".to_owned()), "it does not vanish");
            pki.ensure_leaf("order").expect("renewed");
            assert_eq!(state(), Some(LeafState::Valid));
        };
        mended();
        for (number, (damage, expected)) in damages.into_iter().enumerate() {
            damage(&order);
            assert_eq!(state(), expected, "{number}");
            mended();
        }
        copy(&payment, &order, &["tls.crt", "tls.key"]);
        assert_eq!(state(), Some(LeafState::ForeignName));
        mended();
        copy(&other.path().join("order"), &order, &["tls.crt", "tls.key"]);
        assert_eq!(state(), Some(LeafState::Untrusted));
        mended();
        // Of another installation as a whole: it trusts itself, and nobody here.
        copy(&other.path().join("order"), &order, &["tls.crt", "tls.key", "ca.crt"]);
        assert_eq!(state(), Some(LeafState::StaleTrust));
        mended();
    }

    /// An expired authority signs nothing, but can still be replaced.
    #[test]
    fn an_expired_authority_can_be_replaced() {
        let folder = folder();
        let pki = Pki::open_or_init(folder.path()).expect("created");
        pki.issue("order", LEAF_LIFE_MAX).expect("issued");
        pki.write_authority("ca", &Authority::generate(Duration::seconds(-5)).expect("created"))
            .expect("written");
        assert!(matches!(pki.issue("order", LEAF_LIFE_MAX), Err(PkiError::AuthorityExpired { .. })));
        pki.begin_rotation().expect("begun");
        pki.renew_all_by_next().expect("renewed");
        pki.finish_rotation().expect("finished");
        assert_eq!(pki.leaf_status("order").expect("there").state, LeafState::Valid);
    }

    /// A revoked leaf is replaced first, then named on everybody's list.
    #[test]
    fn a_revoked_leaf_is_on_everybodys_list() {
        let folder = folder();
        let pki = Pki::open_or_init(folder.path()).expect("created");
        for name in ["order", "gateway"] {
            pki.issue(name, LEAF_LIFE_MAX).expect("issued");
        }
        let revoked = pki.revoke("gateway", "stolen laptop").expect("revoked");
        for name in ["order", "gateway"] {
            let list = fs::read_to_string(folder.path().join(name).join("revoked")).expect("there");
            assert!(DenyList::parse(&list).contains(&revoked.serial), "{name}");
            assert_eq!(pki.leaf_status(name).expect("there").state, LeafState::Valid);
            assert_eq!(refused(&folder.path().join(name)), [vec![revoked.serial.clone()]], "{name}");
        }
        pki.begin_rotation().expect("begun");
        let by_both = vec![vec![revoked.serial.clone()]; 2];
        assert_eq!(refused(&folder.path().join("order")), by_both, "both authorities refuse it");
        assert!(matches!(pki.revoke("nobody", "?"), Err(PkiError::NoLeaf { .. })));
    }

    /// The serials in the signed lists beside a leaf, list by list.
    fn refused(identity: &Path) -> Vec<Vec<String>> {
        use x509_parser::{pem::Pem, prelude::FromDer as _, revocation_list::CertificateRevocationList};
        let text = fs::read(identity.join("ca.crl")).expect("there");
        Pem::iter_from_buffer(&text)
            .map(|pem| {
                let pem = pem.expect("PEM");
                let (_, list) = CertificateRevocationList::from_der(&pem.contents).expect("a list");
                list.iter_revoked_certificates().map(|entry| hexadecimal(entry.raw_serial())).collect()
            })
            .collect()
    }

    /// Each change is in the audit, with who made it and why; no key is.
    #[test]
    fn every_change_is_in_the_audit() {
        let folder = folder();
        let by = |name: &str, reason: Option<&str>| Author {
            name: name.to_owned(),
            reason: reason.map(str::to_owned),
            ..Author::default()
        };
        let supervisor = Pki::open_or_init_by(folder.path(), by("supervisor", None)).expect("created");
        supervisor.ensure_leaf("order").expect("issued");
        supervisor.ensure_leaf("order").expect("fresh");
        let serial = || Some(supervisor.leaf_status("order").expect("there").serial);
        let first = serial();
        supervisor.issue("order", Duration::hours(1)).expect("issued");
        supervisor.ensure_leaf("order").expect("renewed before it ends");
        fs::remove_file(folder.path().join("order/tls.key")).expect("removed");
        supervisor.ensure_leaf("order").expect("mended");
        let alice = Pki::open_by(folder.path(), by("alice", Some("an exercise"))).expect("opened");
        alice.rotate("order").expect("issued");
        let rotated = serial();
        alice.revoke("order", "stolen laptop").expect("revoked");
        for _ in 0..2 {
            alice.begin_rotation().expect("begun");
        }
        alice.renew_all_by_next().expect("renewed");
        alice.finish_rotation().expect("finished");

        let Audit { mut entries, unreadable } = alice.audit().expect("read");
        entries.reverse();
        let told: Vec<_> = entries
            .iter()
            .map(|entry| (entry.actor.as_str(), entry.action, entry.reason.as_deref()))
            .collect();
        let (exercise, in_time) = (Some("an exercise"), Some("less than 12 h were left"));
        assert_eq!(
            told,
            [
                ("supervisor", Action::CreateAuthority, None),
                ("supervisor", Action::Issue, Some("there was none")),
                ("supervisor", Action::Issue, None),
                ("supervisor", Action::Renew, in_time),
                ("supervisor", Action::Renew, Some("it could not be used: no-key")),
                ("alice", Action::Rotate, exercise),
                ("alice", Action::Revoke, Some("stolen laptop")),
                ("alice", Action::Issue, Some("the one of before is revoked")),
                ("alice", Action::TrustNextAuthority, exercise),
                ("alice", Action::Rotate, exercise),
                ("alice", Action::ReplaceAuthority, exercise),
            ]
        );
        assert_eq!((&entries[1].serial, &entries[2].replaces), (&first, &first));
        assert_eq!((&entries[6].serial, &entries[7].replaces), (&rotated, &rotated));
        assert_ne!(entries[0].authority, entries[10].authority);
        assert!(entries.iter().all(|entry| entry.authority.is_some()), "{entries:?}");
        assert_eq!(unreadable, 0);
        let text = fs::read_to_string(folder.path().join("audit.jsonl")).expect("there");
        assert!(!text.contains("PRIVATE") && !text.contains("BEGIN"), "{text}");
        let revoked = alice.revoked().expect("read");
        assert_eq!((revoked.len(), revoked[0].reason.as_str()), (1, "stolen laptop"));
        assert_eq!(Some(&revoked[0].serial), rotated.as_ref());
    }

    /// A change that can't be written down is said, and made all the same.
    #[test]
    fn an_audit_that_cannot_be_written_is_in_nobodys_way() {
        static UNRECORDED: AtomicUsize = AtomicUsize::new(0);
        let folder = folder();
        fs::create_dir(folder.path().join("audit.jsonl")).expect("in its way");
        let unrecorded = |error: &PkiError| {
            assert!(error.to_string().contains("audit.jsonl"), "{error}");
            UNRECORDED.fetch_add(1, Ordering::Relaxed);
        };
        let pki = Pki::open_or_init_by(folder.path(), Author { unrecorded, ..Author::default() });
        let pki = pki.expect("created");
        pki.ensure_leaf("order").expect("issued");
        pki.revoke("order", "stolen").expect("revoked");
        assert_eq!(pki.leaf_status("order").expect("there").state, LeafState::Valid);
        assert_eq!(UNRECORDED.load(Ordering::Relaxed), 4);
    }

    /// A server's leaf has its addresses, whoever renews it.
    #[test]
    fn a_server_keeps_its_addresses() {
        let folder = folder();
        let pki = Pki::open_or_init(folder.path()).expect("created");
        pki.answers_at("orders-db", &["127.0.0.1".parse().expect("an address")]).expect("written");
        pki.ensure_leaf("orders-db").expect("issued");
        let has_it = || {
            let text = fs::read(folder.path().join("orders-db/tls.crt")).expect("there");
            let (_, pem) = x509_parser::pem::parse_x509_pem(&text).expect("PEM");
            let certificate = pem.parse_x509().expect("a certificate");
            let names = certificate.subject_alternative_name().expect("readable").expect("there");
            let address = x509_parser::extensions::GeneralName::IPAddress(&[127, 0, 0, 1]);
            names.value.general_names.contains(&address)
        };
        assert!(has_it());
        pki.begin_rotation().expect("begun");
        pki.renew_all_by_next().expect("renewed");
        assert!(has_it());
    }
}
