//! The delivery process; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_common::service::run_service("delivery", holdfast_delivery::start)
}
