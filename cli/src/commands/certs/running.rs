//! The services, database servers and the broker that use the certificates, and which ones they use.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use holdfast_certs::{LeafStatus, Pki};
use holdfast_native::{
    certificates,
    control::{self, Found},
    layout::{KAFKA, Layout, PARTICIPANTS, Participant, Tls, program_of},
    link::Link,
};
use serde::Serialize;
use tokio::time::Instant;

use super::folder::Folder;
use crate::{admin, output::say};

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Whoever waits is told this often how far it is.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The components of the stack that uses these certificates, if one runs.
#[derive(Debug, Default)]
pub(super) struct Running(Vec<User>);

#[derive(Debug)]
struct User {
    identity: &'static str,
    component: String,
    kind: Kind,
}

/// Who uses the files that are there now.
#[derive(Debug, Default, Serialize)]
pub(super) struct InUse {
    used_by: Vec<String>,
    /// Each takes them by itself when it can.
    not_yet: Vec<Waiting>,
}

/// A component that does not use them yet.
#[derive(Debug, Serialize)]
struct Waiting {
    name: String,
    reason: &'static str,
}

impl InUse {
    /// How many of all, and who does not.
    fn text(&self) -> String {
        let Self { used_by, not_yet } = self;
        let counted = format!("{} of {} use it", used_by.len(), used_by.len() + not_yet.len());
        let waiting: Vec<String> =
            not_yet.iter().map(|waiting| format!("{} {}", waiting.name, waiting.reason)).collect();
        if waiting.is_empty() { counted } else { format!("{counted}: {}", waiting.join(", ")) }
    }

    /// An error unless all do.
    pub(super) fn all(&self) -> Result<()> {
        ensure!(
            self.not_yet.is_empty(),
            "{}; what does not answer takes it when it is back, the log of what keeps an earlier one says why; this command can be \
             run again",
            self.text()
        );
        Ok(())
    }

    /// For snapshots.
    #[cfg(test)]
    pub(super) fn example() -> Self {
        let waiting = |name: &str, reason| Waiting { name: name.to_owned(), reason };
        Self {
            used_by: ["order", "order-2"].map(str::to_owned).into(),
            not_yet: vec![waiting("payment", SILENT), waiting("delivery", EARLIER)],
        }
    }
}

const SILENT: &str = "does not answer";
const EARLIER: &str = "keeps an earlier one";

