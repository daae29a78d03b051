//! The other side of the supervisor: is a stack running, how is it, stop it, delete it.
#![expect(
    clippy::disallowed_methods,
    reason = "called by a command that has no runtime, so there is none to block"
)]

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    layout::Layout,
    postgres,
    removal::{self, Content, Folder},
    supervisor::{ComponentState, StackReport, lock},
};

/// How a stack's folder is found.
#[derive(Debug)]
pub enum Found {
    /// A supervisor runs.
    Running(StackReport),
    /// A supervisor ended without stopping its components: killed, or the machine went down.
    Abandoned(StackReport),
    /// Nothing was started here.
    Nothing,
}

/// Looks at a stack's folder. The port offset of the answer is the one that it was started with.
pub fn find(data_dir: &Path) -> Result<Found> {
    let layout = Layout::new(data_dir.to_owned(), 0);
    if !layout.state_file().exists() {
        return Ok(Found::Nothing);
    }
    let path = layout.state_file();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut report: StackReport = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a report of a stack", path.display()))?;
    if lock(&layout)?.is_none() {
        return Ok(Found::Running(report));
    }
    for component in &mut report.components {
        component.state = ComponentState::Down;
    }
    Ok(Found::Abandoned(report))
}

/// Starts a supervisor in the background: this program again, with `arguments`. Its own words go to a log file.
pub fn detach(layout: &Layout, arguments: &[String]) -> Result<()> {
    let log_path = layout.log_file("supervisor");
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().context("cannot start the supervisor")?;
    Ok(())
}

/// What can serve, but is degraded for this time, won't be better by waiting: a consumer that has stopped, a row that
/// can't be published.
const DEGRADED_TIME_MAX: Duration = Duration::from_secs(30);
/// A component that was restarted this often before it was ready won't be.
const RESTARTS_MAX: u32 = 3;

/// The last words of a component.
fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no words")
        .to_owned()
}

/// Waits until every component is ready, or can serve and has been degraded for long.
pub fn wait_ready(data_dir: &Path, time_max: Duration) -> Result<StackReport> {
    let begin = Instant::now();
    let layout = Layout::new(data_dir.to_owned(), 0);
    let mut could_not_serve_at = begin;
    loop {
        let found = find(data_dir);
        match &found {
            Ok(Found::Running(report))
                if report.components.iter().all(|component| component.state.can_serve()) =>
            {
                if could_not_serve_at.elapsed() > DEGRADED_TIME_MAX {
                    return Ok(report.clone());
                }
            }
            _ => could_not_serve_at = Instant::now(),
        }
        if let Ok(Found::Running(report)) = &found
            && report.components.iter().all(|component| component.state == ComponentState::Ready)
        {
            return Ok(report.clone());
        }
        if let Ok(Found::Running(report)) = &found
            && let Some(component) = report
                .components
                .iter()
                .find(|component| component.restarts >= RESTARTS_MAX && !component.state.can_serve())
        {
            bail!(
                "{} ends again and again: {} (more in {})",
                component.name,
                last_line(Path::new(&component.log)),
                component.log
            );
        }
        if begin.elapsed() > time_max {
            let waiting: Vec<String> = match found {
                Ok(Found::Running(report)) => report
                    .components
                    .iter()
                    .filter(|component| component.state != ComponentState::Ready)
                    .map(|component| format!("{} (see {})", component.name, component.log))
                    .collect(),
                _ => vec![format!("the supervisor (see {})", layout.log_file("supervisor").display())],
            };
            bail!("not ready after {} s: {}", time_max.as_secs(), waiting.join(", "));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What stopping did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// A running stack was stopped.
    Running,
    /// Components that had lost their supervisor were killed.
    Abandoned,
    /// Nothing ran.
    Nothing,
}

/// Stops whatever runs in this folder.
pub fn stop(data_dir: &Path, time_max: Duration) -> Result<Stopped> {
    let layout = Layout::new(data_dir.to_owned(), 0);
    match find(data_dir)? {
        Found::Nothing => Ok(Stopped::Nothing),
        Found::Running(report) => {
            let pid = i32::try_from(report.supervisor_pid)?;
            kill(Pid::from_raw(pid), Signal::SIGTERM).context("cannot stop the supervisor")?;
            let until = Instant::now() + time_max;
            while lock(&layout)?.is_none() {
                if Instant::now() > until {
                    bail!("the supervisor (process {pid}) did not stop within {} s", time_max.as_secs());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            fs::remove_file(layout.state_file())?;
            Ok(Stopped::Running)
        }
        Found::Abandoned(report) => {
            let mut killed = Stopped::Nothing;
            for component in &report.components {
                if let Some(pid) = component.pid.filter(|pid| is_ours(*pid, &layout)) {
                    // PostgreSQL's SIGQUIT takes its child processes along.
                    let signal =
                        if component.name.ends_with("-db") { Signal::SIGQUIT } else { Signal::SIGKILL };
                    kill(Pid::from_raw(i32::try_from(pid)?), signal)
                        .with_context(|| format!("cannot stop {}", component.name))?;
                    killed = Stopped::Abandoned;
                    let until = Instant::now() + time_max;
                    while is_ours(pid, &layout) && Instant::now() < until {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            }
            fs::remove_file(layout.state_file())?;
            Ok(killed)
        }
    }
}

/// Whether a process still is the one that was started for this stack: numbers are used again.
pub(crate) fn is_ours(pid: u32, layout: &Layout) -> bool {
    let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let command = String::from_utf8_lossy(&command).into_owned();
    let clusters =
        crate::layout::PARTICIPANTS.iter().map(|participant| postgres::cluster_dir(layout, participant));
    std::iter::once(layout.data_dir.clone())
        .chain(clusters)
        .any(|folder| command.contains(folder.to_string_lossy().as_ref()))
}

/// Whether a component of the report still runs.
#[must_use]
pub fn anything_runs(layout: &Layout, report: &StackReport) -> bool {
    report.components.iter().filter_map(|component| component.pid).any(|pid| is_ours(pid, layout))
}

/// Deletes what a stack has written, and its folder if nothing else is in it; answers with what is left, because somebody
/// else put it there. Refused while a supervisor runs here.
pub fn delete(layout: &Layout) -> Result<Vec<PathBuf>> {
    let Some(_lock) = lock(layout)? else {
        bail!("a stack runs in {}: stop it first", layout.data_dir.display());
    };
    delete_own(layout)
}

/// The same, by the supervisor itself.
pub(crate) fn delete_own(layout: &Layout) -> Result<Vec<PathBuf>> {
    postgres::check_owner(layout)?;
    let content = Content::of(layout, Folder::Marked)?;
    postgres::remove_elsewhere(layout).context("cannot delete the databases")?;
    content.delete()?;
    for file in [layout.state_file(), layout.state_draft_file(), layout.lock_file()] {
        removal::remove(&file)?;
    }
    // Last, so that a deletion that was cut off can be run again.
    removal::remove(&layout.marker_file())?;
    match fs::remove_dir(&layout.data_dir) {
        Ok(()) => Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => content.left(layout),
        Err(error) => Err(error).with_context(|| format!("cannot delete {}", layout.data_dir.display())),
    }
}
