//! The stack that a run has its way with: one of its own, or one that runs already.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use holdfast_certs::TokenIssuer;
use holdfast_native::{
    control::{self, Found},
    layout::{Layout, PARTICIPANTS},
    state::ComponentReport,
};
use sqlx::{Connection as _, PgConnection};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::rest::Rest;

/// A cold machine fetches the components first.
const START_TIME_MAX: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A database that is stalled accepts connections and never answers.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
const CONNECTIONS_MAX: usize = 512;

/// A stack and how to reach it.
#[derive(Debug)]
pub struct Stack {
    /// Where it is.
    pub layout: Layout,
    /// The operator's command.
    program: PathBuf,
    /// The supervisor of a stack of its own, which ends when its standard input closes: however the run ends.
    own: Option<Child>,
}

impl Stack {
    /// The one that runs in this folder.
    pub fn running(program: PathBuf, data_dir: PathBuf) -> Result<Self> {
        match control::find(&data_dir)? {
            Found::Running(report) => {
                Ok(Self { layout: Layout::new(data_dir, report.port_offset), program, own: None })
            }
            Found::Abandoned(_) => bail!(
                "the stack in {} has lost its supervisor: what is killed would stay dead",
                data_dir.display()
            ),
            Found::Nothing => bail!("no stack runs in {}", data_dir.display()),
        }
    }

    /// Starts one in a new folder, and returns when all of it is ready. Its data goes when it ends.
    pub async fn start(
        program: PathBuf,
        data_dir: PathBuf,
        port_offset: u16,
        replicas: &[String],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let mut command = Command::new(&program);
        command
            .args(["up", "--foreground", "--until-parent-ends", "--port-offset", &port_offset.to_string()])
            .arg("--data-dir")
            .arg(&data_dir)
            .args(replicas.iter().flat_map(|replicas| ["--replicas", replicas]))
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut supervisor = command.spawn().context("cannot start the supervisor")?;
        let until = Instant::now() + START_TIME_MAX;
        loop {
            if let Some(status) = supervisor.try_wait()? {
                bail!("the stack could not be started ({status})");
            }
            match control::wait_ready(&data_dir, Duration::ZERO) {
                Ok(_) => break,
                Err(error @ control::NotReady::KeepsEnding { .. }) => return Err(error.into()),
                Err(error) if Instant::now() > until => return Err(error.into()),
                Err(_) => sleep(LOOK_EVERY).await,
            }
        }
        Ok(Self { layout: Layout::new(data_dir, port_offset), program, own: Some(supervisor) })
    }

    /// What its supervisor says of each component.
    pub fn components(&self) -> Result<Vec<ComponentReport>> {
        match control::find(&self.layout.data_dir)? {
            Found::Running(report) => Ok(report.components),
            Found::Abandoned(_) | Found::Nothing => bail!("the stack's supervisor is gone"),
        }
    }

    /// One of them.
    pub fn component(&self, name: &str) -> Result<ComponentReport> {
        let component = self.components()?.into_iter().find(|component| component.name == name);
        component.with_context(|| format!("the stack has no {name}"))
    }

    /// A client of its gateway.
    pub fn rest(&self) -> Result<Rest> {
        let issuer = TokenIssuer::load_or_create(&self.layout.pki_dir())?;
        Ok(Rest::new(self.layout.gateway_url(), issuer, CONNECTIONS_MAX))
    }

    /// A connection to the database of a service.
    pub async fn database(&self, service: &str) -> Result<PgConnection> {
        let participant = PARTICIPANTS.iter().find(|participant| participant.name == service);
        let participant = participant.with_context(|| format!("{service} has no database"))?;
        let url = self.layout.database_url(participant)?;
        let connection = timeout(CONNECT_TIME_MAX, PgConnection::connect(&url));
        connection.await.context("the database does not answer")?.context("cannot connect to the database")
    }

    /// Runs the operator's command on this stack, and returns what it prints.
    pub async fn operate(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--data-dir").arg(&self.layout.data_dir).stdin(Stdio::null());
        command.env("USER", "chaos");
        let output = command.output().await.context("cannot run holdfast")?;
        // 3: nothing matched, which is an answer.
        if !output.status.success() && output.status.code() != Some(3) {
            let talk = String::from_utf8_lossy(&output.stderr);
            bail!("holdfast {} ended with {}: {}", arguments.join(" "), output.status, talk.trim());
        }
        Ok(output.stdout)
    }

    /// The logs of its components.
    pub fn logs(&self) -> Result<Vec<(String, PathBuf)>> {
        let names = self.layout.component_names();
        let logs = names.into_iter().map(|name| (self.layout.log_file(&name), name));
        Ok(logs.filter(|(path, _)| path.exists()).map(|(path, name)| (name, path)).collect())
    }

    /// Ends a stack of its own, and waits until its data is gone; leaves another one alone.
    pub async fn end(mut self) -> Result<()> {
        let Some(mut supervisor) = self.own.take() else { return Ok(()) };
        drop(supervisor.stdin.take());
        supervisor.wait().await.context("cannot wait for the supervisor")?;
        Ok(())
    }
}

/// A folder for a stack of this process alone.
#[must_use]
pub fn own_folder(base: &Path) -> PathBuf {
    base.join(format!("holdfast-chaos-{}", std::process::id()))
}
