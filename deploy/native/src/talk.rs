//! Messages of the supervisor.

/// A line on standard error. Unlike `eprintln!` it doesn't panic when nobody reads it any more or the disk is full: a
/// supervisor that died from its own messages would leave its components behind. What others have written, such as errors of
/// components, is escaped.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let said = format!($($words)*);
        let _ = writeln!(std::io::stderr(), "{}", holdfast_proto::text::on_its_lines(&said));
    }};
}
pub(crate) use say;
