//! The deadline of a whole request. It is set once at the edge and travels as remaining time in `grpc-timeout`, down to
//! the last SQL statement: [`crate::client`] sends it, [`crate::grpc`] enforces it, [`crate::database`] ends with it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use tonic::{Request, Status};

/// `grpc-timeout` of the gRPC protocol (PROTOCOL-HTTP2.md): at most 8 digits and a unit.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// For calls that name no deadline, and the longest that a caller may ask for: a call that never ends is a leak.
pub const CALL_TIME_MAX: Duration = Duration::from_secs(10);

/// When an answer is no longer of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// No time is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline has passed")]
pub struct DeadlinePassed;

impl From<DeadlinePassed> for Status {
    fn from(passed: DeadlinePassed) -> Self {
        Self::deadline_exceeded(passed.to_string())
    }
}

/// An invalid `grpc-timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("grpc-timeout is not at most 8 digits and one of H M S m u n")]
pub struct TimeoutMalformed;

impl Deadline {
    /// `time` from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// The same, but `time` earlier: for a part of the work.
    #[must_use]
    pub fn earlier_by(self, time: Duration) -> Self {
        Self(self.0.checked_sub(time).unwrap_or_else(Instant::now))
    }

    /// The deadline of the request that a handler answers. The server column ([`crate::grpc`]) puts it there.
    pub fn of<M>(request: &Request<M>) -> Self {
        request.extensions().get::<Self>().copied().unwrap_or_else(|| Self::after(CALL_TIME_MAX))
    }

    /// What is left; zero when it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// The moment itself, for timers.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// A gRPC request that says how much time is left. Every attempt of it ends with this deadline.
    pub fn request<M>(self, message: M) -> Result<Request<M>, DeadlinePassed> {
        if self.remaining().is_zero() {
            return Err(DeadlinePassed);
        }
        let mut request = Request::new(message);
        request.extensions_mut().insert(self);
        Ok(request)
    }
}

/// The timeout that the headers of a call ask for, if any.
pub fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, TimeoutMalformed> {
    let Some(value) = headers.get(&GRPC_TIMEOUT) else { return Ok(None) };
    let (digits, unit) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_at_checked(text.len().saturating_sub(1)))
        .ok_or(TimeoutMalformed)?;
    // `parse` alone would accept a sign.
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TimeoutMalformed);
    }
    let amount: u64 = digits.parse().map_err(|_| TimeoutMalformed)?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return Err(TimeoutMalformed),
    }))
}

/// Writes how much time a call has into its headers: in microseconds as far as 8 digits go (100 s), then in
/// milliseconds.
pub(crate) fn set_grpc_timeout(headers: &mut HeaderMap, time: Duration) {
    const DIGITS_MAX: u128 = 99_999_999;
    let text = if time.as_micros() <= DIGITS_MAX {
        format!("{}u", time.as_micros())
    } else {
        format!("{}m", time.as_millis().min(DIGITS_MAX))
    };
    // Digits and a letter are always a valid header value.
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request carries its deadline, and none is created once that has passed.
    #[tokio::test(start_paused = true)]
    async fn requests_carry_their_deadline() {
        let deadline = Deadline::after(Duration::from_secs(3));
        tokio::time::advance(Duration::from_secs(1)).await;
        let request = deadline.request(()).expect("two seconds are left");
        assert_eq!(Deadline::of(&request).remaining(), Duration::from_secs(2));
        let inner = deadline.earlier_by(Duration::from_millis(100));
        assert_eq!(inner.remaining(), Duration::from_millis(1900));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(deadline.request(()).err(), Some(DeadlinePassed));
    }

    fn parsed(text: &str) -> Result<Option<Duration>, TimeoutMalformed> {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_str(text).expect("a header value"));
        grpc_timeout(&headers)
    }

    /// What is written is read back, in the unit of the protocol; garbage is refused, not taken for "no limit".
    #[test]
    fn timeouts_are_read_as_the_protocol_says() {
        for (text, time) in [
            ("0n", Duration::ZERO),
            ("2000000u", Duration::from_secs(2)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("7m", Duration::from_millis(7)),
        ] {
            assert_eq!(parsed(text), Ok(Some(time)), "{text}");
        }
        for garbage in ["", "1", "S", "-1S", "+1S", "1.5S", "123456789S", "1 S", "1s", "1h"] {
            assert_eq!(parsed(garbage), Err(TimeoutMalformed), "{garbage:?}");
        }
        for time in [Duration::from_micros(1), Duration::from_secs(3), Duration::from_secs(7200)] {
            let mut headers = HeaderMap::new();
            set_grpc_timeout(&mut headers, time);
            assert_eq!(grpc_timeout(&headers), Ok(Some(time)));
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), Ok(None));
    }
}
