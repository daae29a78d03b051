//! The one list of what can go wrong for a client. A new problem is a new row here.

use axum::http::StatusCode;

/// The URI of a type is this and its slug.
const URI_PREFIX: &str = "https://holdfast.internal/problems/";

/// Makes the enum and its methods from one row per type: what it means, its status, its slug.
macro_rules! problem_types {
    ($($(#[doc = $doc:literal])+ $variant:ident = $status:ident $slug:literal,)+) => {
        /// The type of a problem. Clients distinguish problems by it, so a slug must never change its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum ProblemType {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl ProblemType {
            /// All of them, in the order of this list.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant),+];

            /// The last part of the type's URI.
            pub(crate) const fn slug(self) -> &'static str {
                match self {
                    $(Self::$variant => $slug,)+
                }
            }

            /// The status of a response with this problem.
            pub(crate) const fn status(self) -> StatusCode {
                match self {
                    $(Self::$variant => StatusCode::$status,)+
                }
            }

            /// What it means, for the author of a client.
            pub(crate) const fn doc(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

problem_types! {
    /// The request can't be read: its head is ambiguous, or its body is not JSON.
    Malformed = BAD_REQUEST "malformed",
    /// `Idempotency-Key` is sent more than once, is too long, or has characters that it must not have.
    IdempotencyKeyInvalid = BAD_REQUEST "idempotency-key-invalid",
    /// The operation needs an `Idempotency-Key`.
    IdempotencyKeyRequired = BAD_REQUEST "idempotency-key-required",
    /// There is no valid access token. The reason is not given.
    InvalidToken = UNAUTHORIZED "invalid-token",
    /// The token is valid but lacks the scope of the operation.
    InsufficientScope = FORBIDDEN "insufficient-scope",
    /// The request is about a user other than the token's.
    ForeignUser = FORBIDDEN "foreign-user",
    /// It does not exist or belongs to somebody else. The two look the same.
    NotFound = NOT_FOUND "not-found",
    /// It does not exist yet. Ask again after `Retry-After`.
    NotYet = NOT_FOUND "not-yet",
    /// The path has no such method.
    MethodNotAllowed = METHOD_NOT_ALLOWED "method-not-allowed",
    /// The body did not arrive in time.
    SlowBody = REQUEST_TIMEOUT "slow-body",
    /// The head of the request did not arrive in time.
    SlowHead = REQUEST_TIMEOUT "slow-head",
    /// A request with the same `Idempotency-Key` is still running. Send it again after `Retry-After`.
    IdempotencyKeyInUse = CONFLICT "idempotency-key-in-use",
    /// The body is too long.
    TooLarge = PAYLOAD_TOO_LARGE "too-large",
    /// The body is not `application/json`, or it is encoded.
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE "unsupported-media-type",
    /// The request can be read, but its content is not valid. `errors` names everything that is wrong.
    InvalidContent = UNPROCESSABLE_ENTITY "invalid-content",
    /// The `Idempotency-Key` was used before, for a request with different content.
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY "idempotency-key-reused",
    /// The client sends more than its quota allows. Try again after `Retry-After`; `RateLimit` says how it stands.
    RateLimited = TOO_MANY_REQUESTS "rate-limited",
    /// The client has too many requests in progress at the same time. Wait for their responses.
    TooManyInFlight = TOO_MANY_REQUESTS "too-many-in-flight",
    /// The user has as many open streams as a user may have. Close one, or try again after `Retry-After`.
    TooManyStreams = TOO_MANY_REQUESTS "too-many-streams",
    /// The head of the request is too long, or has too many fields.
    HeadTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE "head-too-large",
    /// A defect on our side.
    Internal = INTERNAL_SERVER_ERROR "internal",
    /// A service is overloaded or can't be reached, or there are too many connections. Try again after `Retry-After`.
    Unavailable = SERVICE_UNAVAILABLE "unavailable",
    /// The request could not be answered in time. It may still have an effect.
    Deadline = GATEWAY_TIMEOUT "deadline",
}

impl ProblemType {
    /// The `type` of a problem document.
    pub(crate) fn uri(self) -> String {
        format!("{URI_PREFIX}{}", self.slug())
    }

    /// The `title` of a problem document, the same for all problems of this type.
    pub(crate) fn title(self) -> &'static str {
        self.status().canonical_reason().unwrap_or("Error")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// No two types share a slug, and each has the status of a failure, a title and an explanation.
    #[test]
    fn no_two_types_share_a_slug() {
        let mut slugs = HashSet::new();
        for problem in ProblemType::ALL {
            let slug = problem.slug();
            assert!(slugs.insert(slug), "{slug} twice");
            assert!(slug.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{slug}");
            assert!(problem.uri().ends_with(&format!("/problems/{slug}")));
            assert!(problem.status().is_client_error() || problem.status().is_server_error(), "{slug}");
            assert_ne!(problem.title(), "Error", "{slug}");
            assert!(problem.doc().ends_with('.') && !problem.doc().starts_with(' '), "{slug}");
        }
        assert_eq!(slugs.len(), 23);
    }
}
