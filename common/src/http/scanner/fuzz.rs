//! Whatever bytes come, and however they are cut, the scanner finds the same messages in them, and only such that can be read in one
//! way. More cases: `PROPTEST_CASES=1000000 cargo test -p holdfast-common --lib http:: -- fuzz`.

use proptest::{collection::vec, prelude::*, sample::select};

use crate::http::messages::{cut, finished, mutated, pieces, scan_pieces, stream};

/// The bytes of a head, the empty line behind it included.
fn head_of(bytes: &[u8]) -> Option<&[u8]> {
    let line_feeds = bytes.windows(2).position(|pair| pair == b"\n\n").map(|at| at + 2);
    let strict = bytes.windows(3).position(|three| three == b"\n\r\n").map(|at| at + 3);
    line_feeds.into_iter().chain(strict).min().map(|end| &bytes[..end])
}

/// What a head says in all fields of this name.
fn values(head: &[u8], name: &str) -> Vec<Vec<u8>> {
    let fields = head.split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((&line[..colon], &line[colon + 1..]))
    });
    let named = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes()));
    named.map(|(_, value)| value.trim_ascii().to_ascii_lowercase()).collect()
}

/// Reads a message as a second reader, who knows nothing of the scanner: a head, then a body of the one length that it says. Returns
/// what follows; `None` if the message has no such length, or is cut off.
fn read_message(bytes: &[u8]) -> Option<&[u8]> {
    let head = head_of(bytes)?;
    let rest = &bytes[head.len()..];
    match (values(head, "content-length").as_slice(), values(head, "transfer-encoding").as_slice()) {
        ([], []) => Some(rest),
        ([length], []) => rest.get(str::from_utf8(length).ok()?.parse::<usize>().ok()?..),
        ([], [coding]) if coding == b"chunked" => after_chunks(rest),
        _ => None,
    }
}

fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[..end], &bytes[end + 2..]))
}

fn after_chunks(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (size, rest) = line(bytes)?;
        let digits = size.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = usize::from_str_radix(str::from_utf8(&size[..digits]).ok()?, 16).ok()?;
        if size == 0 {
            bytes = rest;
            break;
        }
        let (after, rest) = line(rest.get(size..)?)?;
        if !after.is_empty() {
            return None;
        }
        bytes = rest;
    }
    loop {
        let (trailer, rest) = line(bytes)?;
        bytes = rest;
        if trailer.is_empty() {
            return Some(bytes);
        }
    }
}

proptest! {
    /// The same bytes pass and the same verdict is found, however the bytes are cut. Empty lines at the end finish whatever head
    /// is unfinished: before that, a whole head may be refused already of which a piece is still looked at.
    #[test]
    fn the_verdict_is_the_same_however_the_bytes_are_cut(
        bytes in mutated(stream()), pieces in pieces(),
    ) {
        let bytes = finished(&bytes);
        let whole = scan_pieces([&bytes[..]]);
        prop_assert_eq!(&scan_pieces(cut(&bytes, &pieces)), &whole);
        prop_assert_eq!(&scan_pieces(bytes.chunks(1)), &whole);
    }

    /// Arbitrary bytes neither panic nor pass unless they are heads.
    #[test]
    fn arbitrary_bytes_are_no_heads(
        bytes in vec(prop_oneof![any::<u8>(), select(b"\r\n :/GET HTP1.0".to_vec())], 0..200), pieces in pieces(),
    ) {
        let bytes = finished(&bytes);
        let found = scan_pieces(cut(&bytes, &pieces));
        prop_assert!(found.heads > 0 || found.passed.is_empty(), "{found:?}");
        prop_assert_eq!(scan_pieces([&bytes[..]]), found);
    }

    /// A second reader finds as many messages in what has passed, none of which has two lengths.
    #[test]
    fn what_has_passed_can_be_read_in_one_way(bytes in mutated(stream())) {
        let found = scan_pieces([&bytes[..]]);
        if bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") {
            // Frames follow, which are not its business.
            prop_assert_eq!(found.passed, bytes);
            return Ok(());
        }
        let mut rest = &found.passed[..];
        for message in 1..=found.heads {
            let Some(after) = read_message(rest) else {
                // Only the last one may be cut off.
                prop_assert_eq!(message, found.heads, "{:?}", found);
                break;
            };
            rest = after;
        }
        let head = head_of(rest).unwrap_or_default();
        prop_assert!(values(head, "content-length").is_empty() || values(head, "transfer-encoding").is_empty());
    }
}
