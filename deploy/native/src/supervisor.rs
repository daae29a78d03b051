//! Starts the components, watches them, restarts those that die, and stops them in order.
//!
//! Databases and broker first, then the topics, then the services. Services would wait for the others anyway; the order
//! only makes the first start quicker.

use std::{
    collections::HashMap,
    fs,
    io::Read as _,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    certificates,
    component::{Component, Ending},
    kafka::Broker,
    layout::{Kind, Layout, Scope},
    log,
    prepare::{Prepared, renew_certificates},
    probe::{Pulse, START_TIME_MAX},
    removal, say, scale,
    state::{self, ComponentReport, ComponentState, Lock, Reporter},
    talk,
};

const PROBE_EVERY_STARTING: Duration = Duration::from_millis(50);
/// The end of a process is noticed at once in any case; probing finds processes that run and do not work.
const PROBE_EVERY_READY: Duration = Duration::from_secs(1);
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(200);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A component that has run this long is restarted without a pause.
const STABLE_AFTER: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(600);
const LOOK_FOR_STARTS_EVERY: Duration = Duration::from_millis(200);
/// A replica that is added has to serve by then.
const SERVE_TIME_MAX: Duration = Duration::from_secs(60);
const LOOK_AT_LOGS_EVERY: Duration = Duration::from_secs(1);

/// What to do with a component that dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Start it again, with growing pauses.
    Always,
    /// Leave it down, so that a fault stays visible.
    Never,
}

/// How long the stack lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until SIGTERM or SIGINT.
    UntilStopped,
    /// Until standard input closes, which it does however the parent ends; then everything is killed and its data
    /// deleted.
    UntilParentEnds,
}

/// Runs a prepared stack until its lifetime ends, which frees its lock.
pub async fn run(prepared: Prepared, lock: Lock, restart: Restart, lifetime: Lifetime) -> Result<()> {
    talk::say_times();
    let layout = prepared.layout.clone();
    // Of an earlier life.
    scale::forget(&layout)?;
    let mut infrastructure = Group::of(Component::infrastructure(&prepared.extras));
    let mut services = Group::of(Component::services(&prepared));
    let components = infrastructure.components.iter().chain(&services.components);
    let reports = components.map(|component| component.report(&layout));
    let supervisor = Arc::new(Supervisor {
        reporter: Reporter::new(
            layout.clone(),
            restart == Restart::Never,
            reports.collect(),
            prepared.links.clone(),
        ),
        broker: Arc::new(Broker::new(&layout, &prepared.links)),
        prepared,
        restart,
        ending: match lifetime {
            Lifetime::UntilStopped => Ending::InOrder,
            Lifetime::UntilParentEnds => Ending::AtOnce,
        },
    });
    let report_task = tokio::spawn({
        let supervisor = supervisor.clone();
        async move { supervisor.reporter.write_forever().await }
    });
    let log_task = tokio::spawn(keep_logs_short(layout.clone()));
    let lives = async {
        infrastructure.start(&supervisor);
        supervisor.infrastructure_is_ready().await;
        services.start(&supervisor);
        tokio::select! {
            () = supervisor.renew_forever() => {}
            () = supervisor.say_when_ready() => {}
            () = scale::serve(&supervisor, &mut services) => {}
        }
    };
    tokio::select! {
        () = asked_to_stop(lifetime) => {}
        () = lives => {}
    }
    say!("stopping");
    services.end().await;
    infrastructure.end().await;
    report_task.abort();
    log_task.abort();
    // It may be writing; nothing is written behind its back.
    let _ = report_task.await;
    match lifetime {
        // Nothing runs, so there is nothing to report.
        Lifetime::UntilStopped => removal::remove(&layout.state_file())?,
        Lifetime::UntilParentEnds => {
            let _ = state::delete(&layout)?;
        }
    }
    drop(lock);
    Ok(())
}

/// Components that are started and stopped together; single ones can come and go meanwhile.
pub(crate) struct Group {
    components: Vec<Component>,
    stop: CancellationToken,
    /// Those that were started, by their names.
    members: HashMap<String, Member>,
}

struct Member {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// When a component is to end.
struct Stop {
    /// By itself, or with all others.
    own: CancellationToken,
    /// With all others.
    all: CancellationToken,
}

impl Group {
    fn of(components: Vec<Component>) -> Self {
        Self { components, stop: CancellationToken::new(), members: HashMap::new() }
    }

