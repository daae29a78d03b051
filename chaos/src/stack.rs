//! The stack that a run has its way with: one of its own, or one that runs already.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use holdfast_certs::TokenIssuer;
use holdfast_native::{
    control::{self, Found},
    layout::{GATEWAY, Layout, PARTICIPANTS, service_of},
    log,
    port_offset::PortOffset,
    prepare::PORT_TAKEN_EXIT_CODE,
    state::{ComponentReport, StackReport},
};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{
    admin,
    fault::{full_disk::Disks, links::Links},
    rest::Rest,
};

/// A cold machine fetches the components first.
const START_TIME_MAX: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A database that is stalled accepts connections and never answers.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
const CONNECTIONS_MAX: usize = 512;

/// Somebody uses one of the ports.
#[derive(Debug, thiserror::Error)]
#[error("a port of the stack is taken: choose others with --port-offset N")]
pub struct PortTaken;

/// A stack and how to reach it.
#[derive(Debug)]
pub struct Stack {
    /// Where it is.
    pub layout: Layout,
    /// The operator's command.
    program: PathBuf,
    /// The folder of the programs that a stack of its own was started with, if they are not this build's.
    earlier: Option<PathBuf>,
    /// The supervisor of a stack of its own until that is ended; it also ends when its standard input closes: however the run ends.
    own: Option<Mutex<Option<Child>>>,
    /// The proxies between the components of a stack of its own.
    links: Option<Links>,
    /// The disks of its databases and broker, if they have any of their own.
    disks: Option<Disks>,
    /// Of a stack of its own: nobody else takes its ports meanwhile.
    _port_offset: Option<PortOffset>,
}

/// How a stack of its own is started.
#[derive(Debug)]
pub struct Setup<'a> {
    /// Where its data goes, for as long as it runs.
    pub data_dir: PathBuf,
    /// Where its ports are.
    pub port_offset: PortOffset,
    /// `service=N`.
    pub replicas: &'a [String],
    /// Settings of its services.
    pub environment: &'a [(&'a str, &'a str)],
    /// Whether there are proxies between the components.
    pub links: bool,
    /// The folder of the services' programs, if they are not those beside the operator's command.
    pub programs: Option<&'a Path>,
    /// Whether databases and broker have disks of their own.
    pub disks: bool,
}

impl Stack {
    /// The one that runs in this folder.
    pub fn running(program: PathBuf, data_dir: PathBuf) -> Result<Self> {
        match control::find(&data_dir)? {
            Found::Running(report) => Ok(Self {
                layout: Layout::new(data_dir, report.port_offset),
                program,
                earlier: None,
                own: None,
                links: None,
                disks: None,
                _port_offset: None,
            }),
            Found::Abandoned(_) => bail!(
                "the stack in {} has lost its supervisor: what is killed would stay dead",
                data_dir.display()
            ),
            Found::Starting | Found::Nothing => bail!("no stack runs in {}", data_dir.display()),
        }
    }

