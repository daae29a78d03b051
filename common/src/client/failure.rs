//! What a failed call means. A transport's failure is never the service's answer, so it gets a code of its own.

use std::error::Error as StdError;

use tonic::{Code, Status, TimeoutExpired, transport};

/// Gives every failure of the transport the code that callers act on: `DEADLINE_EXCEEDED` if time ran out,
/// `UNAVAILABLE` for anything else below the service (refused, reset, GOAWAY race, handshake). Answers of the service
/// pass unchanged.
#[must_use]
pub fn from_service(status: Status) -> Status {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return with_code(Code::DeadlineExceeded, "deadline exceeded", &status);
        }
        if error.is::<transport::Error>() || error.is::<hyper::Error>() {
            // A timeout may hide deeper in the chain.
            let mut deeper: Option<&(dyn StdError + 'static)> = Some(error);
            while let Some(error) = deeper {
                if error.is::<TimeoutExpired>() {
                    return with_code(Code::DeadlineExceeded, "deadline exceeded", &status);
                }
                deeper = error.source();
            }
            return with_code(Code::Unavailable, "service cannot be reached", &status);
        }
        cause = error.source();
    }
    // tonic reports its own expired timeout without a source.
    if status.code() == Code::Cancelled && status.message().contains("Timeout expired") {
        return with_code(Code::DeadlineExceeded, "deadline exceeded", &status);
    }
    status
}

fn with_code(code: Code, text: &str, original: &Status) -> Status {
    Status::new(code, format!("{text}: {}", original.message()))
}

#[cfg(test)]
mod tests {

    use super::*;

    /// Time that ran out is a deadline, and an answer of the service is left alone.
    #[test]
    fn time_is_a_deadline_and_answers_are_left_alone() {
        assert_eq!(from_service(Status::cancelled("Timeout expired")).code(), Code::DeadlineExceeded);
        for code in [Code::NotFound, Code::Internal, Code::Unavailable, Code::Cancelled] {
            assert_eq!(from_service(Status::new(code, "said so")).code(), code);
        }
    }
}
