//! `holdfast`: the operator's one command. It is thin: what it does is in the crates that it calls.
//!
//! Each command is a file in `commands` with its arguments and what it does. Data goes to stdout, talk to stderr. Exit
//! codes: 0 done, 1 failed, 2 usage, 3 nothing matched, 4 partly done.

#![warn(clippy::print_stderr)]

mod admin;
mod colour;
mod command_line;
mod commands;
mod consent;
#[cfg(test)]
mod documents;
mod environment;
mod examine;
mod examples;
mod options;
mod output;
mod runtime;
mod services;
#[cfg(test)]
#[path = "../tests/snapshot/mod.rs"]
mod snapshot;
mod table;
mod target;

use std::process::ExitCode;

use clap::{FromArgMatches as _, Parser};

use crate::{
    colour::Choice,
    commands::Command,
    output::{NothingMatched, Outcome, UsageError, say, without_numbers},
};

/// Runs and operates Holdfast.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, arg_required_else_help = true)]
struct Arguments {
    /// Whether states have colours; `auto` is on a terminal, unless `NO_COLOR` is set
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Choice::Auto)]
    color: Choice,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    if let Err(error) = environment::without_foreign() {
        say!("holdfast: cannot leave behind variables of other programs: {error}");
        return Outcome::Failed.exit_code();
    }
    // clap ends the process with 2 on a wrong command line.
    let matches = command_line::command().get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    colour::choose(arguments.color);
    match arguments.command.run() {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => {
            say!("holdfast: {}", without_numbers(&format!("{error:#}")));
            let outcome = match error {
                error if error.is::<UsageError>() => Outcome::Usage,
                error if error.is::<NothingMatched>() => Outcome::NothingMatched,
                _ => Outcome::Failed,
            };
            outcome.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The command line is consistent in itself.
    #[test]
    fn the_command_line_is_consistent() {
        command_line::command().debug_assert();
    }
}
