//! `holdfast`: the operator's one command. It is thin: what it does is in the crates that it calls.
//!
//! Each command is a file in `commands` with its arguments and what it does. Data goes to stdout, talk to stderr. Exit
//! codes: 0 done, 1 failed, 2 usage, 3 nothing matched, 4 partly done.

#![warn(clippy::print_stderr)]

mod commands;
mod consent;
mod environment;
mod examine;
mod options;
mod output;
mod runtime;
mod services;
mod target;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    commands::Command,
    output::{Outcome, UsageError, say},
};

/// Runs and operates Holdfast.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    if let Err(error) = environment::without_foreign() {
        say!("holdfast: cannot leave behind variables of other programs: {error}");
        return Outcome::Failed.exit_code();
    }
    // clap ends the process with 2 on a wrong command line.
    match Arguments::parse().command.run() {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => {
            say!("holdfast: {error:#}");
            let outcome = if error.is::<UsageError>() { Outcome::Usage } else { Outcome::Failed };
            outcome.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// The command line is consistent in itself.
    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