    fn start(&mut self, supervisor: &Arc<Supervisor>) {
        for component in self.components.clone() {
            self.start_one(supervisor, component);
        }
    }

    pub(crate) fn start_one(&mut self, supervisor: &Arc<Supervisor>, component: Component) {
        let stop = self.stop.child_token();
        let when = Stop { own: stop.clone(), all: self.stop.clone() };
        let task = tokio::spawn(supervisor.clone().supervise(component, when));
        self.members.insert(component.name(), Member { stop, task });
    }

    /// Returns when the component has ended. If nobody waits for that any more, it still ends with all others.
    pub(crate) async fn end_one(&mut self, name: &str) {
        let Some(member) = self.members.get_mut(name) else { return };
        member.stop.cancel();
        // Fails if it has panicked: then there is nothing left to wait for.
        let _ = (&mut member.task).await;
        self.members.remove(name);
    }

    /// Returns when all of them have ended.
    async fn end(self) {
        self.stop.cancel();
        for member in self.members.into_values() {
            // A task that panicked has lost its component; the others still end in order.
            let _ = member.task.await;
        }
    }
}

/// What the tasks of a stack share.
pub(crate) struct Supervisor {
    pub(crate) prepared: Prepared,
    pub(crate) reporter: Reporter,
    broker: Arc<Broker>,
    restart: Restart,
    ending: Ending,
}

impl Supervisor {
    /// Waits for databases and broker, and creates the topics.
    async fn infrastructure_is_ready(&self) {
        while !self.reporter.all_ready(&[Kind::Postgres, Kind::Kafka]) {
            tokio::time::sleep(PROBE_EVERY_STARTING).await;
        }
        while let Err(error) = self.broker.ensure_topics().await {
            say!("topics are not there yet: {error:#}");
            tokio::time::sleep(RESTART_PAUSE_MIN).await;
        }
    }

    /// Once; never returns.
    async fn say_when_ready(&self) {
        while !self.reporter.all_ready(&[Kind::Postgres, Kind::Kafka, Kind::Redis, Kind::Service]) {
            tokio::time::sleep(PROBE_EVERY_STARTING).await;
        }
        let layout = &self.prepared.layout;
        let place = match self.prepared.scope {
            Scope::Everything => layout.gateway_url(),
            Scope::Infrastructure => format!("Kafka is at {}", layout.kafka_brokers()),
        };
        say!("all are ready: {place}");
        std::future::pending::<()>().await;
    }

    /// Keeps certificates fresh; services notice the new files on their own, and database servers are told.
    async fn renew_forever(&self) {
        let mut tick = tokio::time::interval(RENEW_EVERY);
        loop {
            tick.tick().await;
            let Prepared { layout, scope, extras, .. } = self.prepared.clone();
            match tokio::task::spawn_blocking(move || renew_certificates(&layout, scope, &extras)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => say!("cannot renew certificates: {error:#}"),
                // A panic in the renewal is no reason to stop the stack.
                Err(error) => say!("cannot renew certificates: {error}"),
            }
        }
    }

    /// One component, from its first start to its end.
    async fn supervise(self: Arc<Self>, component: Component, stop: Stop) {
        let name = component.name();
        let mut pause = RESTART_PAUSE_MIN;
        while !stop.own.is_cancelled() {
            let started = Instant::now();
            self.run_once(component, &stop).await;
            self.reporter.change(&name, |report| {
                report.pid = None;
                report.state = ComponentState::Down;
                report.detail = String::new();
            });
            if stop.own.is_cancelled() {
                return;
            }
            if self.restart == Restart::Never {
                tokio::select! {
                    () = stop.own.cancelled() => return,
                    () = self.asked_to_start(&name) => {}
                }
            }
            if started.elapsed() > STABLE_AFTER {
                pause = RESTART_PAUSE_MIN;
            }
            tokio::select! {
                () = stop.own.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RESTART_PAUSE_MAX);
            self.reporter.change(&name, |report| report.restarts += 1);
        }
    }

    /// Returns when a component that was started serves.
    pub(crate) async fn serves(&self, name: &str) -> Result<()> {
        let begin = Instant::now();
        let serves = |component: ComponentReport| component.state.can_serve();
        while !self.reporter.of(name).is_some_and(serves) {
            let seconds = SERVE_TIME_MAX.as_secs();
            ensure!(begin.elapsed() < SERVE_TIME_MAX, "{name} does not serve after {seconds} s");
            tokio::time::sleep(PROBE_EVERY_STARTING).await;
        }
        Ok(())
    }

