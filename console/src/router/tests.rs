//! The guard, on every route: rows of the table that are added later are tested as they are.

use std::{fs, path::Path};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Method, Request, StatusCode, header},
    response::Response,
};
use holdfast_certs::Pki;
use holdfast_common::{config::IdentityConfig, identity::Identity, reload::Reload};
use holdfast_operator::ticket::{self, Author, May};
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use time::OffsetDateTime;
use tower::ServiceExt as _;

use super::*;
use crate::{config::Config, guard::CONTENT_SECURITY_POLICY};

const HOST: &str = "127.0.0.1:8090";
const ID: &str = "01a21184-8763-7214-acea-bb1c3b689082";

/// A console whose services are away.
struct Lab {
    folder: TempDir,
    console: Console,
}

impl Lab {
    fn new(allow_write: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("tickets")).expect("created");
        let pki = Pki::open_or_init(folder.path()).expect("created");
        pki.ensure_leaf("operator").expect("issued");
        let identity =
            Identity::load(IdentityConfig::in_folder(&folder.path().join("operator"))).expect("loaded");
        let console =
            Console::new(&config(folder.path(), allow_write), &identity).expect("an address of loopback");
        Self { folder, console }
    }

    fn router(&self) -> Router {
        router(self.console.clone())
    }

    fn ticket(&self) -> String {
        ticket::issue(&self.folder.path().join("tickets"), &alice(May::Look), OffsetDateTime::now_utc())
            .expect("issued")
    }

    /// A cookie of somebody who is signed in, and may change things.
    fn cookie(&self) -> String {
        self.cookie_of(alice(May::Change))
    }

    fn cookie_of(&self, author: Author) -> String {
        let cookie = self.console.sessions.begin(author, OffsetDateTime::now_utc()).expect("begun");
        format!("{}={cookie}", self.console.cookie)
    }
}

fn alice(may: May) -> Author {
    Author { name: "alice".to_owned(), may }
}

fn config(folder: &Path, allow_write: bool) -> Config {
    let sample = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/console.toml"));
    let mut config: Config = toml::from_str(&sample.expect("there")).expect("the sample");
    config.console.tickets = folder.join("tickets");
    config.console.allow_write = allow_write;
    // Nobody listens there.
    for participant in [&mut config.order, &mut config.payment, &mut config.delivery] {
        participant.address = "127.0.0.1:1".to_owned();
        participant.admin = "127.0.0.1:1".to_owned();
    }
    config.gateway.admin = "127.0.0.1:1".to_owned();
    config
}

fn method_of(route: &Route) -> Method {
    if route.effect == Effect::Write { Method::POST } else { Method::GET }
}

/// A request as a browser sends it from the console's own page.
fn request(route: &Route, cookie: &str) -> Request<Body> {
    let path = route.path.replace("{id}", ID);
    let builder = Request::builder()
        .method(method_of(route))
        .uri(path)
        .header(header::HOST, HOST)
        .header("sec-fetch-site", "same-origin")
        .header(header::ORIGIN, format!("http://{HOST}"))
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let builder = if cookie.is_empty() { builder } else { builder.header(header::COOKIE, cookie) };
    builder.body(Body::empty()).expect("a request")
}

/// The first page.
fn page_route() -> &'static Route {
    ROUTES.iter().find(|route| route.path == "/").expect("there is one")
}

async fn send(router: &Router, request: Request<Body>) -> Response {
    router.clone().oneshot(request).await.expect("infallible")
}

