//! Data on stdout. A reader that has seen enough (`holdfast status | head -1`) ends the command quietly; a disk that is
//! full fails it. Questions on the terminal.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
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

/// Asks on the terminal. Without one it is an error: nothing is destroyed because nobody was there to say no.
pub(crate) fn confirmed(question: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        anyhow::bail!("not a terminal: pass --yes");
    }
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    let confirmed = ["y", "yes"].contains(&answer.trim().to_lowercase().as_str());
    if !confirmed {
        eprintln!("nothing was done");
    }
    Ok(confirmed)
}
