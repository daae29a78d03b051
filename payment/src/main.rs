//! The payment process; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_common::service::run_service("payment", holdfast_payment::start)
}
