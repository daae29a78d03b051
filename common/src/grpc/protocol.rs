//! Lets only gRPC pass. The library answers whatever comes with a known path: another method, another media type, which it then
//! reads as protobuf all the same.

use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tonic::body::Body;
use tower::{Layer, Service};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProtocolLayer;

impl<S> Layer<S> for ProtocolLayer {
    type Service = OnlyGrpc<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OnlyGrpc { inner }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct OnlyGrpc<S> {
    inner: S,
}

/// gRPC over HTTP/2 is `POST`, and what is not its media type is 415 without a status of gRPC: who sends it would not look for one.
fn refusal<B>(request: &Request<B>) -> Option<StatusCode> {
    if request.method() != Method::POST {
        return Some(StatusCode::METHOD_NOT_ALLOWED);
    }
    (!is_grpc(request.headers())).then_some(StatusCode::UNSUPPORTED_MEDIA_TYPE)
}

/// `application/grpc` or `application/grpc+proto`, once. Others that begin alike, such as `application/grpc-web`, frame differently.
fn is_grpc(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter().map(HeaderValue::as_bytes);
    let (Some(media_type), None) = (types.next(), types.next()) else { return false };
    let essence = media_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    [&b"application/grpc"[..], b"application/grpc+proto"]
        .iter()
        .any(|known| essence.eq_ignore_ascii_case(known))
}

impl<S, B> Service<Request<B>> for OnlyGrpc<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(status) = refusal(&request) else { return Either::Left(self.inner.call(request)) };
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        Either::Right(ready(Ok(response)))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt as _, service_fn};

    use super::*;

    async fn answer(_: Request<()>) -> Result<Response<Body>, Infallible> {
        Ok(Response::new(Body::empty()))
    }

    /// Only `POST` with the media type of gRPC reaches a method.
    #[tokio::test]
    async fn only_grpc_passes() {
        let grpc: &[&str] = &["application/grpc"];
        for (method, types, expected) in [
            (Method::POST, grpc, 200),
            (Method::POST, &["application/grpc+proto"], 200),
            (Method::POST, &["Application/gRPC; charset=utf-8"], 200),
            (Method::GET, grpc, 405),
            (Method::PUT, grpc, 405),
            (Method::HEAD, grpc, 405),
            (Method::POST, &[], 415),
            (Method::POST, &[""], 415),
            (Method::POST, &["application/json"], 415),
            (Method::POST, &["application/grpc+json"], 415),
            (Method::POST, &["application/grpc-web"], 415),
            (Method::POST, &["application/grpc-web+proto"], 415),
            (Method::POST, &["text/plain; application/grpc"], 415),
            (Method::POST, &["application/grpc", "application/json"], 415),
        ] {
            let mut request = Request::builder().method(method.clone());
            for media_type in types {
                request = request.header(header::CONTENT_TYPE, *media_type);
            }
            let request = request.body(()).expect("a request");
            let response = ProtocolLayer.layer(service_fn(answer)).oneshot(request).await.expect("answered");
            assert_eq!(response.status().as_u16(), expected, "{method} {types:?}");
            assert_eq!(response.headers().contains_key(header::ALLOW), expected == 405);
        }
    }
}
