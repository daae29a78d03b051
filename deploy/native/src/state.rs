//! What the supervisor and the commands share on disk: the report, the lock, and what may be deleted.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::PathBuf,
    process::Stdio,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::{
    layout::{Kind, Layout, every_component_name},
    link::Link,
    postgres,
    removal::{self, Content, Folder},
    say,
};

/// The report is written this often even if nothing has changed, so that an old one is known to be old; and this soon
/// again if it could not be written.
const REPORT_EVERY: Duration = Duration::from_secs(10);
const REPORT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A report that is older shows that its supervisor can't write it.
const REPORT_AGE_MAX: Duration = Duration::from_secs(30);

/// The state of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComponentState {
    /// It works.
    Ready,
    /// It can serve its callers, but something is wrong.
    Degraded,
    /// It runs, can't serve yet, and is within the time of a start.
    Starting,
    /// It is not running.
    Down,
    /// It runs and can't serve: not any more, or not in the time of a start; or it does not answer. Also what a newer supervisor
    /// calls otherwise.
    #[serde(other)]
    Unready,
}

impl ComponentState {
    /// As it is shown, and written in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Starting => "starting",
            Self::Unready => "unready",
            Self::Down => "down",
        }
    }

    /// A degraded one can.
    #[must_use]
    pub const fn can_serve(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }
}

/// What is known about one component.
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
    /// How often it was restarted.
    pub restarts: u32,
    /// Its log file.
    pub log: String,
    /// What is wrong with it, or empty.
    #[serde(default)]
    pub detail: String,
}

/// The supervisor's report about its stack; the content of `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StackReport {
    /// The supervisor's process.
    pub supervisor_pid: u32,
    /// Added to each port.
    pub port_offset: u16,
    /// When this was written, in seconds since 1970.
    #[serde(default)]
    pub written_at: u64,
    /// Whether components that die are left down.
    #[serde(default)]
    pub leaves_down: bool,
    /// Each component, in the order of their start.
    pub components: Vec<ComponentReport>,
    /// The links that need a proxy; empty if clients reach servers by the servers' own ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
}

impl StackReport {
    /// How old it is, if it is older than a running supervisor would let it become: processes may have changed since.
    #[must_use]
    pub fn stale_for(&self) -> Option<Duration> {
        // Older versions did not write it.
        let written_at = Some(self.written_at).filter(|at| *at > 0)?;
        let age = Duration::from_secs(unix_seconds().saturating_sub(written_at));
        Some(age).filter(|age| *age > REPORT_AGE_MAX)
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Reads the report of a stack; `None` where nothing was started. A [`serde_json::Error`] if it is not whole.
pub(crate) fn read(layout: &Layout) -> Result<Option<StackReport>> {
    let path = layout.state_file();
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| format!("{} is not a report of a stack", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The supervisor's report, written to the file at each change. If it can't be written now, it is written later, and
/// the supervisor carries on.
pub(crate) struct Reporter {
    layout: Layout,
    report: Mutex<StackReport>,
    written: AtomicBool,
}

impl Reporter {
    /// A report by this process.
    pub(crate) fn new(
        layout: Layout,
        leaves_down: bool,
        components: Vec<ComponentReport>,
        links: Vec<Link>,
    ) -> Self {
        let report = StackReport {
            supervisor_pid: std::process::id(),
            port_offset: layout.port_offset,
            written_at: 0,
            leaves_down,
            components,
            links,
        };
        Self { layout, report: Mutex::new(report), written: AtomicBool::new(true) }
    }

    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut ComponentReport)) {
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
            say!("{name}: {} -> {}", before.state.name(), component.state.name());
        }
        self.write(&mut report);
    }

    /// What is known about a component now.
    pub(crate) fn of(&self, name: &str) -> Option<ComponentReport> {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.components.iter().find(|component| component.name == name).cloned()
    }

    /// A component that the stack has from now on, in its place.
    pub(crate) fn add(&self, component: ComponentReport) {
        let order = every_component_name();
        let place = |name: &str| order.iter().position(|known| known == name);
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.components.retain(|before| before.name != component.name);
        report.components.push(component);
        report.components.sort_by_key(|component| place(&component.name));
        self.write(&mut report);
    }

    /// A component that it has no longer.
    pub(crate) fn remove(&self, name: &str) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.components.retain(|component| component.name != name);
        self.write(&mut report);
    }

