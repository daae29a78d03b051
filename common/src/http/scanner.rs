//! Finds where each message of a connection begins and ends, so that every head is seen. It is a pure function of the bytes.
//!
//! It must never let more pass as a body than the HTTP library takes for one. So it takes only the strict form, and what follows a
//! body in another form never reaches the library.

use super::head::{self, Framing, Head, Refusal};

/// How a client that speaks HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Most bytes of a chunk's size line, its extensions included, and of all trailers.
const LINE_BYTES_MAX: usize = 4 * 1024;

/// Where in the stream of bytes the next one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the beginning of the connection.
    Start,
    /// In a head, or before it.
    Head,
    /// In a body, with so many bytes left.
    Length(u64),
    /// In a body of chunks.
    Chunked(Chunk),
    /// The connection speaks HTTP/2, which has frames instead.
    Http2,
    /// After a body that is wrong: nothing that follows can be trusted.
    Broken,
}

/// Where in a body of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// In the digits of a size: the size so far, and how many digits there were.
    Size(u64, usize),
    /// In what follows the size.
    Extension(u64, usize),
    /// Before the line feed of the size line.
    SizeEnd(u64),
    /// In the data, with so many bytes left.
    Data(u64),
    /// Before the carriage return after the data.
    DataEnd,
    /// Before the line feed after the data.
    DataEndLf,
    /// At the start of a line after the last chunk, with so many bytes of trailers so far.
    Line(usize),
    /// In such a line.
    Trailer(usize),
    /// Before the line feed of such a line.
    TrailerLf(usize),
    /// Before the very last line feed.
    LastLf,
}

/// What a scan found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Empty lines before a head: so many bytes at the beginning that nobody needs.
    pub(super) skipped: usize,
    /// So many bytes after those may go on.
    pub(super) passed: usize,
    /// So many heads are in them.
    pub(super) heads: usize,
    /// What follows them is the beginning of a head.
    pub(super) is_in_head: bool,
    /// What follows them is refused.
    pub(super) refusal: Option<Refusal>,
    /// What follows them is not a body, and nothing more may go on.
    pub(super) is_broken: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Scanner {
    place: Place,
    /// So many bytes of the unfinished head were searched for its end.
    searched: usize,
}

impl Scanner {
    pub(super) const fn new() -> Self {
        Self { place: Place::Start, searched: 0 }
    }

    /// Whether a message is only partly there.
    pub(super) fn is_in_message(&self) -> bool {
        self.searched > 0 || !matches!(self.place, Place::Start | Place::Head | Place::Http2)
    }

    /// Scans bytes that begin where the last scan stopped passing.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut scan = Scan::default();
        loop {
            let rest = &bytes[scan.skipped + scan.passed..];
            if rest.is_empty() {
                return scan;
            }
            match self.place {
                Place::Start if rest.starts_with(PREFACE) => self.place = Place::Http2,
                Place::Start if PREFACE.starts_with(rest) => {
                    scan.is_in_head = true;
                    return scan;
                }
                Place::Start => self.place = Place::Head,
                Place::Http2 => {
                    scan.passed += rest.len();
                    return scan;
                }
                Place::Broken => {
                    scan.is_broken = true;
                    return scan;
                }
                Place::Length(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    scan.passed += taken;
                    self.place = after(left - taken as u64);
                }
                Place::Chunked(chunk) => self.chunk(chunk, rest, &mut scan),
                Place::Head => {
                    if self.head(rest, &mut scan).is_break() {
                        return scan;
                    }
                }
            }
        }
    }

    fn head(&mut self, rest: &[u8], scan: &mut Scan) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        let empty = rest.chunks(2).take_while(|pair| *pair == b"\r\n").count() * 2;
        if empty > 0 && self.searched == 0 {
            // Empty lines before a head are ignored (RFC 9112, 2.2). They are dropped here, or the library would store them.
            if scan.passed > 0 {
                return Break(());
            }
            scan.skipped += empty;
            return Continue(());
        }
        if rest == b"\r" {
            return Break(());
        }
        if rest[0] == b'\n' {
            // The parser would ignore an empty line without its carriage return too, but only one that comes with what follows it.
            scan.refusal = Some(Refusal::Syntax);
            self.place = Place::Broken;
            return Break(());
        }
        // The first bytes are parsed at once, so that what is not HTTP ends at once. After that only the end matters: parsing a head
        // that arrives byte by byte again with each byte would cost its square.
        let is_first = self.searched == 0;
        if !is_first && !has_end(rest, self.searched) && rest.len() <= head::HEAD_BYTES_MAX {
            self.searched = rest.len();
            scan.is_in_head = true;
            return Break(());
        }
        match head::parse(rest) {
            Head::Partial if is_first || !has_end(rest, 0) => {
                self.searched = rest.len();
                scan.is_in_head = true;
                return Break(());
            }
            Head::Partial => scan.refusal = Some(Refusal::Syntax),
            Head::Refused(refusal) => scan.refusal = Some(refusal),
            Head::Complete(length, framing) => {
                self.searched = 0;
                scan.passed += length;
                scan.heads += 1;
                self.place = match framing {
                    Framing::Length(length) => after(length),
                    Framing::Chunked => Place::Chunked(Chunk::Size(0, 0)),
                };
                return Continue(());
            }
        }
        self.place = Place::Broken;
        Break(())
    }

    fn chunk(&mut self, chunk: Chunk, rest: &[u8], scan: &mut Scan) {
        if let Chunk::Data(left) = chunk {
            let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            scan.passed += taken;
            let left = left - taken as u64;
            self.place = Place::Chunked(if left == 0 { Chunk::DataEnd } else { Chunk::Data(left) });
            return;
        }
        self.place = match step(chunk, rest[0]) {
            Step::Next(chunk) => Place::Chunked(chunk),
            Step::End => Place::Head,
            Step::Wrong => Place::Broken,
        };
        if self.place != Place::Broken {
            scan.passed += 1;
        }
    }
}

