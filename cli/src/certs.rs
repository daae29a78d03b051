//! `certs`: makes, issues, renews, replaces and revokes certificates, and waits until the running services use them.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use comfy_table::{Table, presets::NOTHING};
use holdfast_certs::{LeafState, LeafStatus, Phase, Pki, TokenIssuer};
use holdfast_native::{
    control::{self, Found},
    layout::{Layout, identities, service_of},
};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;

use crate::{
    Outcome,
    arguments::{CertsAction, CertsAt, CertsRotate, CertsStatus, Format},
    output::data,
};

const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) fn run(action: &CertsAction) -> Result<Outcome> {
    match action {
        CertsAction::Init(at) => init(at),
        CertsAction::Issue(issue) => {
            let pki = Pki::open(&folder(&issue.at)?)?;
            pki.issue(&issue.name, issue.ttl.try_into().context("the time is too long")?)?;
            report(&pki.leaf_status(&issue.name)?);
            Ok(Outcome::Done)
        }
        CertsAction::Rotate(rotate) => block_on(self::rotate(rotate)),
        CertsAction::Revoke(revoke) => {
            let pki = Pki::open(&folder(&revoke.at)?)?;
            if !all_known(&pki, std::slice::from_ref(&revoke.name))? {
                return Ok(Outcome::Usage);
            }
            let leaf = pki.revoke(&revoke.name, &revoke.reason)?;
            eprintln!("revoked serial {} of {}", leaf.serial, leaf.name);
            block_on(wait_until_taken(&pki, &Running::of(&revoke.at)?, revoke.wait))
        }
        CertsAction::Status(status) => block_on(self::status(status)),
    }
}

fn block_on(work: impl Future<Output = Result<Outcome>>) -> Result<Outcome> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn folder(at: &CertsAt) -> Result<PathBuf> {
    match &at.dir {
        Some(dir) => Ok(dir.clone()),
        None => Ok(Layout::new(at.at.data_dir()?, 0).pki_dir()),
    }
}

fn init(at: &CertsAt) -> Result<Outcome> {
    let folder = folder(at)?;
    let pki = Pki::open_or_init(&folder)?;
    for name in identities() {
        pki.ensure_leaf(name)?;
        report(&pki.leaf_status(name)?);
    }
    TokenIssuer::load_or_create(&folder)?;
    eprintln!("certificates are in {}", folder.display());
    Ok(Outcome::Done)
}

fn report(leaf: &LeafStatus) {
    eprintln!("{}: serial {}, until {}", leaf.name, leaf.serial, text(leaf.not_after));
}

