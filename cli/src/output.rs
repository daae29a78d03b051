//! Data on stdout. A reader that has seen enough (`holdfast status | head -1`) ends the command quietly; a disk that is
//! full fails it.

use std::{
    fmt,
    io::{self, Write as _},
};

/// Prints a line.
pub(crate) fn line(text: fmt::Arguments<'_>) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

/// `println!` that says when it can't.
macro_rules! data {
    ($($words:tt)*) => { $crate::output::line(format_args!($($words)*)) };
}
pub(crate) use data;
