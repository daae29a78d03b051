//! Checks the head of a request before anything acts on it.

use axum::{
    extract::Request,
    http::header,
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use crate::problem::Problem;

/// Refuses a head that a proxy before us could read in another way than we do.
pub(crate) async fn refuse_ambiguous(request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Problem::malformed("more than one Host header").into_response();
    }
    if headers.contains_key(header::CONTENT_LENGTH) && headers.contains_key(header::TRANSFER_ENCODING) {
        return Problem::malformed("both Content-Length and Transfer-Encoding").into_response();
    }
    next.run(request).await
}
