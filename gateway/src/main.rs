//! The gateway process; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_gateway::run()
}
