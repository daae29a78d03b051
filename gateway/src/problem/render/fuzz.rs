//! Whatever is said in a problem, the document can be read. More cases: `PROPTEST_CASES=1000000 cargo test -p holdfast-gateway fuzz`.

use axum::http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::Value;

use super::*;

/// The most that one text takes: each of its 256 characters may become six of ASCII.
const TEXT_BYTES_MAX: usize = 256 * 6;
/// The rest of a document, and of an entry of `errors`.
const FRAME_BYTES_MAX: usize = 512;

fn text() -> impl Strategy<Value = String> {
    let long = (".{1,3}", 1..2_000_usize).prop_map(|(text, times)| text.repeat(times));
    prop_oneof![any::<String>(), "[\\x00-\\x20\"\\\\\u{fffd}\u{2028}]{0,40}", long]
}

proptest! {
    /// The document is JSON of its media type, says what it was given, and is not longer than its texts may be.
    #[test]
    fn a_document_can_be_read_whatever_it_says(
        kind in select(ProblemType::ALL.to_vec()),
        detail in text(),
        errors in vec((text(), text()), 0..5),
        wait in proptest::option::of(any::<u64>()),
        instance in "[0-9a-f]{32}",
    ) {
        let fields = errors.iter().map(|(pointer, detail)| FieldError::new(pointer, detail)).collect::<Vec<_>>();
        let mut problem = Problem { errors: fields, ..Problem::new(kind, &detail) };
        if let Some(seconds) = wait {
            problem = problem.retry_after(seconds);
        }
        let mut response = problem.into_response();
        render(&mut response, &instance);

        prop_assert_eq!(response.status(), kind.status());
        prop_assert_eq!(&response.headers()[CONTENT_TYPE], "application/problem+json");
        prop_assert_eq!(response.headers().contains_key(header::RETRY_AFTER), wait.is_some());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let body = runtime.block_on(response.into_body().collect()).expect("in memory").to_bytes();
        let texts = 1 + 2 * errors.len();
        prop_assert!(body.len() <= texts * TEXT_BYTES_MAX + (1 + errors.len()) * FRAME_BYTES_MAX, "{}", body.len());
        let document: Value = serde_json::from_slice(&body).expect("JSON");
        let members: Vec<_> = document.as_object().expect("an object").keys().collect();
        prop_assert_eq!(members.len(), if errors.is_empty() { 5 } else { 6 }, "{:?}", members);
        prop_assert_eq!(&document["instance"], &instance);
        prop_assert_eq!(&document["status"], kind.status().as_u16());
        prop_assert!(is_said(&document["detail"], &detail), "{} of {detail:?}", document["detail"]);
        for (index, (pointer, detail)) in errors.iter().enumerate() {
            let entry = &document["errors"][index];
            prop_assert!(is_said(&entry["pointer"], pointer) && is_said(&entry["detail"], detail), "{entry}");
        }
    }
}

/// Whether this is the text: all of it, or its beginning and its end.
fn is_said(value: &Value, text: &str) -> bool {
    let said = value.as_str().expect("a text");
    if text.chars().count() <= 256 {
        return said == text;
    }
    let around = said.char_indices().filter(|(_, letter)| *letter == '…');
    said.chars().count() <= 256
        && around.map(|(place, mark)| (&said[..place], &said[place + mark.len_utf8()..])).any(
            |(begin, end)| begin.chars().count() == 128 && text.starts_with(begin) && text.ends_with(end),
        )
}
