//! What a component is: its name and ports, how it is started, probed and stopped.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{net::TcpStream, process::Child};

use crate::{
    certificates,
    kafka::{self, Broker},
    layout::{
        CONSOLE, Extra, GATEWAY, Gateway, KAFKA, Kind, LARGEST, Layout, PARTICIPANTS, Participant, REDIS,
        Replica, Replicas, Scope,
    },
    log, postgres,
    prepare::Prepared,
    probe::{self, Answer},
    programs::{self, Program},
    redis, say, services,
    state::{ComponentReport, ComponentState},
};

/// How long a component may take to stop before it is killed.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);

fn on_loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Kind {
    /// The signal that asks it to stop cleanly. PostgreSQL's SIGTERM would wait for all clients to leave.
    pub(crate) const fn stop_signal(self) -> Signal {
        match self {
            Self::Postgres => Signal::SIGINT,
            Self::Kafka | Self::Redis | Self::Service => Signal::SIGTERM,
        }
    }

    /// The signal that ends it at once. PostgreSQL's SIGQUIT also ends its child processes.
    pub(crate) const fn kill_signal(self) -> Signal {
        match self {
            Self::Postgres => Signal::SIGQUIT,
            Self::Kafka | Self::Redis | Self::Service => Signal::SIGKILL,
        }
    }
}

/// What is started, and how to probe it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Component {
    Database(&'static Participant),
    Kafka,
    Redis,
    Participant(Replica),
    Gateway(Gateway),
    Console,
}

impl Component {
    /// Databases, broker and what services need of the extras, which are started first and stopped last.
    pub(crate) fn infrastructure(extras: &[Extra]) -> Vec<Self> {
        let redis = extras.contains(&Extra::Redis).then_some(Self::Redis);
        PARTICIPANTS.iter().map(Self::Database).chain([Self::Kafka]).chain(redis).collect()
    }

    /// The services of a prepared stack, and the console, which only calls them.
    pub(crate) fn services(prepared: &Prepared) -> Vec<Self> {
        let console = prepared.extras.contains(&Extra::Console).then_some(Self::Console);
        match prepared.scope {
            Scope::Everything => Self::of(prepared.replicas).into_iter().chain(console).collect(),
            Scope::Infrastructure => Vec::new(),
        }
    }

    /// These replicas, the gateways last.
    pub(crate) fn of(replicas: Replicas) -> Vec<Self> {
        let participants = replicas.all().map(Self::Participant);
        participants.chain(replicas.gateways().map(Self::Gateway)).collect()
    }