async fn text_of(response: Response) -> String {
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

/// Without a session nothing of the stack is shown, and nothing done, whatever the route.
#[tokio::test]
async fn no_route_is_open_without_a_session() {
    let lab = Lab::new(true);
    let router = lab.router();
    for route in ROUTES.iter().filter(|route| route.effect != Effect::Public) {
        let foreign = format!("{}={}", lab.console.cookie, "0".repeat(64));
        for cookie in ["", &foreign, "holdfast-console-1=x"] {
            let response = send(&router, request(route, cookie)).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{} {}", method_of(route), route.path);
            assert!(text_of(response).await.contains("holdfast console"), "{}", route.path);
        }
    }
}

/// What another page has sent is refused on every route, also with the operator's cookie; so is a name that somebody has pointed here.
#[tokio::test]
async fn no_route_is_open_to_other_pages() {
    let lab = Lab::new(true);
    let (router, cookie) = (lab.router(), lab.cookie());
    for route in &ROUTES {
        for site in ["cross-site", "same-site", "nonsense"] {
            let mut request = request(route, &cookie);
            request.headers_mut().insert("sec-fetch-site", HeaderValue::from_static(site));
            let status = send(&router, request).await.status();
            assert_eq!(status, StatusCode::FORBIDDEN, "{site}: {} {}", method_of(route), route.path);
        }
        for host in ["evil.example:8090", "127.0.0.1:9999", "127.0.0.1", ""] {
            let mut request = request(route, &cookie);
            request.headers_mut().insert(header::HOST, HeaderValue::from_str(host).expect("text"));
            let status = send(&router, request).await.status();
            assert_eq!(
                status,
                StatusCode::MISDIRECTED_REQUEST,
                "{host}: {} {}",
                method_of(route),
                route.path
            );
        }
    }
    // Without fetch metadata the origin decides, and its absence is a no.
    for route in ROUTES.iter().filter(|route| route.effect == Effect::Write) {
        for origin in ["null", "http://evil.example", "http://localhost:8090", "https://127.0.0.1:8090", ""] {
            let mut request = request(route, &cookie);
            request.headers_mut().remove("sec-fetch-site");
            request.headers_mut().remove(header::ORIGIN);
            if !origin.is_empty() {
                request.headers_mut().insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            let status = send(&router, request).await.status();
            assert_eq!(status, StatusCode::FORBIDDEN, "{origin:?}: {}", route.path);
        }
    }
}

/// A console that changes nothing does so for nobody, another one only for who may, and only what says that it changes something takes a
/// `POST`.
#[tokio::test]
async fn no_route_changes_anything_unless_it_is_allowed() {
    let (reading, writing) = (Lab::new(false), Lab::new(true));
    let [(reader, reader_cookie), (writer, writer_cookie)] =
        [&reading, &writing].map(|lab| (lab.router(), lab.cookie()));
    let looker_cookie = writing.cookie_of(alice(May::Look));
    for (router, cookie, says) in [
        (&reader, &reader_cookie, "read-only"),
        (&writer, &looker_cookie, "read-only"),
        (&writer, &writer_cookie, "may change things"),
    ] {
        let page = text_of(send(router, request(page_route(), cookie)).await).await;
        assert!(page.contains(says), "{page}");
    }
    let writes: Vec<&Route> = ROUTES.iter().filter(|route| route.effect == Effect::Write).collect();
    assert_eq!(writes.len(), 6);
    for route in &writes {
        let status = send(&reader, request(route, &reader_cookie)).await.status();
        assert_eq!(status, StatusCode::FORBIDDEN, "{}", route.path);
        let status = send(&writer, request(route, &looker_cookie)).await.status();
        assert_eq!(status, StatusCode::FORBIDDEN, "{}", route.path);
        // Let in, and refused for what is in the form.
        let status = send(&writer, request(route, &writer_cookie)).await.status();
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{}", route.path);
    }
    for route in ROUTES.iter().filter(|route| writes.iter().all(|write| write.path != route.path)) {
        let mut request = request(route, &writer_cookie);
        *request.method_mut() = Method::POST;
        let status = send(&writer, request).await.status();
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{}", route.path);
    }
}

/// Every answer has the headers that keep scripts, frames and caches away, also a refusal and what is not there.
#[tokio::test]
async fn every_answer_has_the_headers() {
    let lab = Lab::new(false);
    let (router, cookie) = (lab.router(), lab.cookie());
    let nowhere = Route { path: "/nowhere", effect: Effect::Public, handler: ROUTES[0].handler };
    for route in ROUTES.iter().chain([&nowhere]) {
        for cookie in ["", &cookie] {
            let response = send(&router, request(route, cookie)).await;
            let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
            assert_eq!(header("content-security-policy"), Some(CONTENT_SECURITY_POLICY), "{}", route.path);
            assert_eq!(header("cache-control"), Some("no-store"), "{}", route.path);
            assert_eq!(header("x-content-type-options"), Some("nosniff"), "{}", route.path);
            assert_eq!(header("referrer-policy"), Some("same-origin"), "{}", route.path);
        }
    }
    assert_eq!(send(&router, request(&nowhere, "")).await.status(), StatusCode::NOT_FOUND);
    let mut other = request(page_route(), &cookie);
    *other.method_mut() = Method::DELETE;
    let response = send(&router, other).await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(response.headers().contains_key("content-security-policy"));
}

/// A ticket becomes a cookie that no script reads and no other site sends, and the address with the ticket is left; it works once.
#[tokio::test]
async fn a_ticket_lets_one_browser_in() {
    let lab = Lab::new(false);
    let router = lab.router();
    let open = |ticket: &str| {
        let mut request = request(&ROUTES[0], "");
        *request.uri_mut() = format!("/open?ticket={ticket}").parse().expect("an address");
        // As after a click in a terminal.
        request.headers_mut().insert("sec-fetch-site", HeaderValue::from_static("none"));
        request
    };
    let ticket = lab.ticket();
    let response = send(&router, open(&ticket)).await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    assert_eq!(response.headers()[header::LOCATION], "/");
    let cookie = response.headers()[header::SET_COOKIE].to_str().expect("text").to_owned();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict; ") && !cookie.contains(&ticket), "{cookie}");
    let cookie = cookie.split(';').next().expect("a pair");
    let response = send(&router, request(page_route(), cookie)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let page = text_of(response).await;
    assert!(page.contains("alice") && page.contains("read-only"), "{page}");
    for wrong in [&ticket, "", "0"] {
        assert_eq!(send(&router, open(wrong)).await.status(), StatusCode::UNAUTHORIZED, "{wrong}");
    }
}

/// With every service away every page is there, and says who was not asked.
#[tokio::test]
async fn a_service_that_is_away_takes_no_page_with_it() {
    let lab = Lab::new(false);
    let (router, cookie) = (lab.router(), lab.cookie());
    for path in [
        "/",
        "/stuck",
        "/letters",
        "/letters/list",
        "/groups",
        "/redrives",
        "/outbox",
        "/audit",
        "/components",
        &format!("/orders/{ID}"),
    ] {
        let mut request = request(page_route(), &cookie);
        *request.uri_mut() = path.parse().expect("an address");
        let response = send(&router, request).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let page = text_of(response).await;
        assert!(page.contains("ot asked"), "{path}: {page}");
    }
    let mut letter = request(page_route(), &cookie);
    *letter.uri_mut() = format!("/letters/{ID}").parse().expect("an address");
    let response = send(&router, letter).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert!(text_of(response).await.contains("Not asked: order cannot be reached"));
}

/// A form that is longer than an event can be is refused before it is read.
#[tokio::test]
async fn a_body_has_an_end() {
    let lab = Lab::new(true);
    let desk = ROUTES.iter().find(|route| route.effect == Effect::Write).expect("one");
    let mut request = request(desk, &lab.cookie());
    *request.body_mut() = Body::from(vec![b'a'; BODY_BYTES_MAX + 1]);
    assert_eq!(send(&lab.router(), request).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

/// The console is for this machine: it does not listen for others.
#[tokio::test]
async fn it_listens_on_loopback_only() {
    let lab = Lab::new(false);
    let mut config = config(lab.folder.path(), false);
    config.console.listen = "0.0.0.0:8090".parse().expect("an address");
    let identity =
        Identity::load(IdentityConfig::in_folder(&lab.folder.path().join("operator"))).expect("loaded");
    assert!(Console::new(&config, &identity).is_err());
}

/// The services are found where the file says now; one with an address that is none changes nothing.
#[tokio::test]
async fn where_the_services_are_is_followed() {
    let lab = Lab::new(false);
    let mut config = config(lab.folder.path(), false);
    assert_eq!(lab.console.take(&config).expect("taken"), Reload::Unchanged);
    config.payment.address = "127.0.0.1:2,127.0.0.1:3".to_owned();
    assert_eq!(lab.console.take(&config).expect("taken"), Reload::Swapped);
    let away = lab.console.service("payment").expect("there").error(&tonic::Status::unavailable("x"));
    assert!(away.to_string().contains("127.0.0.1:2,127.0.0.1:3"), "{away}");
    config.gateway.admin = "127.0.0.1:4".to_owned();
    assert_eq!(lab.console.take(&config).expect("taken"), Reload::Swapped);
    assert_eq!(lab.console.take(&config).expect("taken"), Reload::Unchanged);
    config.order.address = "127.0.0.1:5".to_owned();
    config.delivery.address = "nowhere".to_owned();
    assert!(lab.console.take(&config).is_err());
    config.order.address = "127.0.0.1:1".to_owned();
    config.delivery.address = "127.0.0.1:1".to_owned();
    assert_eq!(lab.console.take(&config).expect("taken"), Reload::Unchanged, "nothing was taken of it");
}
