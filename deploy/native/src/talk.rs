//! Messages of the supervisor.

/// A line on standard error. Unlike `eprintln!` it doesn't panic when nobody reads it any more or the disk is full: a
/// supervisor that died from its own messages would leave its components behind.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}
pub(crate) use say;
