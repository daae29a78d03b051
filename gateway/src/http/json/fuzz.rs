//! Whatever a body is, it is taken only if it is JSON of the right shape. More cases: `PROPTEST_CASES=1000000 cargo test -p
//! holdfast-gateway fuzz`.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer {
    name: Option<String>,
    items: Vec<Object<Inner>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inner {
    #[serde(deserialize_with = "whole_number")]
    count: u32,
    price: Box<RawValue>,
}

/// Any JSON, of keys that we know and keys that we don't.
fn value() -> impl Strategy<Value = String> {
    let text = prop_oneof![any::<String>(), Just("x".repeat(70_000))];
    let text = text.prop_map(|text| serde_json::to_string(&text).expect("a text"));
    let number = "-?(0|[1-9][0-9]{0,11})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,4})?";
    let leaf = prop_oneof![3 => number, 2 => text, 1 => select(vec!["null", "true", "{}", "[]"]).prop_map(str::to_owned)];
    leaf.prop_recursive(4, 40, 4, |inner| {
        let key = select(vec!["name", "items", "count", "price", "Items", "", "a~/b", "\\u0069tems", "…"]);
        let object = vec((key, inner.clone()), 0..5).prop_map(|members| {
            let members: Vec<_> = members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            format!("{{{}}}", members.join(","))
        });
        let array = vec(inner, 0..4).prop_map(|values| format!("[{}]", values.join(",")));
        prop_oneof![3 => object, 1 => array]
    })
}

/// Bodies of the right shape, or almost.
fn fitting() -> impl Strategy<Value = String> {
    let item = ("(0|[1-9][0-9]{0,9})", value())
        .prop_map(|(count, price)| format!("{{\"count\": {count}, \"price\": {price}}}"));
    vec(item, 0..4).prop_map(|items| format!("{{\"items\": [{}]}}", items.join(" , ")))
}

fn outcome(body: &[u8]) -> Result<Outer, (u16, Problem)> {
    parse::<Object<Outer>>(body)
        .map(|Object(outer)| outer)
        .map_err(|problem| (problem.clone().into_response().status().as_u16(), problem))
}

proptest! {
    /// What is no JSON is 400 or, if that shows first, 422. JSON is never 400, unless a text in it is none (a surrogate alone).
    #[test]
    fn only_json_is_taken(body in prop_oneof![value(), fitting()], cut in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = body.clone().into_bytes();
        let known = outcome(&bytes);
        prop_assert!(known.as_ref().is_err_and(|(status, _)| *status == 422) || known.is_ok(), "{known:?}");
        // The same with a byte replaced, and cut off.
        let at = cut.index(bytes.len());
        bytes[at] = byte;
        for changed in [&bytes[..], &bytes[..at]] {
            let is_json = serde_json::from_slice::<&RawValue>(changed).is_ok();
            match outcome(changed) {
                Ok(_) => prop_assert!(is_json),
                Err((status, _)) => prop_assert!(status == 422 || status == 400 && (!is_json || changed.contains(&b'\\')), "{status}"),
            }
        }
    }

    /// Arbitrary bytes are not taken, and what is said about them can be shown.
    #[test]
    fn arbitrary_bytes_are_refused(bytes in vec(any::<u8>(), 0..300)) {
        let refused = outcome(&bytes).err();
        prop_assert!(refused.is_some());
    }

    /// A refusal is short and names no type of the language; what it points at is there.
    #[test]
    fn a_refusal_is_short_and_points_at_what_is_wrong(body in prop_oneof![value(), fitting()]) {
        let Err((_, problem)) = outcome(body.as_bytes()) else { return Ok(()) };
        let said = format!("{problem:?}");
        prop_assert!(said.len() < 4_000, "{}", said.len());
        prop_assert!(!["u32", "u64", "i64", "usize", "struct", "RawValue"].iter().any(|name| said.contains(name)), "{said}");
    }

    /// Numbers are exact: a count is the one that was written, an amount the very text.
    #[test]
    fn what_is_taken_is_what_was_written(count in any::<u64>(), price in "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,9})?") {
        let body = format!("{{\"items\":[{{\"price\":{price},\"count\":{count}}}]}}");
        match outcome(body.as_bytes()) {
            Ok(outer) => {
                let Object(item) = &outer.items[0];
                prop_assert_eq!(u64::from(item.count), count);
                prop_assert_eq!(item.price.get(), price);
                prop_assert!(outer.name.is_none());
            }
            Err((status, _)) => prop_assert!(status == 422 && count > u64::from(u32::MAX)),
        }
    }
}
