//! Messages to whoever has typed the command, on standard error: of the supervisor, of `holdfast`, of a chaos run.

use std::{
    fmt,
    io::{self, Write as _},
};

use holdfast_proto::text::on_its_lines;

/// Writes a line on standard error. Unlike `eprintln!` it doesn't panic when nobody reads it any more or the disk is full: a
/// supervisor that died from its own messages would leave its components behind. What others have written, such as ids and errors of
/// components, is escaped, so that it acts on no terminal.
pub fn line(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{}", on_its_lines(&text.to_string()));
}

/// `eprintln!` by [`line`]. Nothing else writes to standard error: the lint `print_stderr` sees to that.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => { $crate::talk::line(format_args!($($words)*)) };
}
