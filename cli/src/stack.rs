//! `up`, `down`, `status`, `env`, `token`.

use std::{io::IsTerminal as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use comfy_table::{Table, presets::NOTHING};
use holdfast_certs::{Claims, TokenIssuer};
use holdfast_native::{
    control::{self, Found, Stopped, Watched},
    layout::{GATEWAY, Layout, OPERATOR, PARTICIPANTS, Replicas, Scope},
    prepare::{PortTaken, prepare},
    state::{ComponentReport, StackReport},
    supervisor::{self, Lifetime, Restart},
};
use serde::Serialize;

use crate::{
    Outcome,
    arguments::{At, Down, Format, Status, Token, Up},
    output::{confirmed, data},
};

/// Time to stop everything: each component gets 10 s, services and infrastructure after each other.
const STOP_TIME_MAX: Duration = Duration::from_secs(45);

pub(crate) fn up(up: &Up) -> Result<Outcome> {
    let data_dir = up.at.data_dir()?;
    let mut replicas = Replicas::default();
    for wanted in &up.replicas {
        replicas.set(wanted)?;
    }
    let time_max = Duration::from_secs(up.wait);
    match control::find(&data_dir)? {
        Found::Running(report) => {
            eprintln!("the stack in {} runs already", data_dir.display());
            if report.port_offset != up.port_offset {
                bail!(
                    "it runs with --port-offset {}: stop it with `holdfast down` first",
                    report.port_offset
                );
            }
            if up.foreground {
                bail!("stop it with `holdfast down` to run it in the foreground");
            }
            let report = control::wait_ready(&data_dir, time_max)?;
            greet(&data_dir, &report)?;
            return Ok(Outcome::Done);
        }
        Found::Abandoned(_) => {
            if control::stop(&data_dir, STOP_TIME_MAX)? == Stopped::Abandoned {
                eprintln!("stopped components that had lost their supervisor");
            }
        }
        Found::Nothing => {}
    }
    let scope = if up.infrastructure_only { Scope::Infrastructure } else { Scope::Everything };
    let layout = Layout::new(data_dir.clone(), up.port_offset);
    let prepared = match prepare(layout.clone(), scope, replicas) {
        // Whoever ends with its parent was started by a test, which tries other ports.
        Err(error) if up.until_parent_ends && error.is::<PortTaken>() => {
            eprintln!("holdfast: {error:#}");
            return Ok(Outcome::PortTaken);
        }
        other => other?,
    };
    if up.foreground {
        let restart = if up.no_restart { Restart::Never } else { Restart::Always };
        let lifetime = if up.until_parent_ends { Lifetime::UntilParentEnds } else { Lifetime::UntilStopped };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let outcome = runtime.block_on(supervisor::run(prepared, restart, lifetime));
        // A probe that hangs must not hold the process up.
        runtime.shutdown_background();
        return outcome.map(|()| Outcome::Done);
    }
    let mut arguments: Vec<String> = vec!["up".into(), "--foreground".into()];
    arguments.extend(["--port-offset".into(), up.port_offset.to_string()]);
    arguments.extend(["--data-dir".into(), data_dir.display().to_string()]);
    arguments.extend(replicas.arguments().flat_map(|replicas| ["--replicas".to_owned(), replicas]));
    if up.no_restart {
        arguments.push("--no-restart".into());
    }
    control::detach(&layout, &arguments)?;
    let report = control::wait_ready(&data_dir, time_max)?;
    greet(&data_dir, &report)?;
    Ok(Outcome::Done)
}

/// What a newcomer needs next.
fn greet(data_dir: &Path, report: &StackReport) -> Result<()> {
    let layout = Layout::new(data_dir.to_owned(), report.port_offset);
    for component in report.components.iter().filter(|component| !component.detail.is_empty()) {
        eprintln!("{} is degraded: {}", component.name, component.detail);
    }
    let url = layout.gateway_url();
    data!("REST       {url}/api/orders")?;
    data!("health     {url}/readyz")?;
    data!("metrics    {}/metrics", layout.admin_url(GATEWAY))?;
    data!("Kafka      {}", layout.kafka_brokers())?;
    data!(
        "token      {}",
        sign(data_dir, "user-123", "orders:read orders:write accounts:read", Duration::from_secs(3600))?
    )?;
    data!("")?;
    data!("next: make test-create-order")?;
    Ok(())
}

pub(crate) fn down(down: &Down) -> Result<Outcome> {
    let data_dir = down.at.data_dir()?;
    match control::stop(&data_dir, STOP_TIME_MAX)? {
        Stopped::Running => eprintln!("stopped"),
        Stopped::Abandoned => eprintln!("stopped components that had lost their supervisor"),
        Stopped::Nothing => eprintln!("nothing runs in {}", data_dir.display()),
    }
    if down.delete_data {
        return delete_data(&data_dir, down);
    }
    Ok(Outcome::Done)
}

/// Only what is a stack's folder, and only what a stack writes: a slip of the hand must not delete anything else.
fn delete_data(data_dir: &Path, down: &Down) -> Result<Outcome> {
    let layout = Layout::new(data_dir.to_owned(), 0);
    if !data_dir.exists() {
        eprintln!("there is no {}", data_dir.display());
        return Ok(Outcome::Done);
    }
    if !layout.marker_file().exists() {
        bail!("{} is not the folder of a stack, so it is left alone", data_dir.display());
    }
    eprintln!("the orders, payments, deliveries, events, certificates and logs in {} go", data_dir.display());
    if !down.yes && !confirmed("delete them?")? {
        return Ok(Outcome::Failed);
    }
    let left = control::delete(&layout)?;
    if left.is_empty() {
        eprintln!("deleted {}", data_dir.display());
    } else {
        eprintln!(
            "deleted what the stack wrote in {}; the rest is somebody else's and stays:",
            data_dir.display()
        );
        for path in &left {
            eprintln!("  {}", path.display());
        }
    }
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct StatusDocument<'a> {
    components: &'a [ComponentReport],
}

pub(crate) fn status(status: &Status) -> Result<Outcome> {
    let data_dir = status.at.data_dir()?;
    let (report, watched) = match control::find(&data_dir)? {
        Found::Running(report) => (report, Watched::BySupervisor),
        Found::Abandoned(report) => (report, Watched::ByNobody),
        Found::Nothing => {
            eprintln!("nothing was started in {}", data_dir.display());
            return Ok(Outcome::NothingMatched);
        }
    };
    let layout = Layout::new(data_dir, report.port_offset);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let components = runtime.block_on(control::measure(&layout, &report, watched))?;
    // A probe that hangs must not hold the command up.
    runtime.shutdown_background();
    match (watched, report.stale_for()) {
        (Watched::ByNobody, _) => say_nobody_watches(&layout, &report),
        (Watched::BySupervisor, Some(age)) => eprintln!(
            "{} is {} s old: its supervisor cannot write it (is the disk full?), so PID and RESTARTS may be older than \
             STATE",
            layout.state_file().display(),
            age.as_secs()
        ),
        (Watched::BySupervisor, None) => {}
    }
    match status.output {
        Format::Json => {
            data!("{}", serde_json::to_string_pretty(&StatusDocument { components: &components })?)?;
        }
        Format::Table => data!("{}", status_table(&layout, &components))?,
    }
    let all_serve = components.iter().all(|component| component.state.can_serve());
    Ok(if all_serve { Outcome::Done } else { Outcome::Failed })
}

fn status_table(layout: &Layout, components: &[ComponentReport]) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(["NAME", "KIND", "STATE", "PORT", "ADMIN", "PID", "AGE", "RESTARTS", "LOG", "DETAIL"]);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for component in components {
        table.add_row([
            component.name.clone(),
            format!("{:?}", component.kind).to_lowercase(),
            format!("{:?}", component.state).to_lowercase(),
            component.port.to_string(),
            or_none(layout.component_admin_port(&component.name).map(|port| port.to_string())),
            or_none(component.pid.map(|pid| pid.to_string())),
            or_none(control::age(component).map(age_text)),
            component.restarts.to_string(),
            component.log.clone(),
            component.detail.clone(),
        ]);
    }
    table
}

