//! `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::bucket::Standing;

const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// What a quota says: the same in each answer.
pub(super) fn policy(policy: &str, burst: u32, window: Duration) -> HeaderValue {
    value(format!("\"{policy}\";q={burst};w={}", seconds(window).max(1)))
}

/// Tells the client its quota and how it stands.
pub(super) fn write(headers: &mut HeaderMap, policy: HeaderValue, standing: &Standing) {
    let Standing { policy: name, remaining, reset, .. } = *standing;
    headers.insert(RATE_LIMIT_POLICY, policy);
    headers.insert(RATE_LIMIT, value(format!("\"{name}\";r={remaining};t={}", seconds(reset))));
}

/// Names, digits and punctuation are always a value.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
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
        let standing = Standing { policy: "reads", burst: 100, window, remaining: 99, reset };
        write(&mut headers, policy("reads", 100, window), &standing);
        assert_eq!(headers["ratelimit-policy"], "\"reads\";q=100;w=2");
        assert_eq!(headers["ratelimit"], "\"reads\";r=99;t=1");
    }
}
