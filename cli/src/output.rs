//! Data on stdout. A reader that closes the pipe early (`holdfast status | head -1`) ends the command quietly; a full
//! disk fails it. Also how a command ends.
//!
//! Ids, subjects, headers, reasons and errors are text of others: whatever is printed here is escaped, so that nothing of it acts
//! on the operator's terminal. The escapes are those of JSON, so `-o json` means the same with them.

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use holdfast_native::prepare::PORT_TAKEN_EXIT_CODE;
use holdfast_proto::text::on_its_lines;

use crate::colour;

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// The command worked, and its result is a failure.
    Failed,
    /// Some of what was asked for was done.
    Partly,
    /// The request can't have been meant that way: nothing was done.
    Usage,
    /// Nothing matches the request.
    NothingMatched,
    /// A chaos run has proved nothing.
    Unknown,
    /// A test's stack was not started because a port is taken.
    PortTaken,
}

impl Outcome {
    /// Says on stderr if not all that were `asked` for were `done`. `state` is the state in which they had to be.
    pub(crate) fn of_count(done: usize, asked: usize, state: &str) -> Self {
        match done {
            0 => {
                say!("none of them is {state}");
                Self::NothingMatched
            }
            some if some < asked => {
                say!("{some} of {asked} were {state}");
                Self::Partly
            }
            _ => Self::Done,
        }
    }

    /// How a command ended that would have ended so if every service had answered.
    pub(crate) const fn unless_away(self, any_away: bool) -> Self {
        match self {
            Self::Done | Self::NothingMatched if any_away => Self::Partly,
            outcome => outcome,
        }
    }

    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::Failed => ExitCode::from(1),
            Self::Usage => ExitCode::from(2),
            Self::NothingMatched => ExitCode::from(3),
            Self::Partly => ExitCode::from(4),
            Self::Unknown => ExitCode::from(5),
            Self::PortTaken => ExitCode::from(PORT_TAKEN_EXIT_CODE),
        }
    }
}

/// The request can't have been meant that way, which showed only after the command line was read: exit code 2.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// There is nothing such as was asked for: exit code 3.
#[derive(Debug)]
pub(crate) struct NothingMatched(pub(crate) String);

impl fmt::Display for NothingMatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NothingMatched {}

/// Prints data, on one line or several.
pub(crate) fn line(text: fmt::Arguments<'_>) -> io::Result<()> {
    exact_line(&colour::painted(&on_its_lines(&text.to_string())))
}

/// Prints a line without escapes: for what a shell reads, made of the operator's own names.
pub(crate) fn exact_line(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

/// `println!` that returns an error when it can't print.
macro_rules! data {
    ($($words:tt)*) => { $crate::output::line(format_args!($($words)*)) };
}
pub(crate) use data;

/// Says something; a terminal that is gone is no reason to fail.
pub(crate) use holdfast_native::say;
pub(crate) use holdfast_operator::text::{age_text, without_numbers};

/// For snapshots: a document as `-o json` prints it.
#[cfg(test)]
pub(crate) fn json(document: &impl serde::Serialize) -> String {
    on_its_lines(&serde_json::to_string_pretty(document).expect("JSON")).into_owned()
}
