//! Streams of requests for property tests: good ones, ambiguous ones, and ones in which some bytes were changed; and what the scanner
//! finds in them.

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::select};

use super::{Refusal, scanner::Scanner};

/// What the scanner has found in all bytes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    /// The bytes that went on.
    pub(super) passed: Bytes,
    pub(super) heads: usize,
    pub(super) refusal: Option<Refusal>,
    pub(super) is_broken: bool,
}

/// Scans bytes that arrive in these pieces.
pub(super) fn scan_pieces<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> Scanned {
    let mut scanner = Scanner::new();
    let (mut passed, mut heads, mut waiting) = (Vec::new(), 0, Vec::new());
    for piece in pieces {
        waiting.extend_from_slice(piece);
        loop {
            let scan = scanner.scan(&waiting);
            waiting.drain(..scan.skipped);
            passed.extend(waiting.drain(..scan.passed));
            heads += scan.heads;
            if scan.refusal.is_some() || scan.is_broken {
                let (refusal, is_broken) = (scan.refusal, scan.is_broken);
                return Scanned { passed: passed.into(), heads, refusal, is_broken };
            }
            if scan.passed == 0 && scan.skipped == 0 {
                break;
            }
        }
    }
    Scanned { passed: passed.into(), heads, refusal: None, is_broken: false }
}

const TARGETS: [&str; 6] = [
    "GET / HTTP/1.1",
    "POST /echo HTTP/1.1",
    "GET /large HTTP/1.1",
    "POST /echo HTTP/1.0",
    "OPTIONS * HTTP/1.1",
    "GET  / HTTP/1.1",
];
const FIELDS: [&str; 22] = [
    "Host: a",
    "Host: a",
    "host:b:80",
    "Host: a b",
    "Host : a",
    "Content-Length: 5",
    "Content-Length: 0",
    "content-length:\t5 ",
    "Content-Length: +5",
    "Content-Length: 5, 5",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding:CHUNKED ",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding\u{0}: chunked",
    "Transfer_Encoding: chunked",
    "X: 1",
    "X:",
    " folded",
    "Expect: 100-continue",
    "Connection: close",
    "Connection: keep-alive, Transfer-Encoding",
    "\u{e9}: 1",
];
const BODIES: [&str; 10] = [
    "",
    "hello",
    "5\r\nhello\r\n0\r\n\r\n",
    "5;a=\"b\"\r\nhello\r\n0\r\nT: 1\r\n\r\n",
    "05\r\nhello\r\n00\r\n\r\n",
    "0\r\n\r\n",
    "5\nhello\n0\n\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "FFFFFFFFFFFFFFFFF\r\n",
    "GET /echo HTTP/1.1\r\nHost: hidden\r\n\r\n",
];

/// A good request: half of them, so that streams get beyond the first one.
fn good() -> impl Strategy<Value = String> {
    select(vec![
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "\r\nGET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n".to_owned(),
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            .to_owned(),
    ])
}

fn doubtful() -> impl Strategy<Value = String> {
    let end = select(vec!["\r\n", "\r\n", "\r\n", "\n", "\r"]);
    let parts = (select(&TARGETS[..]), vec(select(&FIELDS[..]), 0..5), select(&BODIES[..]), end);
    parts.prop_map(|(target, fields, body, end)| {
        let fields: Vec<_> = fields.iter().flat_map(|field| [*field, end]).collect();
        let fields = fields.concat();
        format!("{target}{end}{fields}{end}{body}")
    })
}

/// Some requests, one behind the other.
pub(super) fn stream() -> impl Strategy<Value = Bytes> {
    let request = prop_oneof![good(), doubtful()];
    let preface = prop_oneof![9 => Just(""), 1 => Just("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")];
    (preface, vec(request, 1..5))
        .prop_map(|(preface, requests)| [preface, &requests.concat()].concat().into())
}

/// A change of some bytes.
#[derive(Debug, Clone)]
enum Edit {
    Replace(u8),
    Insert(u8),
    Remove,
    Repeat,
}

/// The same with up to three bytes replaced, inserted, removed or repeated.
pub(super) fn mutated(bytes: impl Strategy<Value = Bytes>) -> impl Strategy<Value = Bytes> {
    let byte = || prop_oneof![any::<u8>(), select(b"\r\n\0\t :;,/0159aA".to_vec())];
    let edit = prop_oneof![
        byte().prop_map(Edit::Replace),
        byte().prop_map(Edit::Insert),
        Just(Edit::Remove),
        Just(Edit::Repeat)
    ];
    (bytes, vec((any::<prop::sample::Index>(), edit), 0..4)).prop_map(|(bytes, edits)| {
        let mut bytes = Vec::from(bytes);
        for (index, edit) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = index.index(bytes.len());
            match edit {
                Edit::Replace(byte) => bytes[at] = byte,
                Edit::Insert(byte) => bytes.insert(at, byte),
                Edit::Remove => drop(bytes.remove(at)),
                Edit::Repeat => bytes.insert(at, bytes[at]),
            }
        }
        bytes.into()
    })
}

/// Lengths of the pieces in which bytes arrive.
pub(super) fn pieces() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1..4_usize, 1..80_usize], 1..40)
}

/// Cuts bytes into pieces of these lengths; what is left is the last piece.
pub(super) fn cut<'b>(bytes: &'b [u8], pieces: &[usize]) -> Vec<&'b [u8]> {
    let mut rest = bytes;
    let mut cut = Vec::new();
    for length in pieces {
        let (piece, after) = rest.split_at((*length).min(rest.len()));
        cut.push(piece);
        rest = after;
    }
    cut.push(rest);
    cut
}

/// With empty lines at the end, which finish an unfinished head: before that, a whole head may be refused already of which pieces are
/// still waited for.
pub(super) fn finished(bytes: &[u8]) -> Bytes {
    [bytes, b"\r\n\r\n"].concat().into()
}
