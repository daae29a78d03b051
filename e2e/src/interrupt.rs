//! Ctrl-C, as a terminal sends it to a command.

use std::{
    fs,
    process::{Child, Output},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::eventually;

/// Presses it once the command listens for it, and returns what the command has said when it has ended.
pub async fn interrupted(mut command: Child) -> Output {
    let pid = command.id();
    eventually("it listens for Ctrl-C", || std::future::ready(listens(pid))).await;
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGINT).expect("sent");
    eventually("it ends", || std::future::ready(command.try_wait().expect("asked").is_some())).await;
    command.wait_with_output().expect("it has ended")
}

/// Whether a process has a handler for the signal (proc(5)): without one it would just end.
fn listens(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("there");
    let caught = u64::from_str_radix(caught.trim(), 16).expect("a mask");
    caught & (1 << (Signal::SIGINT as i32 - 1)) != 0
}