#[derive(Debug)]
enum Kind {
    /// Says so on its admin port.
    Service { admin_url: String },
    /// Shows it to whoever connects.
    Database { layout: Layout, participant: &'static Participant },
    /// The same, on each of its listeners.
    Broker { layout: Layout, links: Vec<Link> },
}

impl User {
    /// Whether it uses the files of this leaf.
    async fn uses(&self, leaf: &LeafStatus) -> Result<bool> {
        match &self.kind {
            Kind::Service { admin_url } => Ok(uses(&admin::metrics(admin_url).await?, leaf)),
            Kind::Database { layout, participant } => certificates::are_used(layout, participant, leaf).await,
            Kind::Broker { layout, links } => certificates::are_used_by_broker(layout, links, leaf).await,
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
        let has_tls = layout.database_tls() == Tls::On;
        let databases = PARTICIPANTS.iter().filter(|_| has_tls).map(|participant| User {
            identity: participant.server,
            component: participant.server.to_owned(),
            kind: Kind::Database { layout: layout.clone(), participant },
        });
        let broker = (layout.kafka_tls() == Tls::On).then(|| User {
            identity: KAFKA,
            component: KAFKA.to_owned(),
            kind: Kind::Broker { layout: layout.clone(), links: report.links.clone() },
        });
        let services = report.components.into_iter().filter_map(|component| {
            Some(User {
                identity: program_of(&component.name)?,
                kind: Kind::Service { admin_url: layout.admin_url(&component.name) },
                component: component.name,
            })
        });
        Ok(Self(databases.chain(broker).chain(services).collect()))
    }

    /// Those of these identities.
    pub(super) fn of_identities(mut self, names: &[String]) -> Self {
        self.0.retain(|user| names.iter().any(|name| name == user.identity));
        self
    }

    /// Returns when every component uses the files that are there now, or after `wait`, who does.
    pub(super) async fn wait_until_used(&self, pki: &Pki, wait: Duration) -> Result<InUse> {
        let until = Instant::now() + wait;
        let mut said = Instant::now();
        loop {
            let in_use = self.in_use(pki).await?;
            let is_over = in_use.not_yet.is_empty() || Instant::now() >= until;
            if (is_over && !self.0.is_empty()) || said.elapsed() > SAY_EVERY {
                say!("    {}", in_use.text());
                said = Instant::now();
            }
            if is_over {
                return Ok(in_use);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// All are asked at once: one that does not answer must not delay the others.
    async fn in_use(&self, pki: &Pki) -> Result<InUse> {
        let asked = self.0.iter().map(|user| async move {
            let wanted = pki.leaf_status(user.identity)?;
            Ok::<_, anyhow::Error>((&user.component, user.uses(&wanted).await))
        });
        let mut in_use = InUse::default();
        for asked in join_all(asked).await {
            let (component, uses) = asked?;
            let reason = match uses {
                Ok(true) => {
                    in_use.used_by.push(component.clone());
                    continue;
                }
                Ok(false) => EARLIER,
                Err(_) => SILENT,
            };
            in_use.not_yet.push(Waiting { name: component.clone(), reason });
        }
        Ok(in_use)
    }

    /// The identities that are in use.
    pub(super) fn identities(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|user| user.identity.to_owned())
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

/// Whether a service uses the files of this leaf, by its metrics, and all of its clients of Kafka as well, if they show any.
fn uses(page: &str, leaf: &LeafStatus) -> bool {
    // A program of an earlier version calls it `cert_info`, and runs beside this one while a stack is upgraded.
    let mut certificates =
        ["holdfast_certificate_info", "cert_info"].iter().flat_map(|name| fingerprints(page, name));
    certificates.any(|fingerprint| fingerprint == leaf.fingerprint)
        && fingerprints(page, "holdfast_kafka_clients")
            .all(|fingerprint| fingerprint == leaf.client_fingerprint)
}

/// `name{…,fingerprint="…"} 1`; those of earlier files are 0.
fn fingerprints<'a>(page: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let start = format!("{name}{{");
    let lines = page.lines().filter(move |line| line.starts_with(&start) && !line.ends_with("} 0"));
    lines.filter_map(|line| line.split_once("fingerprint=\"")?.1.split_once('"').map(|(found, _)| found))
}

#[cfg(test)]
mod tests {
    use holdfast_certs::LeafState;
    use time::OffsetDateTime;

    use super::*;

    /// It is counted how many of all use a certificate, and said why the others do not.
    #[test]
    fn those_that_use_it_are_counted() {
        let in_use = InUse::example();
        let error = in_use.all().expect_err("not all").to_string();
        assert!(
            error.starts_with("2 of 4 use it: payment does not answer, delivery keeps an earlier one; "),
            "{error}"
        );
        let all = InUse { not_yet: Vec::new(), ..in_use };
        assert_eq!(all.text(), "2 of 2 use it");
        all.all().expect("all of them");
        InUse::default().all().expect("nobody runs");
    }

    /// The series of earlier certificates are zero and don't count; a client of Kafka that still shows one does.
    #[test]
    fn the_current_certificate_is_the_series_that_is_not_zero() {
        let leaf = LeafStatus {
            name: "order".to_owned(),
            serial: "0b".to_owned(),
            issuer: "authority".to_owned(),
            not_after: OffsetDateTime::now_utc(),
            trusts: Vec::new(),
            fingerprint: "new".to_owned(),
            client_fingerprint: "new-client".to_owned(),
            state: LeafState::Valid,
        };
        let page_of = |name: &str| {
            let old = format!("# TYPE {name} gauge\n{name}{{serial=\"0a\",fingerprint=\"old\"}} 0\n");
            assert!(!uses(&old, &leaf));
            format!("{old}{name}{{serial=\"0b\",fingerprint=\"new\"}} 1\nup 12\n")
        };
        assert!(uses(&page_of("cert_info"), &leaf), "an earlier program");
        let page = page_of("holdfast_certificate_info");
        assert!(uses(&page, &leaf), "a service without Kafka, or without TLS to it");
        let consumer = |fingerprint: &str, clients: u8| {
            format!("holdfast_kafka_clients{{client=\"consumer\",fingerprint=\"{fingerprint}\"}} {clients}\n")
        };
        let renewed = format!("{page}{}{}", consumer("old-client", 0), consumer("new-client", 1));
        assert!(uses(&renewed, &leaf));
        assert!(!uses(&format!("{page}{}", consumer("old-client", 1)), &leaf));
    }
}