fn after(left: u64) -> Place {
    if left == 0 { Place::Head } else { Place::Length(left) }
}

/// Whether there is an empty line, of which the last byte is behind `searched`.
fn has_end(bytes: &[u8], searched: usize) -> bool {
    let bytes = &bytes[searched.saturating_sub(3)..];
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

enum Step {
    Next(Chunk),
    End,
    Wrong,
}

/// One byte of a body of chunks, outside of the data (RFC 9112, 7.1).
fn step(chunk: Chunk, byte: u8) -> Step {
    let next = match (chunk, byte) {
        (Chunk::Size(size, digits), _) if byte.is_ascii_hexdigit() => {
            let digit = char::from(byte).to_digit(16).map(u64::from);
            match digit.and_then(|digit| size.checked_mul(16)?.checked_add(digit)) {
                // Fifteen digits never overflow, and no body is longer.
                Some(size) if digits < 15 => Chunk::Size(size, digits + 1),
                _ => return Step::Wrong,
            }
        }
        (Chunk::Size(_, 0), _) => return Step::Wrong,
        (Chunk::Size(size, _) | Chunk::Extension(size, _), b'\r') => Chunk::SizeEnd(size),
        (Chunk::Size(size, _), b';' | b' ' | b'\t') => Chunk::Extension(size, 0),
        (Chunk::Extension(size, length), _) if byte != b'\n' && length < LINE_BYTES_MAX => {
            Chunk::Extension(size, length + 1)
        }
        (Chunk::SizeEnd(0), b'\n') => Chunk::Line(0),
        (Chunk::SizeEnd(size), b'\n') => Chunk::Data(size),
        (Chunk::DataEnd, b'\r') => Chunk::DataEndLf,
        (Chunk::DataEndLf, b'\n') => Chunk::Size(0, 0),
        (Chunk::Line(_), b'\r') => Chunk::LastLf,
        (Chunk::LastLf, b'\n') => return Step::End,
        (Chunk::Trailer(length), b'\r') => Chunk::TrailerLf(length + 1),
        (Chunk::TrailerLf(length), b'\n') => Chunk::Line(length + 1),
        (Chunk::Line(length) | Chunk::Trailer(length), _) if byte != b'\n' && length < LINE_BYTES_MAX => {
            Chunk::Trailer(length + 1)
        }
        _ => return Step::Wrong,
    };
    Step::Next(next)
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::messages::{Scanned, scan_pieces};

    fn scanned(bytes: &[u8], piece: usize) -> (Vec<u8>, usize, Option<Refusal>, bool) {
        let Scanned { passed, heads, refusal, is_broken } = scan_pieces(bytes.chunks(piece));
        (passed.into(), heads, refusal, is_broken)
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// Every head is seen, however the bytes are cut, and nothing of a body is taken for a head.
    #[test]
    fn every_head_is_seen_however_the_bytes_are_cut() {
        let length = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{GET}", GET.len());
        let chunked = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x};a=b\r\n{GET}\r\n1 \r\nx\r\n0\r\nT: 1\r\n\r\n",
            GET.len()
        );
        let stream = [GET, &length, GET, &chunked, GET].concat();
        for piece in [1, 2, 3, 7, 64, stream.len()] {
            let (passed, heads, refusal, is_broken) = scanned(stream.as_bytes(), piece);
            assert_eq!(String::from_utf8_lossy(&passed), stream, "{piece}");
            assert_eq!((heads, refusal, is_broken), (5, None, false), "{piece}");
        }
    }

    /// Empty lines before a head are dropped.
    #[test]
    fn empty_lines_before_a_head_are_dropped() {
        for piece in [1, 2, 5, 1_000] {
            let stream = format!("\r\n\r\n{GET}\r\n{GET}");
            let (passed, heads, refusal, _) = scanned(stream.as_bytes(), piece);
            assert_eq!((passed, heads, refusal), ([GET, GET].concat().into_bytes(), 2, None), "{piece}");
        }
    }

    /// A line feed alone is no empty line, however it arrives.
    #[test]
    fn a_line_feed_alone_is_no_empty_line() {
        for start in ["\n", "\r\n\n", "\n\r\n"] {
            for piece in [1, 2, 1_000] {
                let (passed, heads, refusal, _) = scanned(format!("{start}{GET}").as_bytes(), piece);
                assert_eq!(
                    (passed, heads, refusal),
                    (Vec::new(), 0, Some(Refusal::Syntax)),
                    "{start:?} {piece}"
                );
            }
        }
    }

    /// A head behind a good request is looked at too.
    #[test]
    fn a_bad_head_behind_a_good_one_is_refused() {
        for piece in [1, 4, 1_000] {
            let stream = format!("{GET}GET / HTTP/1.1\r\n\r\n{GET}");
            let (passed, heads, refusal, _) = scanned(stream.as_bytes(), piece);
            assert_eq!(
                (passed, heads, refusal),
                (GET.as_bytes().to_vec(), 1, Some(Refusal::Host)),
                "{piece}"
            );
        }
    }

    /// After a body in a form that two parties could read in two ways nothing goes on.
    #[test]
    fn nothing_follows_a_body_that_is_wrong() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (body, passed_of_body) in [
            ("5\nhello\r\n0\r\n\r\n", 1),
            ("\r\n0\r\n\r\n", 0),
            ("0x5\r\nhello\r\n0\r\n\r\n", 1),
            ("+5\r\nhello\r\n", 0),
            ("5\r\nhelloX\r\n0\r\n\r\n", 8),
            ("5\r\nhello\n0\r\n\r\n", 8),
            ("5;a\nb\r\nhello\r\n", 3),
            ("0\r\n\n", 3),
            ("0\r\nT: 1\n\r\n", 7),
            ("1000000000000000\r\n", 15),
        ] {
            for piece in [1, 1_000] {
                let stream = format!("{head}{body}{GET}");
                let (passed, heads, refusal, is_broken) = scanned(stream.as_bytes(), piece);
                assert_eq!((heads, refusal, is_broken), (1, None, true), "{body:?}");
                assert_eq!(passed.len(), head.len() + passed_of_body, "{body:?}");
            }
        }
    }

    /// HTTP/2 begins with its preface, and only at the start of a connection.
    #[test]
    fn http2_begins_with_its_preface() {
        let stream = [PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat();
        for piece in [1, 10, 1_000] {
            assert_eq!(scanned(&stream, piece), (stream.clone(), 0, None, false));
            let later = [GET.as_bytes(), PREFACE].concat();
            assert_eq!(scanned(&later, piece), (GET.as_bytes().to_vec(), 1, Some(Refusal::Syntax), false));
        }
    }

    /// A head that never ends is held back, and its limit is the same byte by byte and at once.
    #[test]
    fn a_head_without_end_is_held_back() {
        let mut scanner = Scanner::new();
        let begun = b"GET / HTTP/1.1\r\nHost: a\r\nX: ";
        assert_eq!(scanner.scan(begun), Scan { is_in_head: true, ..Scan::default() });
        assert!(scanner.is_in_message());
        let endless = [&begun[..], &b"x".repeat(head::HEAD_BYTES_MAX)].concat();
        for piece in [100, 33_000] {
            assert_eq!(scanned(&endless, piece), (Vec::new(), 0, Some(Refusal::TooLarge), false));
        }
    }
}
