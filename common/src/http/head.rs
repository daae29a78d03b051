//! Checks the head of an HTTP/1 request in its bytes, before the HTTP library sees it: the library removes Content-Length beside
//! Transfer-Encoding, and takes codings and hosts that two parties can read in two ways (pitfalls P43).

use axum::http::{Method, StatusCode, Uri, uri::Authority};
use httparse::{Header, Request};

/// Most bytes of a head; a longer one is 431.
pub(super) const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most fields of a head; more are 431.
pub(super) const HEAD_FIELDS_MAX: usize = 64;

/// Why a request is refused before it reaches a handler. It is an extension of the request that stands for it, so that the
/// layers of the port give the refusal the form of all their answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is not HTTP.
    Syntax,
    /// The head is too long.
    TooLarge,
    /// The head has too many fields.
    TooManyFields,
    /// The head did not arrive in time.
    Slow,
    /// Host is absent, repeated or not a host.
    Host,
    /// Content-Length is repeated or not a number.
    ContentLength,
    /// Both Content-Length and Transfer-Encoding.
    TwoLengths,
    /// Transfer-Encoding is not exactly one `chunked`.
    TransferEncoding,
    /// There are too many connections.
    TooManyConnections,
}

impl Refusal {
    /// The status of the answer.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::TooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::TooManyConnections => StatusCode::SERVICE_UNAVAILABLE,
            Self::Syntax | Self::Host | Self::ContentLength | Self::TwoLengths | Self::TransferEncoding => {
                StatusCode::BAD_REQUEST
            }
        }
    }

    /// The label of the metric.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::TooLarge => "head-too-large",
            Self::TooManyFields => "too-many-fields",
            Self::Slow => "slow-head",
            Self::Host => "host",
            Self::ContentLength => "content-length",
            Self::TwoLengths => "two-lengths",
            Self::TransferEncoding => "transfer-encoding",
            Self::TooManyConnections => "too-many-connections",
        }
    }

    /// What the client is told.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Syntax => "the head of the request is not HTTP",
            Self::TooLarge => "the head of the request has more than 32768 bytes",
            Self::TooManyFields => "the head of the request has more than 64 fields",
            Self::Slow => "the head of the request did not arrive in time",
            Self::Host => "the request needs exactly one Host, which must be a host",
            Self::ContentLength => "Content-Length must be one number, and be there once",
            Self::TwoLengths => "both Content-Length and Transfer-Encoding",
            Self::TransferEncoding => "Transfer-Encoding must be chunked, once and alone",
            Self::TooManyConnections => "there are too many connections",
        }
    }
}

/// How the body that follows a head ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After its last chunk.
    Chunked,
}

/// What the start of `bytes` is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Not yet a whole head.
    Partial,
    /// A head of so many bytes.
    Complete(usize, Framing),
    /// A head that is refused.
    Refused(Refusal),
}

/// Parses what the HTTP library would parse, and checks more of it.
pub(super) fn parse(bytes: &[u8]) -> Head {
    let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS_MAX];
    let mut request = Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length > HEAD_BYTES_MAX => Head::Refused(Refusal::TooLarge),
        Ok(httparse::Status::Complete(length)) => match check(&request) {
            Ok(framing) => Head::Complete(length, framing),
            Err(refusal) => Head::Refused(refusal),
        },
        Ok(httparse::Status::Partial) if bytes.len() > HEAD_BYTES_MAX => Head::Refused(Refusal::TooLarge),
        Ok(httparse::Status::Partial) => Head::Partial,
        Err(httparse::Error::TooManyHeaders) => Head::Refused(Refusal::TooManyFields),
        Err(_) => Head::Refused(Refusal::Syntax),
    }
}

fn check(request: &Request<'_, '_>) -> Result<Framing, Refusal> {
    let method = request.method.map(str::as_bytes).unwrap_or_default();
    Method::from_bytes(method).map_err(|_| Refusal::Syntax)?;
    request.path.and_then(|target| target.parse::<Uri>().ok()).ok_or(Refusal::Syntax)?;
    let is_http_11 = request.version == Some(1);
    check_host(request.headers, is_http_11)?;
    framing(request.headers, is_http_11)
}

fn values<'h>(fields: &'h [Header<'h>], name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value.trim_ascii())
}

