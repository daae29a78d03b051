//! The layers that every request goes through.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderValue, Method, StatusCode, Version, header},
    response::Response,
    routing::post,
};
use futures_util::{StreamExt as _, stream};
use holdfast_common::http::{Limits, Server, TlsConfig};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::*;
use crate::{
    config::{LimitsConfig, SocketsConfig, StreamsConfig},
    http::{head::Refused, json::StrictJson},
};

fn config() -> GatewayConfig {
    GatewayConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        deadline: Duration::from_secs(3),
        cors_origins: Vec::new(),
        streams: StreamsConfig::default(),
        sockets: SocketsConfig::default(),
        tls: None,
    }
}

async fn take(StrictJson(_): StrictJson<Value>) -> StatusCode {
    StatusCode::CREATED
}

fn app(config: &GatewayConfig) -> Router {
    let limits = limit::Limits::new(&LimitsConfig { enabled: false, ..LimitsConfig::default() }, None);
    layered(Router::new().route("/", post(take)).fallback(no_such_path), limits, config)
}

fn posted(body: Body) -> Request {
    let json = (header::CONTENT_TYPE, "application/json");
    Request::post("/").header(json.0, json.1).body(body).expect("a request")
}

async fn send(app: &Router, request: Request) -> Response {
    app.clone().oneshot(request).await.expect("infallible")
}

async fn problem_of(response: Response) -> String {
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    assert!(response.headers().contains_key("x-request-id"));
    let body = response.into_body().collect().await.expect("in memory").to_bytes();
    let problem: Value = serde_json::from_slice(&body).expect("JSON");
    problem["type"].as_str().expect("a type").rsplit('/').next().expect("a slug").to_owned()
}

/// A body in pieces, with a pause before each.
fn pieces(pieces: impl IntoIterator<Item = Bytes, IntoIter: Send + 'static>, pause: Duration) -> Body {
    Body::from_stream(stream::iter(pieces).then(move |piece| async move {
        if !pause.is_zero() {
            sleep(pause).await;
        }
        Ok::<_, Infallible>(piece)
    }))
}

/// A body that trickles is 408 within the deadline, and its connection ends: it is the client's doing, not a failure of ours.
#[tokio::test(start_paused = true)]
async fn a_trickling_body_is_408() {
    let app = app(&config());
    for pause in [1, 100, 10_000] {
        let begin = Instant::now();
        let endless = std::iter::repeat(Bytes::from_static(b" "));
        let response = send(&app, posted(pieces(endless, Duration::from_millis(pause)))).await;
        assert_eq!(response.status(), 408, "a byte each {pause} ms");
        assert_eq!(response.headers()[header::CONNECTION], "close");
        assert_eq!(problem_of(response).await, "slow-body");
        let took = begin.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(3), "{took:?}");
    }
    // A body that keeps to its pace is taken.
    let paced =
        pieces(vec![Bytes::from_static(b"  "), Bytes::from_static(b"{}")], Duration::from_millis(900));
    assert_eq!(send(&app, posted(paced)).await.status(), 201);
}

/// A body in thousands of pieces is refused, whatever its size.
#[tokio::test]
async fn a_body_has_a_limit_of_pieces() {
    let app = app(&config());
    let body = |count: usize| {
        let spaces = vec![Bytes::from_static(b" "); count - 1];
        pieces(spaces.into_iter().chain([Bytes::from_static(b"{}")]), Duration::ZERO)
    };
    assert_eq!(send(&app, posted(body(4_096))).await.status(), 201);
    let response = send(&app, posted(body(4_097))).await;
    assert_eq!(response.status(), 400);
    assert_eq!(problem_of(response).await, "malformed");
}

/// All bodies together have a budget; what does not fit is 503 without ringing an alarm, and a body that was handled has given its
/// part back.
#[tokio::test(start_paused = true)]
async fn all_bodies_together_have_a_budget() {
    let sockets = SocketsConfig { bodies_bytes_max: 100_000, ..SocketsConfig::default() };
    let app = app(&GatewayConfig { sockets, ..config() });
    let large = || {
        let padded = Bytes::from([&b"{}"[..], &b" ".repeat(60_000)].concat());
        pieces([padded, Bytes::from_static(b" ")], Duration::from_millis(500))
    };
    let (first, second) = tokio::join!(send(&app, posted(large())), send(&app, posted(large())));
    // Both come at the same moment.
    let (taken, refused) = if first.status() == 201 { (first, second) } else { (second, first) };
    assert_eq!([taken.status(), refused.status()], [StatusCode::CREATED, StatusCode::SERVICE_UNAVAILABLE]);
    assert!(refused.extensions().get::<Refused>().is_some(), "it is logged as a failure");
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    assert_eq!(send(&app, posted(large())).await.status(), 201);
}

