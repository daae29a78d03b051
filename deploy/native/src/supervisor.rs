//! Starts the components, watches them, restarts those that die, and stops them in order.
//!
//! Databases and broker first, then the topics, then the services. Services could wait for the others by themselves; the
//! order only makes the first start quicker.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    process::Child,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    control::{delete_own, is_ours},
    kafka::{self, Broker},
    layout::{Kind, Layout, PARTICIPANTS, Participant, REPLICAS_MAX, Replica, Scope},
    postgres,
    prepare::{Prepared, renew_certificates},
    probe::{self, Answer, Life, Pulse},
    services,
};

/// Talk for people. Unlike `eprintln!` it doesn't panic when nobody reads it any more or the disk is full: a supervisor
/// that dies of its own words would leave its components behind.
macro_rules! say {
    ($($words:tt)*) => {{
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

/// How long a component may take to stop before it is killed.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);
const PROBE_EVERY_STARTING: Duration = Duration::from_millis(50);
/// Its end is noticed at once, whatever this is; only a component that lives and does not work is found by asking.
const PROBE_EVERY_READY: Duration = Duration::from_secs(1);
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(200);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A component that ran this long is restarted without a pause.
const STABLE_AFTER: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(600);
/// The report is written this often although nothing has changed, so that an old one is known to be old; and this soon
/// again when it could not be written.
const REPORT_EVERY: Duration = Duration::from_secs(10);
const REPORT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A report that is older says that its supervisor can't write it.
const REPORT_AGE_MAX: Duration = Duration::from_secs(30);
/// A log that is longer is set aside at the start.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What to do with a component that dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Start it again, with growing pauses.
    Always,
    /// Leave it down: a fault stays a fault.
    Never,
}

/// How long the stack lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until SIGTERM or SIGINT.
    UntilStopped,
    /// Until standard input closes, which it does whatever way the parent ends; then everything is killed and its data
    /// deleted.
    UntilParentEnds,
}

/// How a component is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComponentState {
    /// It does its work.
    Ready,
    /// It can serve its callers, and something is wrong.
    Degraded,
    /// It runs, and is not ready (yet, or any more).
    Starting,
    /// It does not run.
    Down,
}

impl ComponentState {
    /// What is degraded can.
    #[must_use]
    pub const fn can_serve(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }
}

/// What is known of one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentReport {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its process; absent while it is down.
    pub pid: Option<u32>,
    /// Where it listens.
    pub port: u16,
    /// How it is.
    pub state: ComponentState,
    /// How often it was started again.
    pub restarts: u32,
    /// Its log file.
    pub log: String,
    /// What is wrong with it, or empty.
    #[serde(default)]
    pub detail: String,
}

/// What the supervisor tells of its stack; the content of `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StackReport {
    /// The supervisor's process.
    pub supervisor_pid: u32,
    /// Added to each port.
    pub port_offset: u16,
    /// When this was written, in seconds since 1970.
    #[serde(default)]
    pub written_at: u64,
    /// Each component, in the order of their start.
    pub components: Vec<ComponentReport>,
}

