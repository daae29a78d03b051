//! Whatever stands in a path or a query, it is a valid parameter or a refusal. More cases: `PROPTEST_CASES=1000000 cargo test -p
//! holdfast-gateway fuzz`.

use axum::{Router, body::Body, extract::Request, routing::get};
use http_body_util::BodyExt as _;
use proptest::{collection::vec, prelude::*, sample::select};
use tower::ServiceExt as _;

use super::*;

/// A text as it may stand in a URI: some of its bytes as they are, some in hexadecimal.
fn encoded(text: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = String> {
    (text, any::<bool>()).prop_map(|(text, all)| {
        let byte = |byte: &u8| {
            let is_plain = byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
            if is_plain && !all { char::from(*byte).to_string() } else { format!("%{byte:02x}") }
        };
        text.iter().map(byte).collect()
    })
}

/// An id, or what looks like one.
fn id() -> impl Strategy<Value = Vec<u8>> {
    let changed = (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| {
        let mut id = OrderId::generate().to_string().into_bytes();
        let at = at.index(id.len());
        id[at] = byte;
        id
    });
    let good = Just(()).prop_map(|()| OrderId::generate().to_string());
    let upper = good.clone().prop_map(|id| id.to_uppercase().into_bytes());
    prop_oneof![good.prop_map(String::into_bytes), changed, upper, vec(any::<u8>(), 0..60)]
}

fn router() -> Router {
    Router::new()
        .route("/orders/{id}", get(|PathOrderId(id): PathOrderId| async move { id.to_string() }))
        .route(
            "/users/{id}",
            get(|PathUserId(id): PathUserId| async move { id.map_or_else(String::new, |id| id.to_string()) }),
        )
}

/// What a handler was given, and the status.
fn given(path: &str) -> (u16, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let request = Request::get(path).body(Body::empty()).expect("a path");
        let response = router().oneshot(request).await.expect("infallible");
        let status = response.status().as_u16();
        (status, response.into_body().collect().await.expect("in memory").to_bytes().to_vec())
    })
}

fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        let pair =
            (byte == b'%').then(|| [bytes.next(), bytes.next()].map(|digit| digit.map_or('0', char::from)));
        decoded.push(
            pair.map_or(byte, |pair| u8::from_str_radix(&String::from_iter(pair), 16).expect("hexadecimal")),
        );
    }
    decoded
}

proptest! {
    /// A path names an order by its one spelling, or nothing.
    #[test]
    fn a_path_names_an_order_by_its_one_spelling(id in encoded(id())) {
        let (status, seen) = given(&format!("/orders/{id}"));
        if status == 200 {
            prop_assert_eq!(seen, decoded(&id));
        } else {
            prop_assert_eq!(status, 404);
        }
    }

    /// The user that a path names is the very text, in printable ASCII, or none.
    #[test]
    fn a_path_names_a_user_by_the_very_text(id in encoded(prop_oneof![id(), "[!-~]{1,140}".prop_map(String::into_bytes)])) {
        let (_, seen) = given(&format!("/users/{id}"));
        if !seen.is_empty() {
            prop_assert!(seen.len() <= 128 && seen.iter().all(u8::is_ascii_graphic));
            prop_assert_eq!(seen, decoded(&id));
        }
    }

    /// A page is within its limits, whatever the query.
    #[test]
    fn a_page_is_within_its_limits(
        parameters in vec((select(vec!["limit", "cursor", "limit", "cursor", "unlimited", "%6Cimit", ""]), prop_oneof![encoded(id()), encoded("[+-]?[0-9]{0,12}".prop_map(String::into_bytes))]), 0..4),
        joint in select(vec!["=", "=", "=", "", "=="]),
    ) {
        let query: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}{joint}{value}")).collect();
        let uri: Uri = format!("/api/orders?{}", query.join("&")).parse().expect("a URI");
        match Page::parse(&uri) {
            Ok(page) => {
                prop_assert!((1..=PAGE_SIZE_MAX).contains(&page.limit));
                prop_assert!(parameters.len() <= 2 && !parameters.iter().any(|(name, _)| *name == "unlimited"));
                for (name, value) in parameters {
                    let value = decoded(&value);
                    match name {
                        "cursor" if joint == "=" => prop_assert_eq!(value, page.cursor.map(|id| id.to_string()).unwrap_or_default().into_bytes()),
                        "limit" | "%6Cimit" if joint == "=" => prop_assert!(value.iter().all(u8::is_ascii_digit), "{value:?}"),
                        _ => {}
                    }
                }
            }
            Err(error) => prop_assert!(["", "/limit", "/cursor"].contains(&error.pointer.as_str())),
        }
    }
}
