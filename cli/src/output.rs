//! Data on stdout. A reader that closes the pipe early (`holdfast status | head -1`) ends the command quietly; a full
//! disk fails it. Also how a command ends.
//!
//! Ids, subjects, headers, reasons and errors are text of others: whatever is printed here is escaped, so that nothing of it acts
//! on the operator's terminal. The escapes are those of JSON, so `-o json` means the same with them.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use comfy_table::{ContentArrangement, presets::NOTHING};
use holdfast_native::prepare::PORT_TAKEN_EXIT_CODE;
use holdfast_proto::text::{on_its_lines, on_one_line};

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
    /// Prints the ids of what was done, and says on stderr if these are not all that were `asked` for. `state` is the
    /// state in which they had to be.
    pub(crate) fn of_ids(done: &[impl fmt::Display], asked: usize, state: &str) -> io::Result<Self> {
        for id in done {
            data!("{id}")?;
        }
        Ok(match done.len() {
            0 => {
                say!("none of them is {state}");
                Self::NothingMatched
            }
            some if some < asked => {
                say!("{some} of {asked} were {state}");
                Self::Partly
            }
            _ => Self::Done,
        })
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

/// Prints data, on one line or several.
pub(crate) fn line(text: fmt::Arguments<'_>) -> io::Result<()> {
    exact_line(&on_its_lines(&text.to_string()))
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

/// A table, each row on a line of its own whatever its cells hold.
pub(crate) struct Table(comfy_table::Table);

impl Table {
    pub(crate) fn add_row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cells: Vec<String> =
            cells.into_iter().map(|cell| on_one_line(cell.as_ref()).into_owned()).collect();
        self.0.add_row(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A table that is as wide as its content.
pub(crate) fn wide_table(header: &[&str]) -> Table {
    let mut table = comfy_table::Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    Table(table)
}

/// A table that fits the terminal; elsewhere as wide as its content.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = wide_table(header);
    if io::stdout().is_terminal() {
        table.0.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What strangers have written stays in its cell, and acts on no terminal.
    #[test]
    fn a_cell_stays_a_cell() {
        let mut table = wide_table(&["ID", "KEY"]);
        table.add_row(["1", "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}1;1H\r\nSTATE  redriven \u{202e}"]);
        let shown = table.to_string();
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(!shown.chars().any(|c| c != '\n' && c.is_control()), "{shown:?}");
        assert!(
            shown.contains(r"\u001b]0;owned\u0007\u001b[2J\u009b1;1H\r\nSTATE  redriven \u202e"),
            "{shown}"
        );
    }
}