/// Whatever the response is, it says what browsers and caches must not do; under TLS also that there is only TLS.
#[tokio::test]
async fn every_response_has_its_headers() {
    let file = || "unused".into();
    let secure = GatewayConfig { tls: Some(TlsConfig { certificate: file(), key: file() }), ..config() };
    for (config, has_transport_security) in [(config(), false), (secure, true)] {
        let app = app(&config);
        for (request, status) in [(posted(Body::from("{}")), 201), (posted(Body::from("{")), 400)] {
            let response = send(&app, request).await;
            assert_eq!(response.status(), status);
            let headers = response.headers();
            assert_eq!(headers[header::CACHE_CONTROL], "no-store");
            assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert_eq!(headers.contains_key(header::STRICT_TRANSPORT_SECURITY), has_transport_security);
            assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
        }
    }
}

/// Pages of the listed origins may call us, others not; without a list nobody may.
#[tokio::test]
async fn only_listed_origins_may_call() {
    let origin = HeaderValue::from_static("https://shop.example");
    let listed = app(&GatewayConfig { cors_origins: vec![origin.clone()], ..config() });
    let preflight = |origin: &str| {
        Request::builder()
            .method(Method::OPTIONS)
            .uri("/")
            .header(header::ORIGIN, origin)
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .body(Body::empty())
            .expect("a request")
    };
    let allowed = |response: &Response| response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).cloned();
    assert_eq!(allowed(&send(&listed, preflight("https://shop.example")).await), Some(origin));
    assert_eq!(allowed(&send(&listed, preflight("https://evil.example")).await), None);
    let off = send(&app(&config()), preflight("https://shop.example")).await;
    assert_eq!((allowed(&off), off.status()), (None, StatusCode::METHOD_NOT_ALLOWED));
}

/// HTTP/2 needs a host too, and only one.
#[tokio::test]
async fn http2_needs_a_host_too() {
    let app = app(&config());
    for (target, host, expected) in [
        ("http://a/", None, 201),
        ("http://a/", Some("a"), 201),
        ("/", Some("a"), 201),
        ("/", None, 400),
        ("http://a/", Some("b"), 400),
    ] {
        let mut request = posted(Body::from("{}"));
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = target.parse().expect("a target");
        if let Some(host) = host {
            request.headers_mut().insert(header::HOST, HeaderValue::from_static(host));
        }
        assert_eq!(send(&app, request).await.status(), expected, "{target} {host:?}");
    }
}

/// What is refused before there is a request is a problem document with a request id, like every other failure.
#[tokio::test(start_paused = true)]
async fn refusals_of_the_parser_are_problems() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let server = Server { name: "test", limits: Limits::default(), tls: None, proxies: Vec::new() };
    let stop = CancellationToken::new();
    tokio::spawn(server.serve(listener, app(&config()), stop.clone()));
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    for (bytes, status, slug) in [
        ("nonsense\r\n\r\n", 400, "malformed"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "malformed"),
        (&long, 431, "head-too-large"),
        ("GET / HTTP/1.1\r\nHost: a\r\n", 408, "slow-head"),
    ] {
        let mut client = TcpStream::connect(address).await.expect("connected");
        client.write_all(bytes.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("answered, and closed");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        for field in
            ["content-type: application/problem+json", "x-request-id: ", "cache-control: no-store", "date: "]
        {
            assert!(head.contains(field), "{field} in {head}");
        }
        assert!(body.contains(&format!("/problems/{slug}\"")), "{body}");
    }
    stop.cancel();
}

/// Whatever is routed is described, and nothing else is.
#[test]
fn every_route_is_described() {
    let document = openapi::document();
    let described = document.paths.paths.iter().flat_map(|(path, item)| {
        let operations = [
            ("GET", &item.get),
            ("POST", &item.post),
            ("PUT", &item.put),
            ("PATCH", &item.patch),
            ("DELETE", &item.delete),
        ];
        operations
            .into_iter()
            .filter(|(_, operation)| operation.is_some())
            .map(move |(method, _)| format!("{method} {path}"))
    });
    assert_eq!(routed(&api()), described.collect());
}

/// The operations of a router. It shows them in its debug output only.
fn routed(router: &Router<Gateway>) -> BTreeSet<String> {
    let debug = format!("{router:?}");
    let (routes, paths) = debug.split_once("node: Node").expect("routes and paths");
    let (paths, _) = paths.split_once("fallback_router").expect("paths end");
    // `RouteId(1): MethodRouter(… allow_header: Bytes(b"GET,HEAD,POST") …)` and `RouteId(1): "/api/orders"`.
    let entries = |text: &str, before: &str| -> BTreeMap<String, String> {
        let entries = text.split("RouteId(").skip(1).map(|entry| {
            let (id, rest) = entry.split_once(')').expect("an id");
            let (_, rest) = rest.split_once(before).expect("a text");
            (id.to_owned(), rest.split('"').next().unwrap_or_default().to_owned())
        });
        entries.collect()
    };
    let methods = entries(routes, "allow_header: Bytes(b\"");
    let paths = entries(paths, ": \"");
    assert!(paths.len() > 5, "{debug}");
    let operations = paths.iter().flat_map(|(id, path)| {
        // HEAD is a part of GET.
        let methods = methods[id].split(',').filter(|method| *method != "HEAD");
        methods.map(move |method| format!("{method} {path}"))
    });
    operations.collect()
}
