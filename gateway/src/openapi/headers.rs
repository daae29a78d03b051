//! The header fields of answers that more than one operation has.

use utoipa::openapi::{
    Components, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, Type, path::Operation,
};

pub(super) const RETRY_AFTER: &str = "Retry-After";
pub(super) const WWW_AUTHENTICATE: &str = "WWW-Authenticate";
const REQUEST_ID: &str = "X-Request-Id";
const RATE_LIMIT: &str = "RateLimit";
const RATE_LIMIT_POLICY: &str = "RateLimit-Policy";

/// Short, because a page repeats them with every answer: the text at the beginning of the document says more.
const ALL: [(&str, Type, &str); 5] = [
    (REQUEST_ID, Type::String, "That of the request, or else its trace id."),
    (RATE_LIMIT, Type::String, "How the quota stands."),
    (RATE_LIMIT_POLICY, Type::String, "The quota."),
    (RETRY_AFTER, Type::Integer, "In how many seconds to try again."),
    (WWW_AUTHENTICATE, Type::String, "`Bearer`, and an error code."),
];

/// Describes them.
pub(super) fn add(components: &mut Components) {
    for (name, kind, description) in ALL {
        let schema = ObjectBuilder::new().schema_type(kind);
        let header = HeaderBuilder::new().description(Some(description)).schema(Some(schema)).build();
        components.headers.insert(name.to_owned(), header.into());
    }
}

/// Adds to the answers of an operation those that every answer has. Failures have theirs already.
pub(super) fn complete(operation: &mut Operation) {
    let has_subject = operation.security.is_some();
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            refer(response, &[REQUEST_ID]);
            if has_subject {
                refer(response, &[RATE_LIMIT, RATE_LIMIT_POLICY]);
            }
        }
    }
}

/// Adds those that every failure may have.
pub(super) fn refer_of_failure(response: &mut Response) {
    refer(response, &[REQUEST_ID, RATE_LIMIT, RATE_LIMIT_POLICY]);
}

/// Lets an answer have these.
pub(super) fn refer(response: &mut Response, names: &[&str]) {
    for name in names {
        let reference = Ref::new(format!("#/components/headers/{name}"));
        response.headers.insert((*name).to_owned(), RefOr::Ref(reference));
    }
}
