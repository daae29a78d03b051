//! The commands' side of the supervisor: whether a stack is running, how it is, stopping it, deleting it.
#![expect(
    clippy::disallowed_methods,
    reason = "called by a command that has no runtime, so there is none to block"
)]

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use tokio::task::JoinSet;

use crate::{
    component::{Component, is_ours},
    kafka::Broker,
    layout::{Extra, Layout},
    probe::{self, Answer, Life, START_TIME_MAX},
    programs, removal,
    state::{self, ComponentReport, ComponentState, Lock, StackReport, is_locked},
};

/// The pause between two looks at another process.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What was found in a stack's folder.
#[derive(Debug)]
pub enum Found {
    /// A supervisor runs.
    Running(StackReport),
    /// Somebody starts or deletes it: there is a lock, and no report of its holder.
    Starting,
    /// A supervisor ended without stopping its components: killed, or the machine went down. What it reported last may be long ago.
    Abandoned(StackReport),
    /// Nothing was started here.
    Nothing,
}

/// Looks into a stack's folder. The report has the port offset that the stack was started with.
pub fn find(data_dir: &Path) -> Result<Found> {
    let layout = Layout::new(data_dir.to_owned(), 0);
    // Asked first: whoever ends after that has left his report, and was there.
    let is_locked = is_locked(&layout)?;
    let report = match state::read(&layout) {
        // Half a report, after the machine went down: it names nobody.
        Err(error) if !is_locked && error.is::<serde_json::Error>() => return Ok(Found::Nothing),
        report => report?,
    };
    match report {
        // The report of an earlier life may still be there.
        Some(report) if is_locked && probe::is_running(report.supervisor_pid) => Ok(Found::Running(report)),
        _ if is_locked => Ok(Found::Starting),
        Some(report) => Ok(Found::Abandoned(report)),
        None => Ok(Found::Nothing),
    }
}

/// A supervisor that was started in the background.
#[derive(Debug, Clone, Copy)]
pub struct Detached {
    /// Where its words begin in its log, in bytes.
    log_from: u64,
}

/// Starts a supervisor in the background: this program again, with `arguments`. Its output goes to a log file. It gets the lock as
/// its standard input, so that there is no moment in which somebody else could take it.
pub fn detach(layout: &Layout, lock: &Lock, arguments: &[OsString]) -> Result<Detached> {
    let log_path = layout.log_file("supervisor");
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("cannot write {}", log_path.display()))?;
    let log_from = log.metadata()?.len();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdin(lock.for_child()?).stdout(log.try_clone()?).stderr(log);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().context("cannot start the supervisor")?;
    Ok(Detached { log_from })
}

/// The command that starts a stack which ends, and deletes its data, when its standard input closes: however its owner ends. It
/// ends with [`crate::prepare::PORT_TAKEN_EXIT_CODE`] if a port is taken. `program` is this one, `replicas` are `service=N`, and it has
/// exactly these `extras`.
pub fn bound_stack<'a>(
    program: &Path,
    layout: &Layout,
    replicas: impl IntoIterator<Item = &'a str>,
    extras: &[Extra],
) -> Command {
    let mut command = Command::new(program);
    command
        .args(["up", "--foreground", "--until-parent-ends", "--port-offset", &layout.port_offset.to_string()])
        .arg("--data-dir")
        .arg(&layout.data_dir)
        .args(replicas.into_iter().flat_map(|replicas| ["--replicas", replicas]))
        .args(extra_options(extras))
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    command
}

/// The options of `up` for exactly these extras.
pub fn extra_options(extras: &[Extra]) -> impl Iterator<Item = &'static str> {
    let is_wanted = |extra: &Extra| extras.contains(extra);
    let with = Extra::ALL.into_iter().filter(is_wanted).map(|extra| ["--with", extra.name()]);
    let without = Extra::DEFAULT.into_iter().filter(|extra| !is_wanted(extra));
    let options: Vec<_> = with.chain(without.map(|extra| ["--without", extra.name()])).collect();
    options.into_iter().flatten()
}

/// A component that can serve, but has been degraded for this long, won't recover by waiting longer: a consumer has
/// stopped, or a row can't be published.
const DEGRADED_TIME_MAX: Duration = Duration::from_secs(30);
/// A component that was restarted this often before it was ready won't become ready.
const RESTARTS_MAX: u32 = 3;

