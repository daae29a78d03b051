//! A certificate that peers must refuse, for a while.
//!
//! A service refuses files that no peer would accept and keeps what it has (`holdfast_common::identity`), so it must be deceived:
//! an expired leaf is one that is still valid when the service begins to use it; one of a foreign authority comes with a trust
//! bundle that has that authority in it, as on a host that was given files of another installation.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use holdfast_certs::{Author, Authority, LEAF_LIFE_MAX, LeafRequest, Pki};
use holdfast_native::say;
use time::Duration;

/// Longer than a service needs to begin to use it: it looks every 2 s.
pub const EXPIRES_AFTER: Duration = Duration::seconds(8);

/// What is wrong with a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It expires after [`EXPIRES_AFTER`].
    Expires,
    /// Nobody else trusts the authority that signed it.
    Foreign,
}

impl Flaw {
    /// As reports say it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expires => "the certificate has expired",
            Self::Foreign => "the certificate is of a foreign authority",
        }
    }

    /// What a service logs of a handshake that failed because of it: what the peer said of our certificate, or what is wrong with
    /// the peer's.
    #[must_use]
    pub const fn refusals(self) -> [&'static str; 2] {
        match self {
            Self::Expires => {
                ["received fatal alert: CertificateExpired", "invalid peer certificate: certificate expired"]
            }
            Self::Foreign => ["received fatal alert: UnknownCA", "invalid peer certificate: UnknownIssuer"],
        }
    }
}

/// An identity whose leaf has a flaw. It gets a right one when this is dropped, whatever ends its owner.
#[derive(Debug)]
pub struct Flawed {
    pki: PathBuf,
    identity: String,
    healed: bool,
}

impl Flawed {
    /// Gives `identity` a leaf with a flaw.
    pub fn install(pki: &Path, identity: &str, flaw: Flaw) -> Result<Self> {
        let folder = pki.join(identity);
        let ours = Pki::open(pki)?;
        // Only one that is there: what has a flaw is issued anew.
        ours.leaf_status(identity)?;
        let request = ours.request(identity, LEAF_LIFE_MAX)?;
        let (leaf, trusted) = match flaw {
            Flaw::Expires => {
                let request = LeafRequest { valid_until: EXPIRES_AFTER, ..request };
                (ours.authority()?.leaf(&request)?, None)
            }
            Flaw::Foreign => {
                let foreign = Authority::generate(LEAF_LIFE_MAX)?;
                (foreign.leaf(&request)?, Some(foreign.certificate().to_owned()))
            }
        };
        let flawed = Self { pki: pki.to_owned(), identity: identity.to_owned(), healed: false };
        if let Some(trusted) = trusted {
            let bundle = fs::read_to_string(folder.join("ca.crt"))?;
            write(&folder, "ca.crt", &format!("{bundle}{trusted}"), 0o644)?;
        }
        write(&folder, "tls.key", &leaf.key, 0o600)?;
        write(&folder, "tls.crt", &leaf.certificate, 0o644)?;
        Ok(flawed)
    }

    /// Issues a right one.
    pub fn heal(mut self) -> Result<()> {
        self.issue()
    }

    fn issue(&mut self) -> Result<()> {
        let author = Author {
            name: "chaos".to_owned(),
            reason: Some("replaces one with a flaw".to_owned()),
            unrecorded: |error| say!("{error}"),
        };
        Pki::open_by(&self.pki, author)?.issue(&self.identity, LEAF_LIFE_MAX)?;
        self.healed = true;
        Ok(())
    }
}

impl Drop for Flawed {
    fn drop(&mut self) {
        if !self.healed
            && let Err(error) = self.issue()
        {
            say!("{} has no right certificate: {error:#}", self.identity);
        }
    }
}

/// Writes a file as a whole: a service may read it at any moment.
fn write(folder: &Path, name: &str, content: &str, mode: u32) -> Result<()> {
    let mut draft = tempfile::NamedTempFile::new_in(folder)?;
    draft.write_all(content.as_bytes())?;
    draft.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    // The folder is its reader's, which is another user if this one is root.
    let (reader, us) = (fs::metadata(folder)?, draft.as_file().metadata()?);
    if (reader.uid(), reader.gid()) != (us.uid(), us.gid()) {
        fchown(draft.as_file(), Some(reader.uid()), Some(reader.gid()))?;
    }
    draft.persist(folder.join(name)).with_context(|| format!("cannot write {name}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use holdfast_certs::LeafState;

    use super::*;

    /// A leaf has the flaw that it is to have, and afterwards it is right again, trust included.
    #[test]
    fn a_leaf_is_flawed_for_a_while() {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = Pki::open_or_init(folder.path()).expect("created");
        for name in ["order", "gateway"] {
            pki.ensure_leaf(name).expect("issued");
        }
        let before = pki.leaf_status("order").expect("there");
        let flawed = Flawed::install(folder.path(), "order", Flaw::Foreign).expect("installed");
        let foreign = pki.leaf_status("order").expect("there");
        assert_eq!(foreign.state, LeafState::StaleTrust, "what it trusts is not what the others trust");
        assert!(!pki.leaf_status("gateway").expect("there").trusts.contains(&foreign.issuer));
        drop(flawed);
        let after = pki.leaf_status("order").expect("there");
        assert_eq!((after.state, after.trusts), (LeafState::Valid, before.trusts));
        let flawed = Flawed::install(folder.path(), "order", Flaw::Expires).expect("installed");
        let left = pki.leaf_status("order").expect("there").not_after - time::OffsetDateTime::now_utc();
        assert!(left > Duration::ZERO && left <= EXPIRES_AFTER, "{left}");
        flawed.heal().expect("issued");
        let left = pki.leaf_status("order").expect("there").not_after - time::OffsetDateTime::now_utc();
        assert!(left > Duration::hours(23), "{left}");
        let mode = fs::metadata(folder.path().join("order/tls.key")).expect("there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "the key is private");
        assert!(Flawed::install(folder.path(), "nobody", Flaw::Expires).is_err());
    }
}
