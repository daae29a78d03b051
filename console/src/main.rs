//! The console process; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_console::run()
}