/// Why a stack is not ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// Waiting longer is no use: a component dies at each start.
    #[error("{component} ends again and again: {last_line} (more in {log})")]
    KeepsEnding {
        /// The component's name.
        component: String,
        /// The last line of its log.
        last_line: String,
        /// Its log file.
        log: String,
    },
    /// Its supervisor has ended: it failed, or somebody stopped the stack.
    #[error("the supervisor has ended: {words} (more in {log})")]
    SupervisorEnded {
        /// What it said last.
        words: String,
        /// Its log file.
        log: String,
    },
    /// The time to wait has passed.
    #[error("not ready after {seconds} s: {waiting}")]
    TimedOut {
        /// How long it was waited for.
        seconds: u64,
        /// What is not ready, and the log of each.
        waiting: String,
    },
}

/// Waits until every component is ready, or until all can serve and some stay degraded. Also for a supervisor that is still to come.
pub fn wait_ready(data_dir: &Path, time_max: Duration) -> Result<StackReport, NotReady> {
    wait(data_dir, time_max, |_| {}, || None)
}

/// The same of a stack that has a supervisor: not longer than that lives. `detached` is the one that this process has started, and
/// `looked` is told what was found meanwhile.
pub fn wait_ready_while_supervised(
    data_dir: &Path,
    time_max: Duration,
    detached: Option<Detached>,
    looked: impl FnMut(&StackReport),
) -> Result<StackReport, NotReady> {
    let layout = Layout::new(data_dir.to_owned(), 0);
    let log = layout.log_file("supervisor");
    wait(data_dir, time_max, looked, || {
        // An error is no proof that it has ended.
        let has_ended = is_locked(&layout).is_ok_and(|locked| !locked);
        has_ended.then(|| NotReady::SupervisorEnded {
            words: detached.map_or_else(|| last_line(&log), |detached| words_from(&log, detached.log_from)),
            log: log.display().to_string(),
        })
    })
}