/// `45s`, `12m`, `3h`, `2d`.
fn age_text(age: Duration) -> String {
    match age.as_secs() {
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ ..7_200 => format!("{}m", seconds / 60),
        seconds @ ..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn say_nobody_watches(layout: &Layout, report: &StackReport) {
    eprintln!(
        "the supervisor (process {}) is gone: what runs goes on and is not started again; `holdfast up --data-dir {} \
         --port-offset {}` starts all anew",
        report.supervisor_pid,
        layout.data_dir.display(),
        report.port_offset
    );
}

/// The stack of a folder, also one that runs on without its supervisor; an error if none runs.
pub(crate) fn running(at: &At) -> Result<(Layout, StackReport)> {
    let data_dir = at.data_dir()?;
    match control::find(&data_dir)? {
        Found::Running(report) => Ok((Layout::new(data_dir, report.port_offset), report)),
        Found::Abandoned(report) => {
            let layout = Layout::new(data_dir, report.port_offset);
            if !control::anything_runs(&layout, &report) {
                bail!("no stack runs in {}: start one with `make up`", layout.data_dir.display());
            }
            say_nobody_watches(&layout, &report);
            Ok((layout, report))
        }
        Found::Nothing => bail!("no stack runs in {}: start one with `make up`", data_dir.display()),
    }
}

pub(crate) fn env(at: &At) -> Result<Outcome> {
    let (layout, _) = running(at)?;
    data!("export HOLDFAST_URL={}", layout.gateway_url())?;
    for participant in &PARTICIPANTS {
        let url = layout.database_url(participant).context("cannot read the database password")?;
        data!("export {}_DATABASE_URL={url}", participant.name.to_uppercase())?;
    }
    data!("export KAFKA_BROKERS={}", layout.kafka_brokers())?;
    let pki = layout.pki_dir();
    let operator = pki.join(OPERATOR);
    data!("export HOLDFAST_CA={}", quoted(&pki.join("ca.crt")))?;
    data!("export HOLDFAST_OPERATOR_CERTIFICATE={}", quoted(&operator.join("tls.crt")))?;
    data!("export HOLDFAST_OPERATOR_KEY={}", quoted(&operator.join("tls.key")))?;
    if std::io::stdout().is_terminal() {
        eprintln!("# use it with: eval \"$(holdfast env)\"");
    }
    Ok(Outcome::Done)
}

/// For a POSIX shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

pub(crate) fn token(token: &Token) -> Result<Outcome> {
    let data_dir = token.at.data_dir()?;
    data!("{}", sign(&data_dir, &token.user, &token.scope, token.ttl)?)?;
    Ok(Outcome::Done)
}

fn sign(data_dir: &Path, user: &str, scope: &str, life: Duration) -> Result<String> {
    let layout = Layout::new(data_dir.to_owned(), 0);
    if !layout.pki_dir().exists() {
        bail!("no stack was made in {}: start one with `make up`", data_dir.display());
    }
    let issuer = TokenIssuer::load_or_create(&layout.pki_dir())?;
    Ok(issuer.sign(&Claims::new(user, scope, life)?)?)
}