fn text(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

async fn rotate(rotate: &CertsRotate) -> Result<Outcome> {
    let pki = Pki::open(&folder(&rotate.at)?)?;
    let running = Running::of(&rotate.at)?;
    if rotate.ca {
        return replace_authority(&pki, &running, rotate.wait).await;
    }
    if !all_known(&pki, &rotate.names)? {
        return Ok(Outcome::Usage);
    }
    let names = if rotate.names.is_empty() { pki.identities()? } else { rotate.names.clone() };
    for name in &names {
        pki.issue(name, holdfast_certs::LEAF_LIFE_MAX)?;
        report(&pki.leaf_status(name)?);
    }
    wait_until_taken(&pki, &running, rotate.wait).await
}

/// Before anything is done. An identity that isn't there is a slip of the hand, not a wish for a new one.
fn all_known(pki: &Pki, names: &[String]) -> Result<bool> {
    let known = pki.identities()?;
    let unknown: Vec<&str> = names.iter().filter(|name| !known.contains(name)).map(String::as_str).collect();
    if !unknown.is_empty() {
        eprintln!("there is no certificate of {}; there are {}", unknown.join(", "), known.join(", "));
    }
    Ok(unknown.is_empty())
}

/// Old, then both, then new: each step begins when every running service has taken the one before, so that no
/// connection ever fails. A command that was killed goes on where it was.
async fn replace_authority(pki: &Pki, running: &Running, wait: Duration) -> Result<Outcome> {
    // What is over can't be used by anybody, so there is nothing to keep working, and services that run may have
    // refused files for hours: the steps follow each other at once.
    let usable = pki.authority_not_after()? > OffsetDateTime::now_utc() && all_valid(pki)?;
    let nobody = Running::default();
    let between = if usable { running } else { &nobody };
    if !usable {
        eprintln!("the present certificates are over: replacing them without an overlap");
    }
    if pki.phase()? != Some(Phase::Leaves) {
        pki.begin_rotation()?;
        eprintln!("1/3 the new authority is trusted beside the old one");
        wait_until_taken(pki, between, wait).await?;
    }
    pki.renew_all_by_next()?;
    eprintln!("2/3 every certificate is renewed by the new authority");
    wait_until_taken(pki, between, wait).await?;
    pki.finish_rotation()?;
    eprintln!("3/3 the old authority is not trusted any more");
    wait_until_taken(pki, running, wait).await
}

fn all_valid(pki: &Pki) -> Result<bool> {
    for name in pki.identities()? {
        if pki.leaf_status(&name)?.state != LeafState::Valid {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The services of the stack that uses these certificates, if one runs: identity, component, admin address.
#[derive(Debug, Default)]
struct Running(Vec<(&'static str, String, String)>);

impl Running {
    fn of(at: &CertsAt) -> Result<Self> {
        let data_dir = at.at.data_dir()?;
        // A folder of somebody else's is used by services that we don't know.
        if at.dir.is_some() {
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
        let services = report.components.into_iter().filter_map(|component| {
            let identity = service_of(&component.name)?;
            let url = layout.admin_url(&component.name);
            Some((identity, component.name, url))
        });
        Ok(Self(services.collect()))
    }
}

/// Returns when every running service says that it uses the files that are there now.
async fn wait_until_taken(pki: &Pki, running: &Running, wait: Duration) -> Result<Outcome> {
    let until = Instant::now() + wait;
    for (identity, component, url) in &running.0 {
        loop {
            let wanted = pki.leaf_status(identity)?.fingerprint;
            match in_use(url).await {
                Ok(Some(fingerprint)) if fingerprint == wanted => break,
                _ if Instant::now() < until => tokio::time::sleep(LOOK_EVERY).await,
                Ok(_) => bail!(
                    "{component} does not use its new certificate after {} s: its log says why; this command can be \
                     run again",
                    wait.as_secs()
                ),
                Err(error) => return Err(error).with_context(|| format!("{component} does not answer")),
            }
        }
    }
    if !running.0.is_empty() {
        eprintln!(
            "    used by {}",
            running.0.iter().map(|(_, name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(Outcome::Done)
}

/// The fingerprint of the files that a service uses, from its metric `cert_info`.
async fn in_use(admin_url: &str) -> Result<Option<String>> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let ask = async {
        let answer = client.get(format!("{admin_url}/metrics").parse()?).await?;
        let body = answer.into_body().collect().await?.to_bytes();
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&body).into_owned())
    };
    let page = tokio::time::timeout(Duration::from_secs(2), ask).await.context("no answer in time")??;
    Ok(fingerprint_of(&page))
}

/// `cert_info{serial="…",fingerprint="…"} 1`; those of earlier files are 0.
fn fingerprint_of(page: &str) -> Option<String> {
    let line = page.lines().find(|line| line.starts_with("cert_info{") && line.ends_with("} 1"))?;
    let (_, rest) = line.split_once("fingerprint=\"")?;
    rest.split_once('"').map(|(fingerprint, _)| fingerprint.to_owned())
}

#[derive(Serialize)]
struct StatusDocument {
    phase: &'static str,
    authority_not_after: String,
    certificates: Vec<StatusLine>,
}

#[derive(Serialize)]
struct StatusLine {
    name: String,
    state: &'static str,
    serial: String,
    issuer: String,
    not_after: String,
    /// Components that use exactly these files.
    used_by: Vec<String>,
    /// Components of this identity that use others.
    not_yet_used_by: Vec<String>,
}

async fn status(status: &CertsStatus) -> Result<Outcome> {
    let pki = Pki::open(&folder(&status.at)?)?;
    let running = Running::of(&status.at)?;
    let mut certificates = Vec::new();
    for name in pki.identities()? {
        let leaf = pki.leaf_status(&name)?;
        let (mut used_by, mut not_yet_used_by) = (Vec::new(), Vec::new());
        for (_, component, url) in running.0.iter().filter(|(identity, ..)| *identity == name) {
            let same = in_use(url).await.ok().flatten().is_some_and(|used| used == leaf.fingerprint);
            if same { used_by.push(component.clone()) } else { not_yet_used_by.push(component.clone()) }
        }
        certificates.push(StatusLine {
            state: match leaf.state {
                LeafState::Valid => "valid",
                LeafState::Expired => "expired",
                LeafState::Revoked => "revoked",
                LeafState::Untrusted => "untrusted",
            },
            name,
            serial: leaf.serial,
            issuer: leaf.issuer,
            not_after: text(leaf.not_after),
            used_by,
            not_yet_used_by,
        });
    }
    let all_valid = certificates.iter().all(|line| line.state == "valid");
    let document = StatusDocument {
        phase: match pki.phase()? {
            None => "none",
            Some(Phase::Overlap) => "overlap",
            Some(Phase::Leaves) => "leaves",
        },
        authority_not_after: text(pki.authority_not_after()?),
        certificates,
    };
    match status.output {
        Format::Json => data!("{}", serde_json::to_string_pretty(&document)?)?,
        Format::Table => {
            let mut table = Table::new();
            table.load_style(NOTHING).set_header([
                "NAME",
                "STATE",
                "NOT AFTER",
                "SERIAL",
                "USED BY",
                "NOT YET",
            ]);
            for line in &document.certificates {
                table.add_row([
                    line.name.clone(),
                    line.state.to_owned(),
                    line.not_after.clone(),
                    line.serial.clone(),
                    line.used_by.join(" "),
                    line.not_yet_used_by.join(" "),
                ]);
            }
            data!("{table}")?;
            eprintln!("authority until {}, rotation: {}", document.authority_not_after, document.phase);
        }
    }
    Ok(if all_valid { Outcome::Done } else { Outcome::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The series of earlier certificates are zero and don't count.
    #[test]
    fn the_present_certificate_is_the_series_that_is_one() {
        let page = "# TYPE cert_info gauge\ncert_info{serial=\"0a\",fingerprint=\"old\"} 0\n\
                    cert_info{serial=\"0b\",fingerprint=\"new\"} 1\ncert_not_after 12\n";
        assert_eq!(fingerprint_of(page).as_deref(), Some("new"));
        assert_eq!(fingerprint_of("cert_info{serial=\"0a\",fingerprint=\"old\"} 0\n"), None);
    }
}
