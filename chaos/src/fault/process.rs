//! Signals to processes.

use std::fs;

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal as Number, kill},
    unistd::Pid,
};

/// What a process is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Terminate,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

impl Signal {
    const fn number(self) -> Number {
        match self {
            Self::Kill => Number::SIGKILL,
            Self::Terminate => Number::SIGTERM,
            Self::Stop => Number::SIGSTOP,
            Self::Continue => Number::SIGCONT,
        }
    }
}

/// Sends a signal to one process. An error if there is none.
pub fn send(pid: u32, signal: Signal) -> Result<()> {
    let process = Pid::from_raw(i32::try_from(pid)?);
    kill(process, signal.number()).with_context(|| format!("cannot send {signal:?} to process {pid}"))
}

/// The same, to its children first: those of a database server have process groups of their own.
pub fn send_to_tree(pid: u32, signal: Signal) -> Result<()> {
    for child in children(pid) {
        // It may have ended since.
        let _ = send(child, signal);
    }
    send(pid, signal)
}

/// A process and its children.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    [vec![pid], children(pid)].concat()
}

/// A process that is stopped, and continues when this is dropped, whatever ends its owner.
#[derive(Debug)]
pub struct Stopped {
    pid: u32,
    send: fn(u32, Signal) -> Result<()>,
}

impl Stopped {
    /// One process alone: its children go on.
    pub fn alone(pid: u32) -> Result<Self> {
        send(pid, Signal::Stop)?;
        Ok(Self { pid, send })
    }

    /// A process and its children.
    pub fn tree(pid: u32) -> Result<Self> {
        send_to_tree(pid, Signal::Stop)?;
        Ok(Self { pid, send: send_to_tree })
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Fails if it has ended meanwhile.
        let _ = (self.send)(self.pid, Signal::Continue);
    }
}

/// The state of a process, a letter of proc(5); `None` if there is none.
#[must_use]
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether a process runs. One that has ended and that nobody has waited for does not.
#[must_use]
pub fn runs(pid: u32) -> bool {
    state(pid).is_some_and(|state| !['Z', 'X'].contains(&state))
}

/// The processes that one has started (proc(5)).
fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A process and its child are stopped and go on; one that is not there is an error.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "this test has no runtime")]
    fn signals_reach_the_children() {
        let mut shell = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().expect("started");
        let until = |condition: &dyn Fn() -> bool| {
            (0..1_000).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                condition()
            })
        };
        assert!(until(&|| !children(shell.id()).is_empty()), "it has a child");
        let child = children(shell.id())[0];
        let stopped = Stopped::tree(shell.id()).expect("sent");
        assert!(until(&|| state(shell.id()) == Some('T') && state(child) == Some('T')), "both are stopped");
        drop(stopped);
        assert!(until(&|| state(shell.id()) != Some('T') && state(child) != Some('T')), "both go on");
        send_to_tree(shell.id(), Signal::Kill).expect("sent");
        assert!(until(&|| !runs(shell.id())), "a zombie does not run");
        shell.wait().expect("ended");
        assert!(send(u32::MAX / 2, Signal::Kill).is_err());
    }
}
