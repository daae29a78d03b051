//! `holdfast`: the operator's one command. It is thin: what it does is in the crates that it calls.
//!
//! Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 nothing matched, 4 partly
//! done.

mod arguments;
mod bench;
mod certs;
mod dlq;
mod logs;
mod outbox;
mod output;
mod positions;
mod stack;

use std::process::ExitCode;

use clap::Parser as _;
use holdfast_native::prepare::PORT_TAKEN_EXIT_CODE;

use crate::arguments::{Arguments, Command};

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// It did what it could, and the answer is no.
    Failed,
    /// Some of what was asked for was done.
    Partly,
    /// What was asked for can't be meant: nothing was done.
    Usage,
    /// There is nothing of what was asked for.
    NothingMatched,
    /// A test's stack was not started, because a port is taken.
    PortTaken,
}

fn main() -> ExitCode {
    // clap ends the process with 2 on a wrong command line.
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Up(up) => stack::up(&up),
        Command::Down(down) => stack::down(&down),
        Command::Status(status) => stack::status(&status),
        Command::Logs(logs) => logs::run(&logs),
        Command::Env(at) => stack::env(&at),
        Command::Token(token) => stack::token(&token),
        Command::Certs(action) => certs::run(&action),
        Command::Dlq(action) => dlq::run(&action),
        Command::Outbox(action) => outbox::run(&action),
        Command::Positions(arguments) => positions::run(&arguments),
        Command::Bench(bench) => bench::run(&bench),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(1),
        Ok(Outcome::Usage) => ExitCode::from(2),
        Ok(Outcome::NothingMatched) => ExitCode::from(3),
        Ok(Outcome::Partly) => ExitCode::from(4),
        Ok(Outcome::PortTaken) => ExitCode::from(PORT_TAKEN_EXIT_CODE),
        Err(error) => {
            eprintln!("holdfast: {error:#}");
            ExitCode::from(1)
        }
    }
}
