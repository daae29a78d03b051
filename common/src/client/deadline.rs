//! The deadline of a whole request. It is set once at the edge and travels as remaining time in `grpc-timeout`.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Request;

/// When an answer is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// No time is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline has passed")]
pub struct DeadlinePassed;

impl Deadline {
    /// `time` from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// What is left; zero when it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// A gRPC request that says how much time is left. tonic enforces it on both sides.
    pub fn request<M>(self, message: M) -> Result<Request<M>, DeadlinePassed> {
        let remaining = self.remaining();
        if remaining.is_zero() {
            return Err(DeadlinePassed);
        }
        let mut request = Request::new(message);
        request.set_timeout(remaining);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request carries what is left, less as time goes by, and none is made once the deadline has passed.
    #[tokio::test(start_paused = true)]
    async fn requests_carry_what_is_left() {
        let deadline = Deadline::after(Duration::from_secs(3));
        tokio::time::advance(Duration::from_secs(1)).await;
        let request = deadline.request(()).expect("two seconds are left");
        assert_eq!(request.metadata().get("grpc-timeout").expect("is set"), "2000000u");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(deadline.request(()).err(), Some(DeadlinePassed));
    }
}