impl StackReport {
    /// How old it is, if it is older than a supervisor leaves it: what it says of processes may not be so any more.
    #[must_use]
    pub fn stale_for(&self) -> Option<Duration> {
        // One of an older version does not say.
        let written_at = Some(self.written_at).filter(|at| *at > 0)?;
        let age = Duration::from_secs(unix_seconds().saturating_sub(written_at));
        Some(age).filter(|age| *age > REPORT_AGE_MAX)
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The shared report, written to the file at each change. What can't be written is written later: the supervisor goes on.
struct Reporter {
    layout: Layout,
    report: Mutex<StackReport>,
    written: AtomicBool,
}

impl Reporter {
    fn change(&self, name: &str, change: impl FnOnce(&mut ComponentReport)) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(component) = report.components.iter_mut().find(|component| component.name == name) else {
            return;
        };
        let before = component.clone();
        change(component);
        if *component == before {
            return;
        }
        if component.state != before.state {
            say!("{name}: {:?} -> {:?}", before.state, component.state);
        }
        self.write(&mut report);
    }

    /// Under the lock, so that an older report never replaces a newer one. Says so when it fails, and when it works again.
    fn write(&self, report: &mut StackReport) {
        report.written_at = unix_seconds();
        let (path, draft) = (self.layout.state_file(), self.layout.state_draft_file());
        let done = serde_json::to_vec_pretty(report)
            .map_err(std::io::Error::from)
            .and_then(|bytes| fs::write(&draft, bytes))
            .and_then(|()| fs::rename(draft, &path));
        let before = self.written.swap(done.is_ok(), Ordering::Relaxed);
        match done {
            Err(error) if before => say!("cannot write {}, will try again: {error}", path.display()),
            Ok(()) if !before => say!("{} is written again", path.display()),
            _ => {}
        }
    }

    /// Keeps the file fresh.
    async fn write_for_ever(&self) {
        loop {
            let written = self.written.load(Ordering::Relaxed);
            tokio::time::sleep(if written { REPORT_EVERY } else { REPORT_AGAIN_AFTER }).await;
            self.write(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn all_ready(&self, kinds: &[Kind]) -> bool {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report
            .components
            .iter()
            .filter(|component| kinds.contains(&component.kind))
            .all(|component| component.state == ComponentState::Ready)
    }
}

/// What is started, and how to ask whether it works.
#[derive(Debug, Clone, Copy)]
enum Component {
    Database(&'static Participant),
    Kafka,
    Participant(Replica),
    Gateway,
}

impl Component {
    fn name(self) -> String {
        match self {
            Self::Database(participant) => participant.server.to_owned(),
            Self::Kafka => "kafka".to_owned(),
            Self::Participant(replica) => replica.name(),
            Self::Gateway => "gateway".to_owned(),
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::Database(_) => Kind::Postgres,
            Self::Kafka => Kind::Kafka,
            Self::Participant(_) | Self::Gateway => Kind::Service,
        }
    }

    fn port(self, layout: &Layout) -> u16 {
        match self {
            Self::Database(participant) => layout.database_port(participant),
            Self::Kafka => layout.kafka_port(),
            Self::Participant(replica) => layout.grpc_port(replica),
            Self::Gateway => layout.gateway_port(),
        }
    }

    fn command(self, prepared: &Prepared) -> Result<Command> {
        let layout = &prepared.layout;
        match self {
            Self::Database(participant) => postgres::command(layout, &prepared.artifacts, participant),
            Self::Kafka => Ok(kafka::command(layout, &prepared.artifacts)),
            Self::Participant(replica) => services::participant_command(layout, replica),
            Self::Gateway => services::gateway_command(layout),
        }
    }

    /// The signal that asks for an orderly end. PostgreSQL's SIGTERM would wait for all clients to leave.
    const fn stop_signal(self) -> Signal {
        match self {
            Self::Database(_) => Signal::SIGINT,
            Self::Kafka | Self::Participant(_) | Self::Gateway => Signal::SIGTERM,
        }
    }

    /// The signal that ends it at once. PostgreSQL's SIGQUIT takes its child processes along.
    const fn kill_signal(self) -> Signal {
        match self {
            Self::Database(_) => Signal::SIGQUIT,
            Self::Kafka | Self::Participant(_) | Self::Gateway => Signal::SIGKILL,
        }
    }

    /// Asks the component itself. Changes nothing.
    async fn ask(self, layout: &Layout, broker: &Arc<Broker>) -> Answer {
        match self {
            Self::Participant(replica) => probe::service(layout.admin_port(replica)).await,
            Self::Gateway => probe::service(layout.gateway_admin_port()).await,
            Self::Database(participant) => match postgres::answers(layout, participant).await {
                Ok(()) => Answer::ready(),
                Err(error) => Answer::not_ready(format!("{error:#}")),
            },
            Self::Kafka => {
                if TcpStream::connect(("127.0.0.1", layout.kafka_port())).await.is_err() {
                    return Answer::not_ready("does not accept connections");
                }
                let broker = broker.clone();
                let is_ready = tokio::task::spawn_blocking(move || broker.is_ready()).await.unwrap_or(false);
                if is_ready { Answer::ready() } else { Answer::not_ready("does not answer") }
            }
        }
    }

    /// The same, and does what a component needs of its supervisor before it is ready: a server its database.
    async fn tend(self, layout: &Layout, broker: &Arc<Broker>) -> Answer {
        let Self::Database(participant) = self else { return self.ask(layout, broker).await };
        match postgres::make_ready(layout, participant).await {
            Ok(()) => Answer::ready(),
            Err(error) => Answer::not_ready(format!("{error:#}")),
        }
    }

    /// The component of a report.
    fn named(name: &str) -> Option<Self> {
        let participants = PARTICIPANTS.iter().flat_map(|participant| {
            let replicas =
                (0..REPLICAS_MAX).map(move |number| Self::Participant(Replica { participant, number }));
            std::iter::once(Self::Database(participant)).chain(replicas)
        });
        participants.chain([Self::Kafka, Self::Gateway]).find(|component| component.name() == name)
    }
}

/// Whether a supervisor watches a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// One does, and holds the stack's lock.
    BySupervisor,
    /// It is gone; what runs is on its own.
    ByNobody,
}

/// How the components of a report are now, each asked itself, side by side. What the report says of them may be old: a
/// supervisor that can't write, or that has ended, leaves its last words behind.
pub async fn measure(
    layout: &Layout,
    report: &StackReport,
    watched: Watched,
) -> Result<Vec<ComponentReport>> {
    let broker = Arc::new(Broker::new(layout)?);
    let mut measured = JoinSet::new();
    for (index, mut report) in report.components.iter().cloned().enumerate() {
        let (layout, broker) = (layout.clone(), broker.clone());
        measured.spawn(async move {
            report.pid = report.pid.filter(|pid| probe::is_running(*pid) && is_ours(*pid, &layout));
            let answer = match (report.pid, Component::named(&report.name)) {
                (Some(_), Some(component)) => component.ask(&layout, &broker).await,
                // Started again since the report was written. Its ports are this stack's as long as a supervisor is there.
                (None, Some(component)) if watched == Watched::BySupervisor => {
                    let answer = component.ask(&layout, &broker).await;
                    if answer.state.can_serve()
                        || answer.life.as_ref().is_some_and(|life| *life != Life::Silent)
                    {
                        answer
                    } else {
                        Answer::down()
                    }
                }
                _ => Answer::down(),
            };
            (report.state, report.detail) = (answer.state, answer.detail);
            (index, report)
        });
    }
    let mut components = measured.join_all().await;
    components.sort_by_key(|(index, _)| *index);
    Ok(components.into_iter().map(|(_, report)| report).collect())
}

/// How long each process of a component has run.
#[must_use]
pub fn age(component: &ComponentReport) -> Option<Duration> {
    component.pid.and_then(probe::age)
}

/// How the components are ended.
#[derive(Debug, Clone)]
struct Stops {
    services: CancellationToken,
    infrastructure: CancellationToken,
    lifetime: Lifetime,
}

/// Takes the lock of a stack's folder; held as long as the value lives, whatever way the process ends.
pub(crate) fn lock(layout: &Layout) -> Result<Option<Flock<File>>> {
    let path = layout.lock_file();
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Runs a prepared stack until its lifetime ends.
pub async fn run(prepared: Prepared, restart: Restart, lifetime: Lifetime) -> Result<()> {
    let layout = prepared.layout.clone();
    let Some(_lock) = lock(&layout)? else {
        bail!("a stack runs in {} already", layout.data_dir.display());
    };
    let infrastructure: Vec<Component> =
        PARTICIPANTS.iter().map(Component::Database).chain([Component::Kafka]).collect();
    let services: Vec<Component> = if prepared.scope == Scope::Everything {
        prepared.replicas.all().map(Component::Participant).chain([Component::Gateway]).collect()
    } else {
        Vec::new()
    };
    let reporter = Arc::new(Reporter {
        report: Mutex::new(StackReport {
            supervisor_pid: std::process::id(),
            port_offset: layout.port_offset,
            written_at: 0,
            components: infrastructure
                .iter()
                .chain(&services)
                .map(|component| ComponentReport {
                    name: component.name(),
                    kind: component.kind(),
                    pid: None,
                    port: component.port(&layout),
                    state: ComponentState::Down,
                    restarts: 0,
                    log: layout.log_file(&component.name()).display().to_string(),
                    detail: String::new(),
                })
                .collect(),
        }),
        layout: layout.clone(),
        written: AtomicBool::new(true),
    });
    let stops =
        Stops { services: CancellationToken::new(), infrastructure: CancellationToken::new(), lifetime };
    let broker = Arc::new(Broker::new(&layout)?);
    let mut tasks = JoinSet::new();
    let mut start = |component: Component| {
        let (prepared, reporter, broker) = (prepared.clone(), reporter.clone(), broker.clone());
        tasks.spawn(supervise(component, prepared, reporter, broker, stops.clone(), restart))
    };
    let report_task = tokio::spawn({
        let reporter = reporter.clone();
        async move { reporter.write_for_ever().await }
    });
    let infrastructure_tasks: Vec<_> = infrastructure.into_iter().map(&mut start).collect();
    let ended = async {
        while !reporter.all_ready(&[Kind::Postgres, Kind::Kafka]) {
            tokio::time::sleep(PROBE_EVERY_STARTING).await;
        }
        while let Err(error) = broker.ensure_topics().await {
            say!("topics are not there yet: {error:#}");
            tokio::time::sleep(RESTART_PAUSE_MIN).await;
        }
        services.into_iter().map(&mut start).collect::<Vec<_>>()
    };
    let mut stop = std::pin::pin!(asked_to_stop(lifetime));
    let services_tasks = tokio::select! {
        started = ended => Some(started),
        () = &mut stop => None,
    };
    if services_tasks.is_some() {
        tokio::select! {
            () = &mut stop => {}
            () = renew_for_ever(prepared.clone()) => {}
        }
    }
    say!("stopping");
    stops.services.cancel();
    let services_tasks = services_tasks.unwrap_or_default();
    while !services_tasks.iter().all(tokio::task::AbortHandle::is_finished) {
        tokio::time::sleep(PROBE_EVERY_STARTING).await;
    }
    stops.infrastructure.cancel();
    while !infrastructure_tasks.iter().all(tokio::task::AbortHandle::is_finished) {
        tokio::time::sleep(PROBE_EVERY_STARTING).await;
    }
    report_task.abort();
    if lifetime == Lifetime::UntilParentEnds {
        let _ = delete_own(&layout)?;
    }
    Ok(())
}

async fn asked_to_stop(lifetime: Lifetime) {
    let signals = async {
        let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
            // A terminal that closes must not end a stack in the background.
            signal(SignalKind::hangup()),
        ) else {
            return;
        };
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                _ = hangup.recv() => {}
            }
        }
    };
    match lifetime {
        Lifetime::UntilStopped => signals.await,
        Lifetime::UntilParentEnds => {
            // A thread of its own: tokio's standard input would keep the runtime from ending.
            let (ended, parent) = tokio::sync::oneshot::channel::<()>();
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while std::io::stdin().read(&mut buffer).is_ok_and(|read| read > 0) {}
                // Nobody listens any more if a signal came first.
                let _ = ended.send(());
            });
            tokio::select! {
                () = signals => {}
                _ = parent => {}
            }
        }
    }
}