fn wait(
    data_dir: &Path,
    time_max: Duration,
    mut looked: impl FnMut(&StackReport),
    ended: impl Fn() -> Option<NotReady>,
) -> Result<StackReport, NotReady> {
    let begin = Instant::now();
    let mut could_not_serve_at = begin;
    loop {
        let found = find(data_dir);
        if let Ok(Found::Running(report)) = &found {
            looked(report);
            if !report.components.iter().all(|component| component.state.can_serve()) {
                could_not_serve_at = Instant::now();
            }
            let all_ready =
                report.components.iter().all(|component| component.state == ComponentState::Ready);
            if all_ready || could_not_serve_at.elapsed() > DEGRADED_TIME_MAX {
                return Ok(report.clone());
            }
            if let Some(component) = report.components.iter().find(|component| keeps_ending(component)) {
                return Err(NotReady::KeepsEnding {
                    component: component.name.clone(),
                    last_line: last_line(Path::new(&component.log)),
                    log: component.log.clone(),
                });
            }
        } else {
            could_not_serve_at = Instant::now();
        }
        if let Some(error) = ended() {
            return Err(error);
        }
        if begin.elapsed() > time_max {
            return Err(NotReady::TimedOut {
                seconds: time_max.as_secs(),
                waiting: waiting(found.ok(), data_dir),
            });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn keeps_ending(component: &ComponentReport) -> bool {
    component.restarts >= RESTARTS_MAX && !component.state.can_serve()
}

/// The last line that a component logged.
fn last_line(log: &Path) -> String {
    words(&fs::read(log).unwrap_or_default(), 1)
}

/// So many lines of a supervisor say why it ended.
const LAST_WORDS_LINES_MAX: usize = 10;

/// The last lines that were logged after the first `from` bytes.
fn words_from(log: &Path, from: u64) -> String {
    let text = fs::read(log).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    words(text.get(from..).unwrap_or_default(), LAST_WORDS_LINES_MAX)
}

fn words(text: &[u8], lines_max: usize) -> String {
    let text = String::from_utf8_lossy(text);
    // Where Java was when it failed says nothing; what comes before it does.
    let says_nothing =
        |line: &&str| line.trim().is_empty() || line.starts_with("\tat ") || line.starts_with("\t... ");
    let lines: Vec<&str> = text.lines().filter(|line| !says_nothing(line)).collect();
    match lines.get(lines.len().saturating_sub(lines_max)..) {
        Some(last) if !last.is_empty() => last.join("\n"),
        _ => "its log is empty".to_owned(),
    }
}

/// Has a service run its program in `folder` from now on: asks the process that runs to end, whereupon the supervisor starts
/// another. Returns the old process, if there was one.
pub fn change_program(layout: &Layout, component: &ComponentReport, folder: &Path) -> Result<Option<u32>> {
    programs::choose(layout, &component.name, folder)?;
    end(layout, component)
}

/// Asks the process of a component to end. Returns it, if there was one.
fn end(layout: &Layout, component: &ComponentReport) -> Result<Option<u32>> {
    let old = component.pid.filter(|pid| is_ours(*pid, layout));
    if let Some(pid) = old {
        match kill(Pid::from_raw(i32::try_from(pid)?), component.kind.stop_signal()) {
            // It has ended by itself since.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot stop {}", component.name)),
        }
    }
    Ok(old)
}

/// [`change_program`], and returns when another process serves. An error if none does within `time_max`: then the old program is
/// one call away.
pub fn roll(layout: &Layout, component: &str, folder: &Path, time_max: Duration) -> Result<()> {
    let before = component_of(layout, component)?;
    programs::choose(layout, component, folder)?;
    replace(layout, &before, time_max)
}

/// Has a component end and start again, or start if it was left down, and returns when it serves; an error if it does not within
/// `time_max`.
pub fn restart(layout: &Layout, component: &str, time_max: Duration) -> Result<()> {
    replace(layout, &component_of(layout, component)?, time_max)
}

fn replace(layout: &Layout, before: &ComponentReport, time_max: Duration) -> Result<()> {
    let component = before.name.as_str();
    if let Found::Running(StackReport { leaves_down: true, .. }) = find(&layout.data_dir)? {
        let file = layout.start_file(component);
        fs::write(&file, "").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let old = end(layout, before)?;
    let begin = Instant::now();
    let mut could_not_serve_at = begin;
    loop {
        let now = component_of(layout, component)?;
        let is_new = now.pid.is_some() && now.pid != old;
        if !(is_new && now.state.can_serve()) {
            could_not_serve_at = Instant::now();
        }
        let serves = is_new && now.state == ComponentState::Ready;
        if serves || could_not_serve_at.elapsed() > DEGRADED_TIME_MAX {
            return Ok(());
        }
        // The first restart is the one that was asked for.
        let restarts = now.restarts.saturating_sub(before.restarts + 1);
        if keeps_ending(&ComponentReport { restarts, ..now.clone() }) {
            let (log, last_line) = (now.log.clone(), last_line(Path::new(&now.log)));
            return Err(NotReady::KeepsEnding { component: now.name, last_line, log }.into());
        }
        if begin.elapsed() > time_max {
            let waiting = format!("{} (see {})", now.name, now.log);
            return Err(NotReady::TimedOut { seconds: time_max.as_secs(), waiting }.into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn component_of(layout: &Layout, name: &str) -> Result<ComponentReport> {
    let Found::Running(report) = find(&layout.data_dir)? else {
        bail!("no supervisor runs in {}: nothing that ends is started again", layout.data_dir.display());
    };
    let component = report.components.into_iter().find(|component| component.name == name);
    component.with_context(|| format!("the stack has no {name}"))
}

/// The components that are waited for, each with its log.
fn waiting(found: Option<Found>, data_dir: &Path) -> String {
    let Some(Found::Running(report)) = found else {
        let log = Layout::new(data_dir.to_owned(), 0).log_file("supervisor");
        return format!("the supervisor (see {})", log.display());
    };
    let waiting: Vec<String> = report
        .components
        .iter()
        .filter(|component| component.state != ComponentState::Ready)
        .map(|component| format!("{} (see {})", component.name, component.log))
        .collect();
    waiting.join(", ")
}

/// The result of stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// A running stack was stopped.
    Running,
    /// Components that had lost their supervisor were killed.
    Abandoned,
    /// Nothing ran.
    Nothing,
}

/// Stops whatever runs in this folder; what is being started, too.
pub fn stop(data_dir: &Path, time_max: Duration) -> Result<Stopped> {
    let layout = Layout::new(data_dir.to_owned(), 0);
    let until = Instant::now() + time_max;
    loop {
        match find(data_dir)? {
            Found::Nothing => return Ok(Stopped::Nothing),
            Found::Running(report) => {
                stop_supervisor(&layout, &report, until)?;
                // Whoever has it now starts another stack here.
                if let Some(lock) = Lock::take(&layout)? {
                    forget(&layout, &lock)?;
                }
                return Ok(Stopped::Running);
            }
            Found::Abandoned(_) => {
                if let Some(lock) = Lock::take(&layout)? {
                    return stop_abandoned(&layout, &lock, time_max);
                }
            }
            Found::Starting => {}
        }
        if Instant::now() > until {
            bail!("a stack is being started in {}: try again when that has ended", data_dir.display());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Kills components that have lost their supervisor, and forgets them. The holder of the lock may do so.
pub fn stop_abandoned(layout: &Layout, lock: &Lock, time_max: Duration) -> Result<Stopped> {
    // What can't be read names nobody.
    let stopped = match state::read(layout) {
        Ok(Some(report)) => kill_abandoned(layout, &report, time_max)?,
        Ok(None) => Stopped::Nothing,
        Err(error) if error.is::<serde_json::Error>() => Stopped::Nothing,
        Err(error) => return Err(error),
    };
    forget(layout, lock)?;
    Ok(stopped)
}

fn forget(layout: &Layout, _lock: &Lock) -> Result<()> {
    [layout.state_file(), layout.state_draft_file()].iter().try_for_each(|file| removal::remove(file))
}

/// Returns when the supervisor, which stops its components first, has ended.
fn stop_supervisor(layout: &Layout, report: &StackReport, until: Instant) -> Result<()> {
    let pid = i32::try_from(report.supervisor_pid)?;
    kill(Pid::from_raw(pid), Signal::SIGTERM).context("cannot stop the supervisor")?;
    // The lock may be another's by then.
    while probe::is_running(report.supervisor_pid) && is_locked(layout)? {
        if Instant::now() > until {
            bail!("the supervisor (process {pid}) does not stop");
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn kill_abandoned(layout: &Layout, report: &StackReport, time_max: Duration) -> Result<Stopped> {
    let mut killed = Stopped::Nothing;
    for component in &report.components {
        let Some(pid) = component.pid.filter(|pid| is_ours(*pid, layout)) else { continue };
        kill(Pid::from_raw(i32::try_from(pid)?), component.kind.kill_signal())
            .with_context(|| format!("cannot stop {}", component.name))?;
        killed = Stopped::Abandoned;
        let until = Instant::now() + time_max;
        while is_ours(pid, layout) && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
    }
    Ok(killed)
}

/// Whether a component of the report still runs.
#[must_use]
pub fn anything_runs(layout: &Layout, report: &StackReport) -> bool {
    report.components.iter().filter_map(|component| component.pid).any(|pid| is_ours(pid, layout))
}

/// Whether a supervisor watches a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// One does, and holds the stack's lock.
    BySupervisor,
    /// It is gone; nothing that dies is restarted.
    ByNobody,
}

/// The current state of the components of a report: each is probed, all at the same time. What the report says about
/// them may be old: a supervisor that can't write, or has ended, leaves its last report behind.
pub async fn measure(
    layout: &Layout,
    report: &StackReport,
    watched: Watched,
) -> Result<Vec<ComponentReport>> {
    let broker = Arc::new(Broker::new(layout, &[]));
    let mut measured = JoinSet::new();
    for (index, mut report) in report.components.iter().cloned().enumerate() {
        let (layout, broker) = (layout.clone(), broker.clone());
        measured.spawn(async move {
            report.pid = report.pid.filter(|pid| probe::is_running(*pid) && is_ours(*pid, &layout));
            let answer = match (report.pid, Component::named(&report.name)) {
                (Some(pid), Some(component)) => {
                    let answer = component.ask(&layout, &broker).await;
                    if is_in_its_start(report.state, probe::age(pid)) {
                        answer.within_start()
                    } else {
                        answer
                    }
                }
                // Restarted since the report was written. Its ports belong to this stack as long as there is a
                // supervisor.
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

/// Whether a process of this age that can't serve has not been able to yet, by what its supervisor reported `before`. One of an
/// earlier version reports whatever can't serve as starting.
fn is_in_its_start(before: ComponentState, age: Option<Duration>) -> bool {
    before == ComponentState::Starting && age.is_some_and(|age| age <= START_TIME_MAX)
}

/// Asks a service that is not part of a native stack, on its admin port: its state, and what is wrong.
pub async fn ask(admin: SocketAddr) -> (ComponentState, String) {
    let answer = probe::service(admin).await;
    // Nothing else says that it runs.
    let state = if answer.life == Some(Life::Silent) { ComponentState::Down } else { answer.state };
    (state, answer.detail)
}

/// How long the process of a component has run.
#[must_use]
pub fn age(component: &ComponentReport) -> Option<Duration> {
    component.pid.and_then(probe::age)
}

/// Deletes what a stack has written, and its folder if nothing else is in it. Returns what is left because somebody
/// else put it there. Refused while a supervisor runs here.
pub fn delete(layout: &Layout) -> Result<Vec<PathBuf>> {
    let Some(_lock) = Lock::take(layout)? else {
        bail!("a stack runs in {}: stop it first", layout.data_dir.display());
    };
    state::delete(layout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Kind;

    /// A ready stack is returned at once; a component that dies at each start ends the wait, and anything else gets the
    /// full time.
    #[test]
    fn waiting_ends_with_its_reason() {
        let folder = std::env::temp_dir().join(format!("holdfast-wait-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("created");
        let layout = Layout::new(folder.clone(), 0);
        let wait = |state, restarts| {
            let component = ComponentReport {
                name: "order".to_owned(),
                kind: Kind::Service,
                pid: None,
                port: 1,
                state,
                restarts,
                log: folder.join("order.log").display().to_string(),
                detail: String::new(),
            };
            let report = StackReport {
                supervisor_pid: std::process::id(),
                port_offset: 0,
                written_at: 0,
                leaves_down: false,
                components: vec![component],
                links: Vec::new(),
            };
            fs::write(layout.state_file(), serde_json::to_vec(&report).expect("JSON")).expect("written");
            wait_ready(&folder, Duration::ZERO).map(|report| report.components[0].state)
        };
        fs::write(folder.join("order.log"), "started\nno such table\n\n").expect("written");
        let waiting = |waiting: String| Err(NotReady::TimedOut { seconds: 0, waiting });
        let log = folder.join("logs/supervisor.log");
        assert_eq!(
            wait(ComponentState::Ready, 0),
            waiting(format!("the supervisor (see {})", log.display())),
            "nobody holds the lock"
        );

        let _lock = Lock::take(&layout).expect("a lock").expect("free");
        assert_eq!(wait(ComponentState::Ready, 3), Ok(ComponentState::Ready));
        let log = folder.join("order.log").display().to_string();
        assert_eq!(wait(ComponentState::Starting, 2), waiting(format!("order (see {log})")));
        assert_eq!(wait(ComponentState::Unready, 2), waiting(format!("order (see {log})")));
        assert_eq!(wait(ComponentState::Degraded, 3), waiting(format!("order (see {log})")));
        assert_eq!(
            wait(ComponentState::Down, 3),
            Err(NotReady::KeepsEnding {
                component: "order".to_owned(),
                last_line: "no such table".to_owned(),
                log
            })
        );
        fs::remove_dir_all(folder).expect("gone");
    }

    /// What can't serve is starting only as long as its supervisor has not seen it serve, and not for longer than a start may take.
    #[test]
    fn only_a_start_is_called_one() {
        let state = |before, age: Option<Duration>| {
            let answer = Answer::unready("does not answer");
            if is_in_its_start(before, age) { answer.within_start().state } else { answer.state }
        };
        let (young, old) = (Some(START_TIME_MAX), Some(START_TIME_MAX + Duration::from_secs(1)));
        for (before, age, expected) in [
            (ComponentState::Starting, young, ComponentState::Starting),
            (ComponentState::Starting, old, ComponentState::Unready),
            (ComponentState::Starting, None, ComponentState::Unready),
            (ComponentState::Ready, young, ComponentState::Unready),
            (ComponentState::Degraded, young, ComponentState::Unready),
            (ComponentState::Unready, young, ComponentState::Unready),
        ] {
            assert_eq!(state(before, age), expected, "{before:?} {age:?}");
        }
        for serves in [Answer::ready(), Answer::degraded("kafka: away")] {
            assert_eq!(serves.clone().within_start(), serves);
        }
    }
}
