//! What a failed call means. A transport's failure is never the service's answer, so it gets a code of its own.

use tonic::{Status, TimeoutExpired};

use crate::{
    deadline::DeadlinePassed,
    error::{BoxError, causes, is_caused_by},
};

/// Gives a failure below the service the code that callers act on: `DEADLINE_EXCEEDED` if time ran out, `UNAVAILABLE`
/// for everything else (refused, reset, handshake, an answer cut off, a call that raced with a graceful GOAWAY).
///
/// tonic reports these as CANCELLED, UNKNOWN or INTERNAL, partly by chance.
pub(super) fn of_transport(error: BoxError) -> Status {
    if is_caused_by::<TimeoutExpired>(error.as_ref()) {
        return DeadlinePassed.into();
    }
    let mut status =
        Status::unavailable(format!("endpoint cannot be reached: {}", innermost(error.as_ref())));
    status.set_source(error.into());
    status
}

/// The innermost cause says most: "connection refused" rather than "transport error".
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io;

    use tonic::Code;

    use super::*;

    /// Whatever happens below the service is UNAVAILABLE, with the cause in its text.
    #[test]
    fn the_transports_failures_are_unavailable() {
        for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset] {
            let status = of_transport(Box::new(io::Error::from(kind)));
            assert_eq!(status.code(), Code::Unavailable);
            assert!(status.message().contains("connection"), "{status}");
        }
        // tonic turns errors of the connection into an INTERNAL or UNKNOWN of its own.
        for status in [Status::internal("h2 protocol error"), Status::unknown("transport error")] {
            assert_eq!(of_transport(Box::new(status)).code(), Code::Unavailable);
        }
    }
}
