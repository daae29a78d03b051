//! The order process; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_common::service::run_service("order", holdfast_order::start)
}
