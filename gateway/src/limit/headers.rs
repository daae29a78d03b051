//! `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::bucket::Standing;

const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Tells the client its quota and how it stands.
pub(super) fn write(headers: &mut HeaderMap, standing: &Standing) {
    let Standing { policy, burst, window, remaining, reset } = *standing;
    let policy_text = format!("\"{policy}\";q={burst};w={}", seconds(window).max(1));
    let text = format!("\"{policy}\";r={remaining};t={}", seconds(reset));
    // Names, digits and punctuation are always a value.
    if let (Ok(policy), Ok(standing)) = (HeaderValue::try_from(policy_text), HeaderValue::try_from(text)) {
        headers.insert(RATE_LIMIT_POLICY, policy);
        headers.insert(RATE_LIMIT, standing);
    }
}

/// Whole seconds, rounded up: who waits that long has waited long enough.
pub(super) fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_written_as_the_draft_says() {
        let mut headers = HeaderMap::new();
        let (window, reset) = (Duration::from_secs(2), Duration::from_millis(20));
        write(&mut headers, &Standing { policy: "reads", burst: 100, window, remaining: 99, reset });
        assert_eq!(headers["ratelimit-policy"], "\"reads\";q=100;w=2");
        assert_eq!(headers["ratelimit"], "\"reads\";r=99;t=1");
    }
}
