//! The guard, on every route: rows of the table that are added later are tested as they are.

use std::{fs, path::Path, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Method, Request, StatusCode, header},
    response::Response,
};
use holdfast_certs::Pki;
use holdfast_common::{
    config::{IdentityConfig, KafkaTlsConfig},
    grpc,
    health::Health,
    identity::Identity,
    kafka::reader::Reader,
    reload::Reload,
    service::bind,
};
use holdfast_operator::ticket::{self, Author, May};
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::*;
use crate::{
    config::{Config, KafkaReaderConfig},
    guard::CONTENT_SECURITY_POLICY,
    proxy::tests::{self as proxy, SECRET},
    topics::{Deadline, NotRead, READERS_MAX},
};

const HOST: &str = "127.0.0.1:8090";
const NO_BROKERS: &str = "no brokers";
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
        let config = config(folder.path(), allow_write);
        let console = Console::new(&config, &identity_in(folder.path()), Err(NO_BROKERS.to_owned()));
        Self { console: console.expect("its settings are right"), folder }
    }

    /// Another console of the same certificate.
    fn console_of(&self, config: &Config) -> Console {
        let identity = identity_in(self.folder.path());
        Console::new(config, &identity, Err(NO_BROKERS.to_owned())).expect("its settings are right")
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
        cookie_at(&self.console, author)
    }
}

/// A cookie of somebody who has signed in with a ticket.
fn cookie_at(console: &Console, author: Author) -> String {
    let cookie = console.sessions.begin(author, OffsetDateTime::now_utc()).expect("begun");
    format!("{}={cookie}", console.cookie)
}

fn alice(may: May) -> Author {
    Author { name: "alice".to_owned(), may }
}