    /// The component of a report.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let infrastructure = Self::infrastructure(&Extra::ALL).into_iter();
        infrastructure
            .chain(Self::of(LARGEST))
            .chain([Self::Console])
            .find(|component| component.name() == name)
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Database(participant) => participant.server.to_owned(),
            Self::Kafka => KAFKA.to_owned(),
            Self::Redis => REDIS.to_owned(),
            Self::Participant(replica) => replica.name(),
            Self::Gateway(gateway) => gateway.name(),
            Self::Console => CONSOLE.to_owned(),
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::Database(_) => Kind::Postgres,
            Self::Kafka => Kind::Kafka,
            Self::Redis => Kind::Redis,
            Self::Participant(_) | Self::Gateway(_) | Self::Console => Kind::Service,
        }
    }

    fn port(self, layout: &Layout) -> u16 {
        match self {
            Self::Database(participant) => layout.database_port(participant),
            Self::Kafka => layout.kafka_port(),
            Self::Redis => layout.redis_port(),
            Self::Participant(replica) => layout.grpc_port(replica),
            Self::Gateway(gateway) => layout.gateway_port(gateway),
            Self::Console => layout.console_port(),
        }
    }

    /// Its report before it is started.
    pub(crate) fn report(self, layout: &Layout) -> ComponentReport {
        let name = self.name();
        ComponentReport {
            kind: self.kind(),
            pid: None,
            port: self.port(layout),
            state: ComponentState::Down,
            restarts: 0,
            log: layout.log_file(&name).display().to_string(),
            detail: String::new(),
            name,
        }
    }

    /// The command, and what must live until it is started.
    fn command(self, prepared: &Prepared) -> Result<(Command, Option<Program>)> {
        let layout = &prepared.layout;
        let program = |service| Program::open(programs::chosen(layout, &self.name(), service)?);
        let command = match self {
            Self::Database(participant) => postgres::command(layout, &prepared.artifacts, participant)?,
            Self::Kafka => kafka::command(layout, &prepared.artifacts)?,
            Self::Redis => redis::command(layout)?,
            Self::Participant(replica) => {
                let program = program(replica.participant.name)?;
                let command = services::participant_command(
                    layout,
                    replica,
                    &program,
                    &prepared.links,
                    &prepared.started,
                )?;
                return Ok((command, Some(program)));
            }
            Self::Gateway(gateway) => {
                let program = program(GATEWAY)?;
                let command = services::gateway_command(
                    layout,
                    gateway,
                    &program,
                    &prepared.extras,
                    &prepared.started,
                )?;
                return Ok((command, Some(program)));
            }
            Self::Console => {
                let program = program(CONSOLE)?;
                return Ok((services::console_command(layout, &program, &prepared.started)?, Some(program)));
            }
        };
        Ok((command, None))
    }

    /// Starts its process, with its log behind its standard output and error.
    pub(crate) fn spawn(self, prepared: &Prepared) -> Result<Child> {
        let log_path = prepared.layout.log_file(&self.name());
        let (mut command, _program) = self.command(prepared)?;
        // Redis reads its configuration there.
        if self.kind() != Kind::Redis {
            command.stdin(Stdio::null());
        }
        // Without a log the component still runs.
        match log::open(&log_path) {
            Ok((out, err)) => command.stdout(out).stderr(err),
            Err(error) => {
                say!("{}: has no log: cannot write {}: {error}", self.name(), log_path.display());
                command.stdout(Stdio::null()).stderr(Stdio::null())
            }
        };
        let mut command = tokio::process::Command::from(command);
        // A group of its own, so that Ctrl-C in a terminal reaches the supervisor only, which stops things in order.
        command.process_group(0);
        command.spawn().with_context(|| format!("cannot start {}", self.name()))
    }

    /// Asks the component itself. Changes nothing.
    pub(crate) async fn ask(self, layout: &Layout, broker: &Arc<Broker>) -> Answer {
        match self {
            Self::Participant(replica) => probe::service(on_loopback(layout.admin_port(replica))).await,
            Self::Gateway(gateway) => probe::service(on_loopback(layout.gateway_admin_port(gateway))).await,
            Self::Console => probe::service(on_loopback(layout.console_admin_port())).await,
            Self::Database(participant) => match postgres::answers(layout, participant).await {
                Ok(()) => Answer::ready(),
                Err(error) => Answer::unready(format!("{error:#}")),
            },
            Self::Redis => match redis::answers(layout).await {
                Ok(()) => Answer::ready(),
                Err(error) => Answer::unready(format!("{error:#}")),
            },
            Self::Kafka => {
                if TcpStream::connect(("127.0.0.1", layout.kafka_port())).await.is_err() {
                    return Answer::unready("does not accept connections");
                }
                let broker = broker.clone();
                match tokio::task::spawn_blocking(move || broker.answers()).await {
                    Ok(Ok(())) => Answer::ready(),
                    Ok(Err(error)) => Answer::unready(format!("does not answer: {error:#}")),
                    Err(_) => Answer::unready("does not answer"),
                }
            }
        }
    }

    /// Like [`Component::ask`], and does what a component needs from its supervisor before it is ready: a server gets
    /// its database, and its certificate.
    pub(crate) async fn tend(self, layout: &Layout, broker: &Arc<Broker>) -> Answer {
        if matches!(self, Self::Kafka) {
            let certificates = certificates::follow_for_broker(layout, broker).await;
            let answer = self.ask(layout, broker).await;
            return match certificates {
                Err(error) if answer.state == ComponentState::Ready => {
                    Answer::degraded(format!("keeps an old certificate: {error:#}"))
                }
                _ => answer,
            };
        }
        let Self::Database(participant) = self else { return self.ask(layout, broker).await };
        // First: a server whose certificate has expired answers nobody.
        let certificates = certificates::follow(layout, participant);
        match (postgres::ensure_ready(layout, participant).await, certificates) {
            (Ok(()), Ok(())) => Answer::ready(),
            (Ok(()), Err(error)) => Answer::degraded(format!("keeps an old certificate: {error:#}")),
            (Err(error), _) => Answer::unready(format!("{error:#}")),
        }
    }

    /// Ends its process: with its stop signal, or at once. A process that does not stop in time is killed.
    pub(crate) async fn end(self, child: &mut Child, ending: Ending) {
        let send = |child: &Child, signal| {
            if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                // Fails only if it is gone already.
                let _ = kill(Pid::from_raw(pid), signal);
            }
        };
        let first = match ending {
            Ending::InOrder => self.kind().stop_signal(),
            Ending::AtOnce => self.kind().kill_signal(),
        };
        send(child, first);
        if tokio::time::timeout(STOP_TIME_MAX, child.wait()).await.is_err() {
            say!("{}: does not stop, killing it", self.name());
            send(child, self.kind().kill_signal());
            let _ = tokio::time::timeout(STOP_TIME_MAX, child.wait()).await;
        }
    }
}

/// How a component is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It may finish its work.
    InOrder,
    /// Its data is deleted anyway.
    AtOnce,
}

/// Whether a process still is the one that was started for this stack: process ids are reused.
pub(crate) fn is_ours(pid: u32, layout: &Layout) -> bool {
    let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let command = String::from_utf8_lossy(&command).into_owned();
    let clusters = PARTICIPANTS.iter().map(|participant| postgres::cluster_dir(layout, participant));
    // Each command names a file in one of them. Including the separator after the name: `/tmp/a` is not a parent of
    // `/tmp/ab`.
    std::iter::once(layout.data_dir.join(""))
        .chain(clusters)
        .any(|folder| command.contains(folder.to_string_lossy().as_ref()))
}
