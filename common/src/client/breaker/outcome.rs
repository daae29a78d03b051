//! What an answer says about the endpoint that gave it.

use tonic::{Code, Status};

use crate::error::is_caused_by;

/// Three outcomes, because two are not enough: an answer that blames the caller must neither trip a breaker (pitfalls
/// P4) nor close one (P3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint did its work.
    Success,
    /// The endpoint could not do its work.
    Failure,
    /// Says nothing about the endpoint.
    Neutral,
}

/// The attempt had so little time that its failure says nothing about the endpoint. Carried as the source of a
/// `Status`.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the attempt had hardly any time")]
pub(crate) struct CutShort;

impl Outcome {
    /// The one table from status codes to outcomes.
    #[must_use]
    pub fn of<T>(answer: &Result<T, Status>) -> Self {
        let Err(status) = answer else { return Self::Success };
        match status.code() {
            Code::Ok => Self::Success,
            Code::DeadlineExceeded if is_caused_by::<CutShort>(status) => Self::Neutral,
            Code::Unavailable | Code::DeadlineExceeded | Code::Internal | Code::Unknown | Code::DataLoss => {
                Self::Failure
            }
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Aborted
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
            // An overloaded service says so, and a breaker would turn "a little less" into "nothing at all".
            | Code::ResourceExhausted
            // The caller went away.
            | Code::Cancelled => Self::Neutral,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Each code counts as the table above says, whatever its message.
    #[test]
    fn each_code_counts_as_designed() {
        let failures =
            [Code::Unavailable, Code::DeadlineExceeded, Code::Internal, Code::Unknown, Code::DataLoss];
        for number in 1..=16 {
            let code = Code::from_i32(number);
            let expected = if failures.contains(&code) { Outcome::Failure } else { Outcome::Neutral };
            assert_eq!(Outcome::of(&Err::<(), _>(Status::new(code, "said so"))), expected, "{code:?}");
        }
        assert_eq!(Outcome::of(&Ok(())), Outcome::Success);
    }

    /// An attempt that began a moment before the deadline doesn't count against its endpoint.
    #[test]
    fn an_attempt_without_time_says_nothing() {
        let mut status = Status::deadline_exceeded("deadline has passed");
        status.set_source(Arc::new(CutShort));
        assert_eq!(Outcome::of(&Err::<(), _>(status)), Outcome::Neutral);
    }
}
