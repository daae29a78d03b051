//! Messages to whoever has typed the command, on standard error: of the supervisor, of `holdfast`, of a chaos run.

use std::{
    fmt,
    io::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use holdfast_proto::text::on_its_lines;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

static HAS_TIMES: AtomicBool = AtomicBool::new(false);

/// From now on each line of this process begins with its time: it is a log that is read beside others.
pub(crate) fn say_times() {
    HAS_TIMES.store(true, Ordering::Relaxed);
}

/// Writes a line on standard error. Unlike `eprintln!` it doesn't panic when nobody reads it any more or the disk is full: a
/// supervisor that died from its own messages would leave its components behind. What others have written, such as ids and errors of
/// components, is escaped, so that it acts on no terminal.
pub fn line(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    let text = on_its_lines(&text);
    let time = OffsetDateTime::now_utc().format(&Rfc3339).ok().filter(|_| HAS_TIMES.load(Ordering::Relaxed));
    let _ = match time {
        Some(time) => writeln!(io::stderr(), "{time} {text}"),
        None => writeln!(io::stderr(), "{text}"),
    };
}

/// `eprintln!` by [`line`]. Nothing else writes to standard error: the lint `print_stderr` sees to that.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => { $crate::talk::line(format_args!($($words)*)) };
}