    /// Under the lock, so that an older report never replaces a newer one. Logs the first failure, and the first success
    /// after it.
    fn write(&self, report: &mut StackReport) {
        report.written_at = unix_seconds();
        let (path, draft) = (self.layout.state_file(), self.layout.state_draft_file());
        let done = serde_json::to_vec_pretty(report)
            .map_err(io::Error::from)
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
    pub(crate) async fn write_forever(&self) {
        loop {
            let written = self.written.load(Ordering::Relaxed);
            tokio::time::sleep(if written { REPORT_EVERY } else { REPORT_AGAIN_AFTER }).await;
            self.write(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(crate) fn all_ready(&self, kinds: &[Kind]) -> bool {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report
            .components
            .iter()
            .filter(|component| kinds.contains(&component.kind))
            .all(|component| component.state == ComponentState::Ready)
    }
}

/// The lock of a stack's folder. Whoever has it may change what is in it, and nobody else. It is held until the last process that
/// has a copy of it ends, however that ends.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes it; `None` while another process has it, and while nobody can have it, because the folder is being deleted.
    pub(crate) fn take(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.lock_file();
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        // Its last holder may have deleted it: then the next one locks another file of this name.
        let identity = |of: &fs::Metadata| (of.dev(), of.ino());
        let ours = identity(&file.metadata()?);
        let is_current = fs::metadata(&path).is_ok_and(|there| identity(&there) == ours);
        Ok(is_current.then_some(Self(file)))
    }

    /// The one that whoever started this process has handed over as its standard input.
    pub fn inherited(layout: &Layout) -> Result<Self> {
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let identity = |of: &fs::Metadata| (of.dev(), of.ino());
        let there = fs::metadata(layout.lock_file()).context("there is no lock to inherit")?;
        anyhow::ensure!(identity(&file.metadata()?) == identity(&there), "standard input is not the lock");
        // No-op if it is held already; whoever gave another file away gets nothing.
        file.try_lock().context("the lock that was handed over is not held")?;
        Ok(Self(file))
    }

    /// A copy, as the standard input of a child: the lock is held as long as the child runs, too. A child that survives its
    /// parent, killed with -9, must not write into what the next start makes.
    pub(crate) fn for_child(&self) -> Result<Stdio> {
        Ok(Stdio::from(self.0.try_clone().context("cannot copy the lock")?))
    }
}

/// Whether somebody holds the lock of the folder. Takes nothing away from anybody who wants it.
pub(crate) fn is_locked(layout: &Layout) -> Result<bool> {
    let path = layout.lock_file();
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot ask for the lock of {}", path.display()))
        }
    }
}

/// Deletes what a stack has written, and its folder if nothing else is in it. Returns what is left, because somebody
/// else put it there. Only the holder of the lock may call it.
pub(crate) fn delete(layout: &Layout) -> Result<Vec<PathBuf>> {
    postgres::check_owner(layout)?;
    let content = Content::of(layout, Folder::Marked)?;
    postgres::remove_elsewhere(layout).context("cannot delete the databases")?;
    content.delete()?;
    for file in [layout.state_file(), layout.state_draft_file()] {
        removal::remove(&file)?;
    }
    // Deleted last, so that an interrupted deletion can be run again; but for the lock, without which another start may begin.
    removal::remove(&layout.marker_file())?;
    removal::remove(&layout.lock_file())?;
    match fs::remove_dir(&layout.data_dir) {
        Ok(()) => Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => content.left(layout),
        Err(error) => Err(error).with_context(|| format!("cannot delete {}", layout.data_dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use super::*;

    /// States are written as they are shown, and a report of a newer supervisor can be read.
    #[test]
    fn states_are_words() {
        let all = [
            ComponentState::Ready,
            ComponentState::Degraded,
            ComponentState::Starting,
            ComponentState::Unready,
            ComponentState::Down,
        ];
        for state in all {
            let word = serde_json::to_value(state).expect("JSON");
            assert_eq!(word, state.name());
            assert_eq!(serde_json::from_value::<ComponentState>(word).expect("a state"), state);
        }
        let unknown = serde_json::from_value::<ComponentState>("paused".into());
        assert_eq!(unknown.expect("of a newer one"), ComponentState::Unready);
    }

    /// A report that can't be written is written as soon as possible, even if nothing changes any more; until then the
    /// previous one stays intact. A reader can tell how old it is.
    #[tokio::test]
    async fn a_report_that_could_not_be_written_is_written_later() {
        let folder = std::env::temp_dir().join(format!("holdfast-report-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("created");
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
        let reporter = Arc::new(Reporter::new(layout.clone(), false, vec![component], Vec::new()));
        let restarts = || {
            let report = read(&layout).expect("whole").expect("there");
            report.components[0].restarts
        };
        reporter.change("kafka", |report| report.restarts = 1);
        assert_eq!(restarts(), 1);
        // Blocks the file that is written first.
        fs::create_dir(layout.state_draft_file()).expect("created");
        reporter.change("kafka", |report| report.restarts = 2);
        assert_eq!(restarts(), 1);
        let again = tokio::spawn({
            let reporter = reporter.clone();
            async move { reporter.write_forever().await }
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