fn identity_in(folder: &Path) -> Identity {
    Identity::load(IdentityConfig::in_folder(&folder.join("operator"))).expect("loaded")
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
    let path = route.path.replace("{id}", ID).replace("{topic}", "order.created");
    let path = path.replace("{partition}", "0").replace("{offset}", "7");
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

/// Who asks for more pages than anybody reads is told to wait, on every route, and nobody else is.
#[tokio::test]
async fn one_person_may_not_ask_for_any_number_of_pages() {
    let lab = Lab::new(true);
    let (router, cookie) = (lab.router(), lab.cookie());
    let other = lab.cookie_of(Author { name: "bob".to_owned(), may: May::Change });
    for route in ROUTES.iter().filter(|route| route.effect != Effect::Public) {
        // On a slow machine there may be a page again by the time that the request is there.
        let mut looks = 0..1_000;
        let refused = loop {
            looks.next().expect("refused at last");
            while lab.console.pace.take("alice").is_ok() {}
            let response = send(&router, request(route, &cookie)).await;
            if response.status() == StatusCode::TOO_MANY_REQUESTS {
                break response;
            }
        };
        assert!(refused.headers().contains_key(header::RETRY_AFTER), "{}", route.path);
        assert!(text_of(refused).await.contains("pages_per_second"), "{}", route.path);
    }
    let status = send(&router, request(page_route(), &other)).await.status();
    assert_eq!(status, StatusCode::OK);
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
    assert_eq!(writes.len(), 7);
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

/// By the name of its proxy nobody gets in without the proxy's secret, on any route, also with somebody's cookie; with it they are who the
/// proxy says, change something only as members of a group of writers, and only from the proxy's own pages.
#[tokio::test]
async fn a_proxy_signs_people_in() {
    let lab = Lab::new(true);
    let mut config = config(lab.folder.path(), true);
    config.console.proxy = Some(proxy::config());
    let console = lab.console_of(&config);
    let (router, cookie) = (router(console.clone()), cookie_at(&console, alice(May::Change)));
    let by_proxy = |route: &Route, secret: &str, groups: &str| {
        let mut request = request(route, &cookie);
        for (name, value) in [
            ("host", "console.example.org"),
            ("origin", "https://console.example.org"),
            ("x-console-secret", secret),
            ("x-forwarded-email", "bob@example.org"),
            ("x-forwarded-groups", groups),
        ] {
            request.headers_mut().insert(name, HeaderValue::from_str(value).expect("text"));
        }
        request
    };
    for route in ROUTES.iter().filter(|route| route.effect != Effect::Public) {
        let status = send(&router, by_proxy(route, "guessed", "operators")).await.status();
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{}", route.path);
        // Who comes past the proxy is not whom they say.
        let mut beside = by_proxy(route, SECRET, "operators");
        beside.headers_mut().insert(header::HOST, HeaderValue::from_static(HOST));
        beside.headers_mut().insert(header::ORIGIN, HeaderValue::from_static("http://127.0.0.1:8090"));
        beside.headers_mut().remove(header::COOKIE);
        assert_eq!(send(&router, beside).await.status(), StatusCode::UNAUTHORIZED, "{}", route.path);
    }
    for route in ROUTES.iter().filter(|route| route.effect == Effect::Write) {
        let status = send(&router, by_proxy(route, SECRET, "staff")).await.status();
        assert_eq!(status, StatusCode::FORBIDDEN, "{}", route.path);
        let status = send(&router, by_proxy(route, SECRET, "staff, operators")).await.status();
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{}", route.path);
        let mut foreign = by_proxy(route, SECRET, "operators");
        foreign.headers_mut().remove("sec-fetch-site");
        foreign.headers_mut().insert(header::ORIGIN, HeaderValue::from_static("http://console.example.org"));
        assert_eq!(send(&router, foreign).await.status(), StatusCode::FORBIDDEN, "{}", route.path);
    }
    let page = text_of(send(&router, by_proxy(page_route(), SECRET, "staff")).await).await;
    assert!(page.contains("bob@example.org") && page.contains("read-only"), "{page}");
    // Beside the proxy, tickets let in as ever.
    assert_eq!(send(&router, request(page_route(), &cookie)).await.status(), StatusCode::OK);
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
        "/reconcile",
        "/reconcile/reemit",
        &format!("/reconcile?order={ID}"),
        &format!("/reconcile/reemit?order={ID}"),
        "/letters",
        "/letters/list",
        "/groups",
        "/redrives",
        "/outbox",
        "/audit",
        "/components",
        "/topics",
        "/topics/order.created",
        &format!("/orders/{ID}"),
        &format!("/orders/{ID}/messages"),
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

/// Whoever finds no reader of topics free is told when to come again; everything else of the console is there.
#[tokio::test]
async fn who_finds_no_reader_comes_again() {
    let mut lab = Lab::new(false);
    let (config, identity) = (config(lab.folder.path(), false), identity_in(lab.folder.path()));
    let away = KafkaReaderConfig { brokers: "127.0.0.1:1".to_owned(), tls: KafkaTlsConfig::default() };
    let brokers = crate::state::brokers(Some(&away), &identity);
    lab.console = Console::new(&config, &identity, brokers).expect("its settings are right");
    let (router, cookie) = (lab.router(), lab.cookie());
    let free = Arc::new(tokio::sync::Semaphore::new(0));
    let mut reading = Vec::new();
    for _ in 0..READERS_MAX {
        let (console, free) = (lab.console.clone(), free.clone());
        let (begun, begins) = tokio::sync::oneshot::channel();
        reading.push(tokio::spawn(async move {
            let work = move |_: &Reader, _: Deadline| {
                let _ = begun.send(());
                let freed = tokio::runtime::Handle::current().block_on(free.acquire());
                freed.map(drop).map_err(|error| NotRead::Failed(error.to_string()))
            };
            console.topics.read(Duration::from_secs(60), work).await
        }));
        begins.await.expect("it reads");
    }
    let page = |path: &str| {
        let mut request = request(page_route(), &cookie);
        *request.uri_mut() = path.parse().expect("an address");
        send(&router, request)
    };
    for path in
        ["/topics", "/topics/order.created", "/topics/order.created/0/7", &format!("/orders/{ID}/messages")]
    {
        let response = page(path).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(response.headers()[header::RETRY_AFTER], "2", "{path}");
    }
    assert_eq!(page("/groups").await.status(), StatusCode::OK);
    free.add_permits(READERS_MAX);
    for read in reading {
        assert!(read.await.expect("no panic").is_ok());
    }
}

/// Services that let the console in no further than they let in whom they don't know: those of an earlier version.
async fn with_services_that_refuse(lab: &Lab) -> Console {
    let pki = Pki::open_or_init(lab.folder.path()).expect("there");
    let mut config = config(lab.folder.path(), false);
    for (name, participant) in
        [("order", &mut config.order), ("payment", &mut config.payment), ("delivery", &mut config.delivery)]
    {
        pki.ensure_leaf(name).expect("issued");
        let identity = Identity::load(IdentityConfig::in_folder(&lab.folder.path().join(name)));
        let listener = bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
        participant.address = listener.local_addr().expect("bound").to_string();
        // Until the test ends, and its runtime with it.
        tokio::spawn(grpc::serve(
            listener,
            identity.expect("loaded"),
            &[],
            Routes::default(),
            8,
            Health::default(),
            CancellationToken::new(),
        ));
    }
    lab.console_of(&config)
}

/// A service that does not know the console refuses it: every page is there, and says what that can mean and what to use meanwhile.
#[tokio::test]
async fn a_service_of_an_earlier_version_refuses_in_words() {
    let lab = Lab::new(false);
    let console = with_services_that_refuse(&lab).await;
    let (router, cookie) = (router(console.clone()), cookie_at(&console, alice(May::Look)));
    for path in
        ["/", "/stuck", "/letters", "/groups", "/outbox", "/audit", "/reconcile", &format!("/orders/{ID}")]
    {
        let mut request = request(page_route(), &cookie);
        *request.uri_mut() = path.parse().expect("an address");
        let response = send(&router, request).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let page = text_of(response).await;
        for service in ["order", "payment", "delivery"] {
            let expected = format!(
                "{service} refuses the console (this identity may not call this method): it is of an earlier version"
            );
            assert!(page.contains(&expected), "{path}: {page}");
        }
        assert!(page.contains("use `holdfast`"), "{path}: {page}");
    }
}

/// A time that is none is refused, and does not match everything.
#[tokio::test]
async fn a_time_that_is_none_is_refused() {
    let lab = Lab::new(false);
    let (router, cookie) = (lab.router(), lab.cookie());
    for (path, status) in [
        ("/letters/list?since=yesterday", StatusCode::BAD_REQUEST),
        ("/letters/list?until=7", StatusCode::BAD_REQUEST),
        ("/audit?since=x", StatusCode::BAD_REQUEST),
        ("/desk?action=redrive&service=payment&since=x", StatusCode::BAD_REQUEST),
        ("/letters/list?since=1h&until=", StatusCode::OK),
        ("/audit?since=2026-01-31&until=2026-01-31T12:00:00Z", StatusCode::OK),
        ("/desk?action=redrive&service=payment&since=24h", StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let mut request = request(page_route(), &cookie);
        *request.uri_mut() = path.parse().expect("an address");
        assert_eq!(send(&router, request).await.status(), status, "{path}");
    }
}

/// Orders are examined one after the other: whoever comes meanwhile is told to come again, and nothing is re-emitted for them.
#[tokio::test]
async fn who_finds_somebody_examining_comes_again() {
    let lab = Lab::new(true);
    let (router, cookie) = (lab.router(), lab.cookie());
    let examining = lab.console.examining();
    let confirmed = Body::from(format!("order={ID}&digest=d&reason=r"));
    for (route, body) in ROUTES.iter().filter(|route| route.path.starts_with("/reconcile")).zip([
        Body::empty(),
        Body::empty(),
        confirmed,
    ]) {
        let mut request = request(route, &cookie);
        *request.body_mut() = body;
        let response = send(&router, request).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{}", route.path);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2", "{}", route.path);
    }
    drop(examining);
    let reconcile = ROUTES.iter().find(|route| route.path == "/reconcile").expect("there is one");
    assert_eq!(send(&router, request(reconcile, &cookie)).await.status(), StatusCode::OK);
}

/// What nobody has seen is not confirmed, also if it would be nothing.
#[tokio::test]
async fn nothing_is_re_emitted_unseen() {
    let lab = Lab::new(true);
    let route =
        ROUTES.iter().find(|route| route.path == "/reconcile/reemit" && route.effect == Effect::Write);
    let mut request = request(route.expect("there is one"), &lab.cookie());
    *request.body_mut() = Body::from(format!("order={ID}&digest=d&reason=r"));
    let response = send(&lab.router(), request).await;
    assert_eq!(response.status(), StatusCode::CONFLICT);
    let page = text_of(response).await;
    assert!(page.contains("not everything was checked") && page.contains("ot asked"), "{page}");
}

/// An order that is named by no id, and an age that is none, are refused before anybody is asked.
#[tokio::test]
async fn what_cant_be_examined_is_refused() {
    let lab = Lab::new(false);
    let (router, cookie) = (lab.router(), lab.cookie());
    for (query, status) in [("order=x", StatusCode::NOT_FOUND), ("older=yesterday", StatusCode::BAD_REQUEST)]
    {
        for path in ["/reconcile", "/reconcile/reemit"] {
            let mut request = request(page_route(), &cookie);
            *request.uri_mut() = format!("{path}?{query}").parse().expect("an address");
            assert_eq!(send(&router, request).await.status(), status, "{path}?{query}");
        }
    }
}

/// What can't be meant is refused before any broker is asked.
#[tokio::test]
async fn what_cant_be_meant_of_a_topic_is_refused() {
    let lab = Lab::new(false);
    let (router, cookie) = (lab.router(), lab.cookie());
    for (path, status) in [
        ("/topics/a%2Fb", StatusCode::NOT_FOUND),
        ("/topics/%3Cscript%3E", StatusCode::NOT_FOUND),
        ("/topics/..%2F", StatusCode::NOT_FOUND),
        ("/topics/order.created/x/1", StatusCode::NOT_FOUND),
        ("/topics/order.created/0/-1", StatusCode::NOT_FOUND),
        ("/topics/order.created?partition=x", StatusCode::BAD_REQUEST),
        ("/topics/order.created?partition=-1", StatusCode::BAD_REQUEST),
        ("/topics/order.created?offset=7", StatusCode::BAD_REQUEST),
        ("/topics/order.created?partition=0&offset=-7", StatusCode::BAD_REQUEST),
        ("/topics/order.created?time=yesterday", StatusCode::BAD_REQUEST),
        ("/topics/order.created?partition=0&offset=7&time=5m", StatusCode::BAD_REQUEST),
        ("/topics/order.created?order=7", StatusCode::BAD_REQUEST),
        ("/topics/order.created?key=a&order=01a21184-8763-7214-acea-bb1c3b689082", StatusCode::BAD_REQUEST),
        ("/topics/order.created?partition=0&offset=7&key=a", StatusCode::OK),
        ("/topics/order.created?time=5m", StatusCode::OK),
        (
            "/topics/order.created?time=2026-01-31T12:00:00Z&order=01a21184-8763-7214-acea-bb1c3b689082",
            StatusCode::OK,
        ),
    ] {
        let mut request = request(page_route(), &cookie);
        *request.uri_mut() = path.parse().expect("an address");
        assert_eq!(send(&router, request).await.status(), status, "{path}");
    }
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
    let identity = identity_in(lab.folder.path());
    assert!(Console::new(&config, &identity, Err(NO_BROKERS.to_owned())).is_err());
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
