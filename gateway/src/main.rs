//! The gateway process; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_common::service::run_service("gateway", holdfast_gateway::start)
}
