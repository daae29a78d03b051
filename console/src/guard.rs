//! Who may, and from where: the one guard, through which every request goes.
//!
//! A page of another origin can make a browser send requests here with the operator's cookie. They are told apart by what the browser
//! says of them and no page can change: `Sec-Fetch-Site`, `Origin` and `Host`. Another port of the same host is another origin, but
//! the same *site*, so `SameSite` alone would let it in.

use std::time::Duration;

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use holdfast_operator::ticket::May;
use time::OffsetDateTime;

use crate::{
    session::Session,
    state::Console,
    view::{Refusal, again_after, message},
};

/// What a route may do, and so who may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Shows nothing of the stack: for everybody on this machine.
    Public,
    /// Looks.
    Read,
    /// Changes something.
    Write,
}

/// For a whole page. Every question to a service has a shorter deadline.
const PAGE_TIME_MAX: Duration = Duration::from_secs(20);

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// No script but the console's one file, no frame, nothing from elsewhere.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// On every answer. The referrer stays within the console: with `no-referrer` browsers would send `Origin: null` with our own forms.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Passes on what is allowed, with its [`Session`] in the extensions, and refuses the rest.
pub(crate) async fn guard(console: Console, effect: Effect, request: Request, next: Next) -> Response {
    let response = match admit(&console, effect, request) {
        Ok(request) => match tokio::time::timeout(PAGE_TIME_MAX, next.run(request)).await {
            Ok(response) => response,
            Err(_) => message(
                StatusCode::SERVICE_UNAVAILABLE,
                "Too slow",
                "this page was not ready in time. What was begun may still end: the audit says what was done",
            ),
        },
        Err(refusal) => refusal.into_response(),
    };
    with_headers(response)
}

pub(crate) fn with_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn admit(console: &Console, effect: Effect, mut request: Request) -> Result<Request, Refusal> {
    let refused = |status, title, text: &str| Err(Refusal::from(message(status, title, text)));
    let headers = request.headers();
    let text_of = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    // Over HTTP/2 it is in the address.
    let host = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let host = host.or_else(|| text_of(&header::HOST).map(str::to_owned)).unwrap_or_default();
    let Some(origin) = console.origins.get(&host) else {
        return refused(
            StatusCode::MISDIRECTED_REQUEST,
            "Not this host",
            "the console answers to 127.0.0.1, localhost and [::1] with its own port only, and to the name of its proxy",
        );
    };
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_foreign = match headers.get(FETCH_SITE) {
        // A browser that does not say it, or no browser: cookie and origin decide.
        None => false,
        Some(site) => site != "same-origin" && site != "none",
    };
    let has_origin = text_of(&header::ORIGIN) == Some(origin);
    if is_foreign || (!is_safe && !has_origin) {
        return refused(
            StatusCode::FORBIDDEN,
            "From elsewhere",
            "another page has sent this request. Type the address, or use the links of the console",
        );
    }
    if effect == Effect::Public {
        return Ok(request);
    }
    let session = match console.proxy.as_ref().filter(|proxy| proxy.host() == host) {
        Some(proxy) => proxy.session(headers).map_err(str::to_owned),
        None => session_of_cookie(console, &request),
    };
    let session = match session {
        Ok(session) => session,
        Err(why) => return refused(StatusCode::UNAUTHORIZED, "Not signed in", &why),
    };
    if let Err(wait) = console.pace.take(&session.author.name) {
        return Err(Refusal::from(too_many(wait)));
    }
    if effect == Effect::Write && !console.allow_write {
        let text =
            "this console changes nothing, whoever is signed in: its setting console.allow_write says so";
        return refused(StatusCode::FORBIDDEN, "Read-only", text);
    }
    if effect == Effect::Write && !console.may_change(&session.author) {
        let command = console.ticket_command(May::Change);
        return refused(
            StatusCode::FORBIDDEN,
            "Read-only",
            &format!(
                "you may only look. With an address that `{command}` prints, or in a group of writers where a proxy lets you in, things \
                 can be changed"
            ),
        );
    }
    request.extensions_mut().insert(session);
    Ok(request)
}

/// Somebody asks for more pages than a person reads.
fn too_many(wait: Duration) -> Response {
    let text = "you have asked for too many pages in a short time (console.pages_per_second). Nothing was done; load this one again \
                in a moment";
    again_after(wait.as_secs() + 1, StatusCode::TOO_MANY_REQUESTS, "Too many pages", text)
}

/// Who has signed in with a ticket; an error says how.
fn session_of_cookie(console: &Console, request: &Request) -> Result<Session, String> {
    let now = OffsetDateTime::now_utc();
    let mut own = cookies(request).filter(|(name, _)| *name == console.cookie);
    own.find_map(|(_, value)| console.sessions.of(value, now)).ok_or_else(|| {
        format!("type `{}`: it prints an address that lets one browser in", console.ticket_command(May::Look))
    })
}

fn cookies(request: &Request) -> impl Iterator<Item = (&str, &str)> {
    let lines = request.headers().get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

/// A request for nothing that there is.
pub(crate) async fn no_such_page() -> Response {
    with_headers(message(StatusCode::NOT_FOUND, "No such page", "there is no such page").into_response())
}
