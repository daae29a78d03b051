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
        let state = |pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(") ").next().unwrap_or_default().chars().next()
        };
        let until = |condition: &dyn Fn() -> bool| {
            (0..1_000).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                condition()
            })
        };
        assert!(until(&|| !children(shell.id()).is_empty()), "it has a child");
        let child = children(shell.id())[0];
        send_to_tree(shell.id(), Signal::Stop).expect("sent");
        assert!(until(&|| state(shell.id()) == Some('T') && state(child) == Some('T')), "both are stopped");
        send_to_tree(shell.id(), Signal::Continue).expect("sent");
        assert!(until(&|| state(shell.id()) != Some('T') && state(child) != Some('T')), "both go on");
        send_to_tree(shell.id(), Signal::Kill).expect("sent");
        shell.wait().expect("ended");
        assert!(send(u32::MAX / 2, Signal::Kill).is_err());
    }
}
