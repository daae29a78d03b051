//! The services and database servers that use the certificates, and which ones they use.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use holdfast_certs::{LeafStatus, Pki};
use holdfast_native::{
    certificates,
    control::{self, Found},
    layout::{DatabaseTls, Layout, PARTICIPANTS, Participant, service_of},
};
use tokio::time::Instant;

use super::folder::Folder;
use crate::{admin, output::say};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The components of the stack that uses these certificates, if one runs.
#[derive(Debug, Default)]
pub(super) struct Running(Vec<User>);

#[derive(Debug)]
struct User {
    identity: &'static str,
    component: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Says so on its admin port.
    Service { admin_url: String },
    /// Shows it to whoever connects.
    Database { layout: Layout, participant: &'static Participant },
}

impl User {
    /// Whether it uses the files of this leaf.
    async fn uses(&self, leaf: &LeafStatus) -> Result<bool> {
        match &self.kind {
            Kind::Service { admin_url } => {
                Ok(in_use(admin_url).await?.is_some_and(|fingerprint| fingerprint == leaf.fingerprint))
            }
            Kind::Database { layout, participant } => certificates::are_used(layout, participant, leaf).await,
        }
    }
}

impl Running {
    pub(super) fn of(folder: &Folder) -> Result<Self> {
        let data_dir = folder.at.data_dir()?;
        // Who uses another folder is not known.
        if folder.dir.is_some() {
            return Ok(Self::default());
        }
        // Services that have lost their supervisor use the files too.
        let (Found::Running(report) | Found::Abandoned(report)) = control::find(&data_dir)? else {
            return Ok(Self::default());
        };
        let layout = Layout::new(data_dir, report.port_offset);
        if !control::anything_runs(&layout, &report) {
            return Ok(Self::default());
        }
        let has_tls = layout.database_tls() == DatabaseTls::On;
        let databases = PARTICIPANTS.iter().filter(|_| has_tls).map(|participant| User {
            identity: participant.server,
            component: participant.server.to_owned(),
            kind: Kind::Database { layout: layout.clone(), participant },
        });
        let services = report.components.into_iter().filter_map(|component| {
            Some(User {
                identity: service_of(&component.name)?,
                kind: Kind::Service { admin_url: layout.admin_url(&component.name) },
                component: component.name,
            })
        });
        Ok(Self(databases.chain(services).collect()))
    }

    /// Returns when every running component uses the files that are there now.
    pub(super) async fn wait_until_used(&self, pki: &Pki, wait: Duration) -> Result<()> {
        let until = Instant::now() + wait;
        for user in &self.0 {
            let component = &user.component;
            loop {
                let wanted = pki.leaf_status(user.identity)?;
                match user.uses(&wanted).await {
                    Ok(true) => break,
                    _ if Instant::now() < until => tokio::time::sleep(LOOK_EVERY).await,
                    Ok(_) => bail!(
                        "{component} does not use its new certificate after {} s: its log says why; this command can \
                         be run again",
                        wait.as_secs()
                    ),
                    Err(error) => return Err(error).with_context(|| format!("{component} does not answer")),
                }
            }
        }
        let names: Vec<&str> = self.0.iter().map(|user| user.component.as_str()).collect();
        if !names.is_empty() {
            say!("    used by {}", names.join(", "));
        }
        Ok(())
    }

    /// Components of an identity.
    pub(super) fn components_of(&self, identity: &str) -> Vec<String> {
        let users = self.0.iter().filter(|user| user.identity == identity);
        users.map(|user| user.component.clone()).collect()
    }

    /// Components of an identity that use the files of its leaf, and those that use others.
    pub(super) async fn users(&self, leaf: &LeafStatus) -> (Vec<String>, Vec<String>) {
        let (mut these, mut others) = (Vec::new(), Vec::new());
        for user in self.0.iter().filter(|user| user.identity == leaf.name) {
            let side = if user.uses(leaf).await.unwrap_or(false) { &mut these } else { &mut others };
            side.push(user.component.clone());
        }
        (these, others)
    }
}

/// Returns the fingerprint of the files that a service uses, from its metric `cert_info`.
async fn in_use(admin_url: &str) -> Result<Option<String>> {
    let page = admin::page(admin_url, "/metrics").await?;
    Ok(fingerprint_of(&page))
}

/// `cert_info{serial="…",fingerprint="…"} 1`; those of earlier files are 0.
fn fingerprint_of(page: &str) -> Option<String> {
    let line = page.lines().find(|line| line.starts_with("cert_info{") && line.ends_with("} 1"))?;
    let (_, rest) = line.split_once("fingerprint=\"")?;
    rest.split_once('"').map(|(fingerprint, _)| fingerprint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The series of earlier certificates are zero and don't count.
    #[test]
    fn the_current_certificate_is_the_series_that_is_one() {
        let page = "# TYPE cert_info gauge\ncert_info{serial=\"0a\",fingerprint=\"old\"} 0\n\
                    cert_info{serial=\"0b\",fingerprint=\"new\"} 1\ncert_not_after 12\n";
        assert_eq!(fingerprint_of(page).as_deref(), Some("new"));
        assert_eq!(fingerprint_of("cert_info{serial=\"0a\",fingerprint=\"old\"} 0\n"), None);
    }
}