    /// Starts one in a new folder, and returns when all of it is ready; [`PortTaken`] if somebody uses one of its ports. Its data
    /// goes when it ends.
    pub async fn start(program: PathBuf, setup: Setup<'_>) -> Result<Self> {
        let layout = Layout::new(setup.data_dir, setup.port_offset.number);
        let mut command =
            control::bound_stack(&program, &layout, setup.replicas.iter().map(String::as_str), &[]);
        command.args(setup.links.then_some("--links"));
        command.args(setup.programs.iter().flat_map(|folder| ["--programs".as_ref(), folder.as_os_str()]));
        // The earlier build knows nothing of TLS to its database or to Kafka, whatever the environment asks for.
        command.args(setup.programs.iter().flat_map(|_| ["--database-tls", "off", "--kafka-tls", "off"]));
        let mut folders = None;
        if setup.disks {
            let (wrapped, disks) = Disks::wrap(&layout, &command)?;
            folders = Some(disks);
            command = wrapped;
            command.stdin(Stdio::piped()).stdout(Stdio::null());
        }
        let mut command = Command::from(command);
        command.envs(setup.environment.iter().copied());
        let mut supervisor = command.spawn().context("cannot start the supervisor")?;
        let pid = supervisor.id().context("the supervisor has ended")?;
        let mut disks = folders.map(|folders| Disks::seen_by(pid, folders));
        let mut links = None;
        let until = Instant::now() + START_TIME_MAX;
        loop {
            if let Some(status) = supervisor.try_wait()? {
                if status.code() == Some(i32::from(PORT_TAKEN_EXIT_CODE)) {
                    // Nothing was started in it.
                    control::delete(&layout)?;
                    return Err(PortTaken.into());
                }
                bail!("the stack could not be started ({status})");
            }
            // Nothing becomes ready without the proxies, and their ports are free only once the supervisor has looked at them.
            if setup.links
                && links.is_none()
                && let Found::Running(report) = control::find(&layout.data_dir)?
            {
                links = Some(Links::start(report.links).await?);
            }
            match control::wait_ready(&layout.data_dir, Duration::ZERO) {
                Ok(_) => {
                    let earlier = setup.programs.map(Path::to_owned);
                    let own = Some(Mutex::new(Some(supervisor)));
                    let (disks, port_offset) = (disks.take(), Some(setup.port_offset));
                    return Ok(Self {
                        layout,
                        program,
                        earlier,
                        own,
                        links,
                        disks,
                        _port_offset: port_offset,
                    });
                }
                Err(error @ control::NotReady::KeepsEnding { .. }) => return Err(error.into()),
                Err(error) if Instant::now() > until => return Err(error.into()),
                Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Whether it was started by the run, and ends with it.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// The folder of this build's programs.
    pub fn programs(&self) -> Result<&Path> {
        self.program.parent().context("the command has no folder")
    }

    /// The folder of the programs of an earlier build, with which it was started; an error if it was not.
    pub fn earlier(&self) -> Result<&Path> {
        self.earlier.as_deref().context("the stack was started with the programs of this build")
    }

    /// The proxies between its components; an error if there are none.
    pub fn links(&self) -> Result<&Links> {
        self.links.as_ref().context("the stack has no links between its components")
    }

    /// The disks of its databases and broker; an error if they have none of their own.
    pub fn disks(&self) -> Result<&Disks> {
        self.disks.as_ref().context("databases and broker of the stack have no disks of their own")
    }

    /// Names of all links.
    #[must_use]
    pub fn link_names(&self) -> Vec<String> {
        self.links.iter().flat_map(Links::names).map(str::to_owned).collect()
    }

    /// What its supervisor says of it.
    fn report(&self) -> Result<StackReport> {
        match control::find(&self.layout.data_dir)? {
            Found::Running(report) => Ok(report),
            Found::Starting | Found::Abandoned(_) | Found::Nothing => bail!("the stack's supervisor is gone"),
        }
    }

    /// What its supervisor says of each component.
    pub fn components(&self) -> Result<Vec<ComponentReport>> {
        Ok(self.report()?.components)
    }

    /// The process of its supervisor.
    pub fn supervisor_pid(&self) -> Result<u32> {
        Ok(self.report()?.supervisor_pid)
    }

    /// One of them.
    pub fn component(&self, name: &str) -> Result<ComponentReport> {
        let component = self.components()?.into_iter().find(|component| component.name == name);
        component.with_context(|| format!("the stack has no {name}"))
    }

    /// A client of its gateways.
    pub fn rest(&self) -> Result<Rest> {
        let issuer = TokenIssuer::load_or_create(&self.layout.pki_dir())?;
        let components = self.components()?.into_iter();
        let gateways = components.filter(|component| service_of(&component.name) == Some(GATEWAY));
        let urls = gateways.map(|gateway| format!("http://127.0.0.1:{}", gateway.port)).collect();
        Ok(Rest::of_all(urls, issuer, CONNECTIONS_MAX))
    }

    /// A connection to the database of a service.
    pub async fn database(&self, service: &str) -> Result<PgConnection> {
        let participant = PARTICIPANTS.iter().find(|participant| participant.name == service);
        let participant = participant.with_context(|| format!("{service} has no database"))?;
        let url = self.layout.database_url(participant)?;
        let connection = timeout(CONNECT_TIME_MAX, PgConnection::connect(&url));
        connection.await.context("the database does not answer")?.context("cannot connect to the database")
    }

    /// Runs the operator's command on this stack.
    pub async fn operate(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--data-dir").arg(&self.layout.data_dir).stdin(Stdio::null());
        command.env("USER", "chaos");
        command.output().await.context("cannot run holdfast")
    }

    /// The same; an error unless the command has done what it was asked.
    pub async fn operate_surely(&self, arguments: &[&str]) -> Result<()> {
        let output = self.operate(arguments).await?;
        if !output.status.success() {
            bail!("{}", failure(arguments, &output));
        }
        Ok(())
    }

    /// The document that a command prints, whether or not it has found anything; an error if it prints none.
    pub async fn operate_json(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["-o", "json"]].concat();
        let output = self.operate(&arguments).await?;
        serde_json::from_slice(&output.stdout).with_context(|| failure(&arguments, &output))
    }

    /// What its services say of themselves: component, page and body; what does not answer is left out.
    pub async fn admin_pages(&self) -> Vec<(String, &'static str, Vec<u8>)> {
        let (Ok(components), Ok(rest)) = (self.components(), self.rest()) else { return Vec::new() };
        let mut pages = Vec::new();
        for component in components {
            if self.layout.component_admin_port(&component.name).is_none() {
                continue;
            }
            let url = self.layout.admin_url(&component.name);
            for page in ["readyz", "healthz", "metrics"] {
                if let Ok(answer) = admin::page(&rest, &url, &format!("/{page}")).await {
                    pages.push((component.name.clone(), page, answer.body.to_vec()));
                }
            }
        }
        pages
    }

    /// The logs of its components, and those that were set aside because they were long.
    pub fn logs(&self) -> Result<Vec<(String, PathBuf)>> {
        let logs = self.layout.component_names().into_iter().flat_map(|name| {
            let log = self.layout.log_file(&name);
            [(format!("{name}.old"), log::before(&log)), (name, log)]
        });
        Ok(logs.filter(|(_, path)| path.exists()).collect())
    }

    /// Ends a stack of its own, and waits until its data is gone; leaves another one alone.
    pub async fn end(&self) -> Result<()> {
        let Some(own) = &self.own else { return Ok(()) };
        let supervisor = own.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut supervisor) = supervisor else { return Ok(()) };
        drop(supervisor.stdin.take());
        supervisor.wait().await.context("cannot wait for the supervisor")?;
        if let Some(disks) = &self.disks {
            disks.remove(&self.layout.data_dir);
        }
        Ok(())
    }
}

/// How a command of the operator failed.
fn failure(arguments: &[&str], output: &Output) -> String {
    let talk = String::from_utf8_lossy(&output.stderr);
    format!("holdfast {} ended with {}: {}", arguments.join(" "), output.status, talk.trim())
}

/// A folder for a stack of this process alone.
#[must_use]
pub fn own_folder(base: &Path, port_offset: u16) -> PathBuf {
    base.join(format!("holdfast-chaos-{}-{port_offset}", std::process::id()))
}