/// Keeps certificates fresh; services notice the new files by themselves.
async fn renew_for_ever(prepared: Prepared) {
    let mut tick = tokio::time::interval(RENEW_EVERY);
    loop {
        tick.tick().await;
        if prepared.scope == Scope::Infrastructure {
            continue;
        }
        let layout = prepared.layout.clone();
        match tokio::task::spawn_blocking(move || renew_certificates(&layout)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => say!("cannot renew certificates: {error:#}"),
            // A panic there is no reason to stop the stack.
            Err(error) => say!("cannot renew certificates: {error}"),
        }
    }
}

/// One component, from its first start to its end.
async fn supervise(
    component: Component,
    prepared: Prepared,
    reporter: Arc<Reporter>,
    broker: Arc<Broker>,
    stops: Stops,
    restart: Restart,
) {
    let stop = match component.kind() {
        Kind::Service => stops.services.clone(),
        Kind::Postgres | Kind::Kafka => stops.infrastructure.clone(),
    };
    let mut pause = RESTART_PAUSE_MIN;
    while !stop.is_cancelled() {
        let started = Instant::now();
        match spawn(component, &prepared) {
            Ok(mut child) => {
                let pid = child.id();
                reporter.change(&component.name(), |report| {
                    report.pid = pid;
                    report.state = ComponentState::Starting;
                });
                let layout = &prepared.layout;
                tokio::select! {
                    () = stop.cancelled() => end(component, &mut child, stops.lifetime).await,
                    ended = child.wait() => match ended {
                        Ok(status) => say!("{}: ended ({status})", component.name()),
                        Err(error) => say!("{}: cannot be watched: {error}", component.name()),
                    },
                    reason = probe_for_ever(component, layout, &broker, &reporter, restart) => {
                        say!("{}: {reason}: it is killed and started again", component.name());
                        // Stopped in order it would take as long as it is deaf.
                        let _ = child.kill().await;
                    }
                }
            }
            Err(error) => say!("{}: cannot be started: {error:#}", component.name()),
        }
        reporter.change(&component.name(), |report| {
            report.pid = None;
            report.state = ComponentState::Down;
            report.detail = String::new();
        });
        if stop.is_cancelled() || restart == Restart::Never {
            return;
        }
        if started.elapsed() > STABLE_AFTER {
            pause = RESTART_PAUSE_MIN;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
        reporter.change(&component.name(), |report| report.restarts += 1);
    }
}

fn spawn(component: Component, prepared: &Prepared) -> Result<Child> {
    let log_path = prepared.layout.log_file(&component.name());
    let mut command = component.command(prepared)?;
    command.stdin(Stdio::null());
    // What can't be logged costs the words, not the component.
    match open_log(&log_path) {
        Ok((out, err)) => command.stdout(out).stderr(err),
        Err(error) => {
            say!("{}: has no log: cannot write {}: {error}", component.name(), log_path.display());
            command.stdout(Stdio::null()).stderr(Stdio::null())
        }
    };
    let mut command = tokio::process::Command::from(command);
    // A group of its own, so that Ctrl-C in a terminal reaches the supervisor only, which stops things in order.
    command.process_group(0);
    command.spawn().with_context(|| format!("cannot start {}", component.name()))
}

fn open_log(path: &Path) -> std::io::Result<(File, File)> {
    if fs::metadata(path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        fs::rename(path, path.with_extension("log.old"))?;
    }
    let log = OpenOptions::new().create(true).append(true).open(path)?;
    Ok((log.try_clone()?, log))
}

/// Keeps the report in step. Returns when a service makes no progress any more, or is deaf, with the reason to start it
/// again; never where nothing is started again. Databases and broker are left alone: they have no sound probe (one that
/// recovers after a crash, or is stopped for a while, answers nobody either), and what kills them costs more than it heals.
async fn probe_for_ever(
    component: Component,
    layout: &Layout,
    broker: &Arc<Broker>,
    reporter: &Reporter,
    restart: Restart,
) -> String {
    let mut pulse = Pulse::new(Instant::now());
    let mut was_ready = false;
    loop {
        let answer = component.tend(layout, broker).await;
        was_ready |= answer.state == ComponentState::Ready;
        let runs = was_ready && answer.state != ComponentState::Starting;
        reporter.change(&component.name(), |report| {
            report.state = answer.state;
            report.detail = answer.detail;
        });
        if let Some(life) = answer.life
            && let Some(reason) = pulse.heard(&life, Instant::now())
            && restart == Restart::Always
        {
            return reason;
        }
        tokio::time::sleep(if runs { PROBE_EVERY_READY } else { PROBE_EVERY_STARTING }).await;
    }
}

async fn end(component: Component, child: &mut Child, lifetime: Lifetime) {
    let send = |child: &Child, signal| {
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // Fails only if it is gone.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    };
    let first = match lifetime {
        Lifetime::UntilStopped => component.stop_signal(),
        Lifetime::UntilParentEnds => component.kill_signal(),
    };
    send(child, first);
    if tokio::time::timeout(STOP_TIME_MAX, child.wait()).await.is_err() {
        say!("{}: does not stop, killing it", component.name());
        send(child, component.kill_signal());
        let _ = tokio::time::timeout(STOP_TIME_MAX, child.wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report that can't be written is written as soon as it can be, although nothing changes any more; until then the one
    /// of before stays whole. How old it is can be told.
    #[tokio::test]
    async fn a_report_that_could_not_be_written_is_written_later() {
        let folder = std::env::temp_dir().join(format!("holdfast-report-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("made");
        let layout = Layout::new(folder.clone(), 0);
        let component = ComponentReport {
            name: "kafka".to_owned(),
            kind: Kind::Kafka,
            pid: None,
            port: 1,
            state: ComponentState::Down,
            restarts: 0,
            log: String::new(),
            detail: String::new(),
        };
        let report =
            StackReport { supervisor_pid: 1, port_offset: 0, written_at: 0, components: vec![component] };
        let reporter = Arc::new(Reporter {
            layout: layout.clone(),
            report: Mutex::new(report),
            written: AtomicBool::new(true),
        });
        let restarts = || {
            let text = fs::read_to_string(layout.state_file()).expect("there");
            serde_json::from_str::<StackReport>(&text).expect("whole").components[0].restarts
        };
        reporter.change("kafka", |report| report.restarts = 1);
        assert_eq!(restarts(), 1);
        // In the way of the file that is written first.
        fs::create_dir(layout.state_draft_file()).expect("made");
        reporter.change("kafka", |report| report.restarts = 2);
        assert_eq!(restarts(), 1);
        let again = tokio::spawn({
            let reporter = reporter.clone();
            async move { reporter.write_for_ever().await }
        });
        fs::remove_dir(layout.state_draft_file()).expect("gone");
        let until = Instant::now() + Duration::from_secs(10);
        while restarts() != 2 {
            assert!(Instant::now() < until, "never written again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        again.abort();
        let mut report = reporter.report.lock().expect("whole").clone();
        assert_eq!(report.stale_for(), None);
        report.written_at = unix_seconds() - 100;
        assert!(report.stale_for().is_some_and(|age| age.as_secs() >= 100));
        fs::remove_dir_all(folder).expect("gone");
    }
}
