//! `/openapi.json`, and `/docs`: Swagger UI, whose files `build.rs` takes out of their crate. No token is needed for them; the page
//! sends the one that it is given.

use std::sync::LazyLock;

use axum::{
    Router,
    body::Bytes,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};

use crate::state::Gateway;

/// The page may load what it is made of from here, send requests to here, and nothing else. The icons of
/// Swagger UI are data in its style sheet.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                                       connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    // There are only texts, numbers and lists to write.
    super::document().to_json().unwrap_or_default().into()
});

/// The document and its page.
pub(crate) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/openapi.json", get(async || file("application/json", DOCUMENT.clone())))
        .route("/docs", get(page))
        .route("/docs/start.js", get(async || script(include_bytes!("page/start.js"))))
        .route("/docs/style.css", get(async || style(include_bytes!("page/style.css"))))
        .route(
            "/docs/swagger-ui.css",
            get(async || style(include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.css")))),
        )
        .route(
            "/docs/swagger-ui-bundle.js",
            get(async || script(include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js")))),
        )
}

async fn page() -> Response {
    let mut response =
        file("text/html; charset=utf-8", Bytes::from_static(include_bytes!("page/index.html")));
    let policy = header::HeaderValue::from_static(CONTENT_SECURITY_POLICY);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

fn script(text: &'static [u8]) -> Response {
    file("text/javascript; charset=utf-8", Bytes::from_static(text))
}

fn style(text: &'static [u8]) -> Response {
    file("text/css; charset=utf-8", Bytes::from_static(text))
}

fn file(media_type: &'static str, bytes: Bytes) -> Response {
    ([(header::CONTENT_TYPE, media_type)], bytes).into_response()
}
