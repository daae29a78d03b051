//! How a problem becomes a response: `application/problem+json`.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use holdfast_common::planted::{Bug, planted};
use serde::Serialize;
use utoipa::ToSchema;

use super::{FieldError, Problem, ProblemType};

/// Why there is no other answer (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Document<'a> {
    /// Says what kind of problem it is, and never means anything else.
    #[schema(format = "uri")]
    r#type: String,
    /// The name of the status.
    title: &'static str,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// A sentence about this occurrence.
    detail: &'a str,
    /// The trace id of the request, for a question to the operators.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    instance: &'a str,
    /// Everything that is wrong with the content.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [FieldError],
}

impl IntoResponse for Problem {
    /// A response without a body: [`render`] adds it later, because it knows the trace id.
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the body of a response that is a problem. What a library refused on its own becomes a problem here too.
pub(crate) fn render(response: &mut Response, trace_id: &impl ToString) {
    let Some(problem) = response.extensions_mut().remove::<Problem>().or_else(|| of_library(response)) else {
        return;
    };
    let document = Document {
        r#type: problem.kind.uri(),
        title: problem.kind.title(),
        status: response.status().as_u16(),
        detail: &problem.detail,
        instance: &trace_id.to_string(),
        errors: &problem.errors,
    };
    // This can't fail: there are only texts and a number to write.
    *response.body_mut() = Body::from(serde_json::to_vec(&document).unwrap_or_default());
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = problem.retry_after_s.filter(|_| !planted(Bug::NoRetryAfter)) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(challenge) = problem.challenge {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
}

/// Returns the problem for a response that is not from our code; `None` if the response is not a refusal.
fn of_library(response: &Response) -> Option<Problem> {
    let status = response.status();
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        return Some(Problem::new(ProblemType::TooLarge, "the body is too large"));
    }
    let refused = status.is_client_error() && !response.headers().contains_key(header::CONTENT_TYPE);
    refused.then(|| Problem::malformed("the request was refused"))
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;

    async fn rendered(mut response: Response) -> (Response, Value) {
        render(&mut response, &"0af7");
        let body = std::mem::take(response.body_mut()).collect().await.expect("in memory").to_bytes();
        (response, serde_json::from_slice(&body).expect("JSON"))
    }

    /// A problem has the members of RFC 9457, the trace as its instance, and its headers.
    #[tokio::test]
    async fn a_problem_has_its_members_and_headers() {
        let problem = Problem::invalid(vec![FieldError::new("/items", "must have 1 to 100 entries")])
            .retry_after(1)
            .challenge("Bearer");
        let (response, body) = rendered(problem.into_response()).await;
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert_eq!(
            body,
            json!({
                "type": "https://holdfast.internal/problems/invalid-content",
                "title": "Unprocessable Entity",
                "status": 422,
                "detail": "the content is not valid",
                "instance": "0af7",
                "errors": [{"pointer": "/items", "detail": "must have 1 to 100 entries"}],
            })
        );
    }

    /// What a library refuses looks like what we refuse.
    #[tokio::test]
    async fn a_refusal_of_a_library_is_a_problem_too() {
        for (status, slug) in [(400, "malformed"), (413, "too-large"), (417, "malformed")] {
            let status = StatusCode::from_u16(status).expect("a status");
            let (response, body) = rendered(status.into_response()).await;
            assert_eq!(response.status(), status);
            assert_eq!(body["type"], format!("https://holdfast.internal/problems/{slug}"));
            assert_eq!(body["status"], status.as_u16());
        }
    }

    /// A response that is not a failure stays as it is.
    #[test]
    fn a_success_stays_as_it_is() {
        let mut response = "pong".into_response();
        render(&mut response, &"0af7");
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    }
}