/// RFC 9112, 3.2: without exactly one valid Host a request of HTTP/1.1 is 400. HTTP/1.0 may leave it out.
fn check_host(fields: &[Header<'_>], required: bool) -> Result<(), Refusal> {
    let mut hosts = values(fields, "host");
    match (hosts.next(), hosts.next()) {
        (None, None) if !required => Ok(()),
        (Some(host), None) if is_host(host) => Ok(()),
        _ => Err(Refusal::Host),
    }
}

/// Whether this is a host, perhaps with a port, and nothing else.
fn is_host(value: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(value) else { return false };
    let port = authority.as_str().strip_prefix(authority.host());
    let is_port = |port: &str| port.is_empty() || port.parse::<u16>().is_ok();
    !authority.host().is_empty()
        && match port {
            Some("") => true,
            Some(rest) => rest.strip_prefix(':').is_some_and(is_port),
            // Something stands before the host: a user.
            None => false,
        }
}

/// RFC 9112, 6.3, without what it leaves to the server: everything that two parties could read in two ways is refused.
fn framing(fields: &[Header<'_>], is_http_11: bool) -> Result<Framing, Refusal> {
    let mut lengths = values(fields, "content-length");
    let mut encodings = values(fields, "transfer-encoding");
    match (lengths.next(), encodings.next()) {
        (None, None) => Ok(Framing::Length(0)),
        (Some(_), Some(_)) => Err(Refusal::TwoLengths),
        (Some(length), None) => length_of(length)
            .filter(|_| lengths.next().is_none())
            .map(Framing::Length)
            .ok_or(Refusal::ContentLength),
        (None, Some(encoding)) => {
            let is_chunked = encoding.eq_ignore_ascii_case(b"chunked") && encodings.next().is_none();
            if is_chunked && is_http_11 { Ok(Framing::Chunked) } else { Err(Refusal::TransferEncoding) }
        }
    }
}

/// Digits only: a parser of numbers would take a sign too.
fn length_of(value: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    // The library's own limit is a little below the largest number.
    digits.parse().ok().filter(|length| i64::try_from(*length).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(head: &str) -> Option<Refusal> {
        match parse(head.as_bytes()) {
            Head::Refused(refusal) => Some(refusal),
            Head::Complete(length, _) => {
                assert_eq!(length, head.len());
                None
            }
            Head::Partial => panic!("{head:?} is not complete"),
        }
    }

    /// A request of HTTP/1.1 has exactly one Host, and it is a host.
    #[test]
    fn a_host_is_needed_and_is_one() {
        for (fields, expected) in [
            ("Host: a\r\n", None),
            ("host:a:8080\r\n", None),
            ("Host: [::1]:8080\r\n", None),
            ("Host: holdfast.example:\r\n", None),
            ("", Some(Refusal::Host)),
            ("Host:\r\n", Some(Refusal::Host)),
            ("Host: a b\r\n", Some(Refusal::Host)),
            ("Host: u@a\r\n", Some(Refusal::Host)),
            ("Host: a/../b\r\n", Some(Refusal::Host)),
            ("Host: a:65536\r\n", Some(Refusal::Host)),
            ("Host: a:x\r\n", Some(Refusal::Host)),
            ("Host: :80\r\n", Some(Refusal::Host)),
            ("Host: a\r\nHost: a\r\n", Some(Refusal::Host)),
        ] {
            assert_eq!(refusal(&format!("GET / HTTP/1.1\r\n{fields}\r\n")), expected, "{fields:?}");
        }
        assert_eq!(refusal("GET / HTTP/1.0\r\n\r\n"), None);
        assert_eq!(refusal("GET / HTTP/1.0\r\nHost: a b\r\n\r\n"), Some(Refusal::Host));
    }

    /// A body has one length, said in one way.
    #[test]
    fn a_body_has_one_length() {
        for (fields, expected) in [
            ("", Ok(Framing::Length(0))),
            ("Content-Length: 5\r\n", Ok(Framing::Length(5))),
            ("Transfer-Encoding: chunked\r\n", Ok(Framing::Chunked)),
            ("Transfer-Encoding:Chunked \r\n", Ok(Framing::Chunked)),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(Refusal::TwoLengths)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(Refusal::TwoLengths)),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Err(Refusal::ContentLength)),
            ("Content-Length: 5, 5\r\n", Err(Refusal::ContentLength)),
            ("Content-Length: +5\r\n", Err(Refusal::ContentLength)),
            ("Content-Length: -5\r\n", Err(Refusal::ContentLength)),
            ("Content-Length:\r\n", Err(Refusal::ContentLength)),
            ("Content-Length: 18446744073709551615\r\n", Err(Refusal::ContentLength)),
            ("Transfer-Encoding: gzip, chunked\r\n", Err(Refusal::TransferEncoding)),
            ("Transfer-Encoding: chunked, chunked\r\n", Err(Refusal::TransferEncoding)),
            ("Transfer-Encoding: identity, chunked\r\n", Err(Refusal::TransferEncoding)),
            ("Transfer-Encoding: identity\r\n", Err(Refusal::TransferEncoding)),
            ("Transfer-Encoding: xchunked\r\n", Err(Refusal::TransferEncoding)),
            ("Transfer-Encoding: chunked;q=1\r\n", Err(Refusal::TransferEncoding)),
            ("Transfer-Encoding:\r\n", Err(Refusal::TransferEncoding)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(Refusal::TransferEncoding)),
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            let expected = match expected {
                Ok(framing) => Head::Complete(head.len(), framing),
                Err(refusal) => Head::Refused(refusal),
            };
            assert_eq!(parse(head.as_bytes()), expected, "{fields:?}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(refusal(old), Some(Refusal::TransferEncoding));
    }

    /// The limits of a head are exact, however it arrives.
    #[test]
    fn the_limits_of_a_head_are_exact() {
        let padded = |length: usize| {
            let rest = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(length - rest))
        };
        assert_eq!(refusal(&padded(HEAD_BYTES_MAX)), None);
        assert_eq!(refusal(&padded(HEAD_BYTES_MAX + 1)), Some(Refusal::TooLarge));
        let endless = "x".repeat(HEAD_BYTES_MAX + 1);
        assert_eq!(
            parse(format!("GET / HTTP/1.1\r\nX: {endless}").as_bytes()),
            Head::Refused(Refusal::TooLarge)
        );
        let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(count));
        assert_eq!(refusal(&fields(HEAD_FIELDS_MAX - 1)), None);
        assert_eq!(refusal(&fields(HEAD_FIELDS_MAX)), Some(Refusal::TooManyFields));
    }

    /// What is not HTTP is refused as early as that can be seen.
    #[test]
    fn what_is_not_http_is_refused() {
        for bytes in [
            &b"nonsense\r\n\r\n"[..],
            b"\x16\x03\x01\x02\x00",
            b"GET / HTTP/2.0\r\n\r\n",
            b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
            b"GET http:// HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert_eq!(parse(bytes), Head::Refused(Refusal::Syntax), "{:?}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(parse(b"GET / HT"), Head::Partial);
    }
}
