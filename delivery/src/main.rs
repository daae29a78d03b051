//! The delivery process; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_delivery::run()
}
