//! System calls that fail or take long: strace is attached to a component and falsifies what the kernel answers.

use std::{fs, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tempfile::NamedTempFile;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use super::process::{Signal, runs, send, tree};

/// The calls by which PostgreSQL and Kafka make sure that what they wrote is on the disk.
const CALLS: &str = "fsync,fdatasync";
const ATTACH_TIME_MAX: Duration = Duration::from_secs(10);
/// Time for strace to let go of its victims one by one.
const DETACH_TIME_MAX: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What happens to each `fsync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injection {
    /// It fails with EIO, and nothing is written.
    Error,
    /// It takes this much longer.
    Delay(Duration),
}

impl Injection {
    fn argument(self) -> String {
        match self {
            Self::Error => format!("inject={CALLS}:error=EIO"),
            Self::Delay(time) => format!("inject={CALLS}:delay_enter={}", time.as_micros()),
        }
    }

    /// How strace marks a call that it has falsified.
    const fn mark(self) -> &'static str {
        match self {
            Self::Error => "(INJECTED)",
            Self::Delay(_) => "(DELAYED)",
        }
    }
}

/// A process whose calls are falsified, and which is left alone when this is dropped, whatever ends its owner.
#[derive(Debug)]
pub struct Tracer {
    strace: Child,
    pid: u32,
    injection: Injection,
    trace: NamedTempFile,
}

impl Tracer {
    /// Attaches to the process `pid`, its children, and those that they will start. Returns when it is.
    pub async fn attach(pid: u32, injection: Injection) -> Result<Self> {
        let trace = NamedTempFile::new()?;
        // If this process is killed, strace ends as well, which leaves its victims alone.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--", "strace", "-qq", "-f", "-e"]);
        command.args([&format!("trace={CALLS}"), "-e", &injection.argument(), "-o"]).arg(trace.path());
        for pid in tree(pid) {
            command.args(["-p", &pid.to_string()]);
        }
        // It says which of the children have ended since.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let strace = command.spawn().context("cannot run strace")?;
        let mut tracer = Self { strace, pid, injection, trace };
        let begin = Instant::now();
        while tracer_of(pid).is_none() {
            ensure!(!tracer.has_ended()?, "strace cannot attach to process {pid}");
            ensure!(begin.elapsed() < ATTACH_TIME_MAX, "strace does not attach to process {pid}");
            sleep(LOOK_EVERY).await;
        }
        Ok(tracer)
    }

    /// Whether strace has ended, which it does with the last of its victims.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.strace.try_wait()?.is_some())
    }

    /// How many calls it has falsified.
    pub fn falsified(&self) -> Result<usize> {
        let trace = fs::read(self.trace.path())?;
        Ok(count(&String::from_utf8_lossy(&trace), self.injection))
    }

    /// Leaves the process alone, and returns how many calls were falsified.
    pub async fn detach(mut self) -> Result<usize> {
        if let Some(strace) = self.strace.id() {
            // Fails if it has ended since.
            let _ = send(strace, Signal::Terminate);
        }
        // It waits forever for a victim that has just called vfork: that one waits for its child, and the child for strace. If strace
        // is killed, the kernel lets go of all of them.
        match tokio::time::timeout(DETACH_TIME_MAX, self.strace.wait()).await {
            Ok(ended) => drop(ended?),
            Err(_) => self.strace.kill().await.context("strace does not end")?,
        }
        ensure!(tracer_of(self.pid).is_none(), "process {} is still traced", self.pid);
        self.falsified()
    }
}

fn count(trace: &str, injection: Injection) -> usize {
    trace.lines().filter(|line| line.ends_with(injection.mark())).count()
}

/// The process that traces another one (proc(5)).
fn tracer_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()?;
    (tracer != 0).then_some(tracer)
}

/// Why no process can be traced here, if none can.
pub async fn unavailable() -> Option<String> {
    let victim = Command::new("sleep").arg("60").kill_on_drop(true).spawn();
    let pid = victim.as_ref().ok().and_then(Child::id)?;
    let tried = async { Tracer::attach(pid, Injection::Error).await?.detach().await };
    let reason = tried.await.err()?;
    let is_there = Command::new("strace").arg("-V").output().await.is_ok();
    // It was not strace's doing if the victim ended.
    (runs(pid) || !is_there).then(|| {
        if is_there {
            format!("{reason:#}: tracing takes root, or kernel.yama.ptrace_scope=0")
        } else {
            "there is no strace (Debian: apt-get install strace)".to_owned()
        }
    })
}

#[cfg(test)]
mod tests {
    use holdfast_testkit::skipped;

    use super::*;

    /// Only calls that were falsified count, and each kind by its own mark.
    #[test]
    fn falsified_calls_are_counted() {
        let trace = "2854  fsync(3)                          = -1 EIO (Input/output error) (INJECTED)
2854  fdatasync(3)                      = -1 EIO (Input/output error)
2855  fsync(3)                          = 0 (DELAYED)
2855  fsync(3 <detached ...>\n";
        assert_eq!(count(trace, Injection::Error), 1);
        assert_eq!(count(trace, Injection::Delay(Duration::from_millis(1))), 1);
        assert_eq!(count("", Injection::Error), 0);
    }

    /// A process whose calls fail is left alone afterwards. Where that can't be, the reason is said.
    #[tokio::test]
    async fn calls_fail_for_a_while() {
        if let Some(reason) = unavailable().await {
            assert!(!reason.is_empty());
            skipped(&reason);
            return;
        }
        let file = NamedTempFile::new().expect("a file");
        let script = "while :; do sync \"$0\" || echo failed; sleep 0.02; done";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).arg(file.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = shell.kill_on_drop(true).spawn().expect("started");
        let pid = shell.id().expect("runs");
        let tracer = Tracer::attach(pid, Injection::Error).await.expect("attached");
        let begin = Instant::now();
        while tracer.falsified().expect("readable") == 0 {
            assert!(begin.elapsed() < Duration::from_secs(30), "no call failed");
            sleep(LOOK_EVERY).await;
        }
        assert!(tracer.detach().await.expect("detached") > 0);
        assert!(runs(pid) && tracer_of(pid).is_none());
        let tracer = Tracer::attach(pid, Injection::Error).await.expect("attached again");
        drop(tracer);
        let begin = Instant::now();
        while tracer_of(pid).is_some() {
            assert!(begin.elapsed() < Duration::from_secs(10), "left alone however it ended");
            sleep(LOOK_EVERY).await;
        }
        shell.kill().await.expect("ended");
    }
}