    /// Returns when an operator wants a component that was left down to be started.
    async fn asked_to_start(&self, name: &str) {
        let file = self.prepared.layout.start_file(name);
        while !file.exists() {
            tokio::time::sleep(LOOK_FOR_STARTS_EVERY).await;
        }
        // What can't be deleted starts it once more than it was asked for.
        if let Err(error) = fs::remove_file(&file) {
            say!("{name}: cannot delete {}: {error}", file.display());
        }
    }

    /// One process of a component. Returns when it has ended on its own, by the stop signal, or because it was deaf.
    async fn run_once(&self, component: Component, stop: &Stop) {
        let name = component.name();
        let mut child = match component.spawn(&self.prepared) {
            Ok(child) => child,
            Err(error) => {
                say!("{name}: cannot be started: {error:#}");
                return;
            }
        };
        let pid = child.id();
        self.reporter.change(&name, |report| {
            report.pid = pid;
            report.state = ComponentState::Starting;
        });
        tokio::select! {
            () = stop.own.cancelled() => {
                // One that goes alone has work that others will need.
                let ending = if stop.all.is_cancelled() { self.ending } else { Ending::InOrder };
                component.end(&mut child, ending).await;
            }
            ended = child.wait() => match ended {
                Ok(status) => say!("{name}: ended ({status})"),
                Err(error) => say!("{name}: cannot be watched: {error}"),
            },
            reason = self.probe_until_deaf(component) => {
                say!("{name}: {reason}: it is killed and started again");
                // A clean stop would take as long as it is deaf.
                let _ = child.kill().await;
            }
        }
    }

    /// Keeps the report up to date. Returns when a service makes no progress any more, or is deaf, with the reason to
    /// restart it; never returns where nothing is restarted. Databases and broker are left alone: there is no reliable
    /// probe for them (one that recovers after a crash, or is paused for a while, does not answer either), and killing
    /// them does more harm than good.
    async fn probe_until_deaf(&self, component: Component) -> String {
        let started = Instant::now();
        let mut pulse = Pulse::new(started);
        let (mut was_ready, mut has_served) = (false, false);
        loop {
            let answer = component.tend(&self.prepared.layout, &self.broker).await;
            if matches!(component, Component::Kafka)
                && self.restart == Restart::Always
                && certificates::are_overdue(&self.prepared.layout).await
            {
                return "cannot be told of its new certificate".to_owned();
            }
            was_ready |= answer.state == ComponentState::Ready;
            has_served |= answer.state.can_serve();
            let runs = was_ready && answer.state.can_serve();
            let is_in_its_start = !has_served && started.elapsed() <= START_TIME_MAX;
            let answer = if is_in_its_start { answer.within_start() } else { answer };
            self.reporter.change(&component.name(), |report| {
                report.state = answer.state;
                report.detail = answer.detail;
            });
            if let Some(life) = answer.life
                && let Some(reason) = pulse.heard(&life, Instant::now())
                && self.restart == Restart::Always
            {
                return reason;
            }
            tokio::time::sleep(if runs { PROBE_EVERY_READY } else { PROBE_EVERY_STARTING }).await;
        }
    }
}

/// Of all components and of the supervisor itself.
async fn keep_logs_short(layout: Layout) {
    let mut tick = tokio::time::interval(LOOK_AT_LOGS_EVERY);
    loop {
        tick.tick().await;
        let layout = layout.clone();
        let looked = tokio::task::spawn_blocking(move || {
            for name in layout.component_names() {
                let path = layout.log_file(&name);
                if let Err(error) = log::keep_short(&path, log::LOG_BYTES_MAX) {
                    say!("{name}: its log {} is not kept short: {error}", path.display());
                }
            }
        });
        if let Err(error) = looked.await {
            say!("logs are not kept short: {error}");
        }
    }
}

async fn asked_to_stop(lifetime: Lifetime) {
    let signals = async {
        let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
            // Closing the terminal must not end a stack in the background.
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
                // If a signal came first, nobody listens any more.
                let _ = ended.send(());
            });
            tokio::select! {
                () = signals => {}
                _ = parent => {}
            }
        }
    }
}
