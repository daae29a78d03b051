//! Orders at their limits and beyond, against a second opinion. More cases: `PROPTEST_CASES=1000000 cargo test -p holdfast-gateway
//! fuzz`.

use std::fmt::Write as _;

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

use super::*;

/// A value, and whether it may be sent.
type Judged = (Value, bool);

fn text(good: &'static str, bad: Vec<String>) -> impl Strategy<Value = Judged> {
    prop_oneof![
        4 => good.prop_map(|text: String| (Value::from(text), true)),
        1 => select(bad).prop_map(|text| (Value::from(text), false)),
    ]
}

fn address() -> impl Strategy<Value = Judged> {
    let bad = [
        "",
        "  ",
        "\u{a0}\u{2003}",
        "a\u{0}b",
        "a\nb",
        "a\u{202e}b",
        "a\u{2066}b",
        "\u{200b}\u{feff}",
        "a\u{2028}b",
    ];
    let bad = bad.map(str::to_owned).into_iter().chain(["é".repeat(501)]);
    text("[A-Za-z0-9é😀][A-Za-z0-9 ,é😀]{0,499}", bad.collect())
}

fn product() -> impl Strategy<Value = Judged> {
    let bad = ["", " ", "a b", "é", "a/b", "a\u{0}"].map(str::to_owned).into_iter().chain(["x".repeat(65)]);
    text("[A-Za-z0-9._:-]{1,64}", bad.collect())
}

fn quantity() -> impl Strategy<Value = Judged> {
    let edges = select(vec![0, 1, 9_999, 10_000, 10_001, u32::MAX]);
    prop_oneof![1..=10_000_u32, edges]
        .prop_map(|quantity| (quantity.into(), (1..=10_000).contains(&quantity)))
}

/// A price as somebody may write it: its digits, how many of them are decimals, an exponent.
#[derive(Debug, Clone)]
struct Price {
    text: String,
    /// Its cents, if it has whole ones.
    cents: Option<i128>,
}

fn price() -> impl Strategy<Value = Price> {
    let digits = prop_oneof![4 => 0..200_000_000_i128, 1 => 0..10_i128.pow(15)];
    (any::<prop::sample::Index>(), digits, 0..5_u32, -4..5_i32, any::<bool>()).prop_map(
        |(sign, digits, decimals, exponent, with_exponent)| {
            let is_negative = sign.index(10) == 0;
            let unit = 10_i128.pow(decimals);
            let mut text = format!("{}{}", if is_negative { "-" } else { "" }, digits / unit);
            if decimals > 0 {
                let _ = write!(text, ".{:0width$}", digits % unit, width = decimals as usize);
            }
            let exponent = if with_exponent { exponent } else { 0 };
            if with_exponent {
                let _ = write!(text, "e{exponent}");
            }
            // In units of 10^-10, so that nothing is lost.
            let exact = digits
                * 10_i128.pow(
                    u32::try_from(10 - i32::try_from(decimals).expect("few") + exponent).expect("positive"),
                );
            let cents = (exact % 10_i128.pow(8) == 0).then_some(exact / 10_i128.pow(8));
            Price { text, cents: cents.map(|cents| if is_negative { -cents } else { cents }) }
        },
    )
}

proptest! {
    /// An order is taken exactly if each of its parts may be sent; otherwise each wrong part is named, and no other.
    #[test]
    fn each_wrong_part_is_named_and_no_other(
        (address, address_fits) in address(),
        lines in vec((product(), quantity(), price()), 0..5),
    ) {
        let mut expected = Vec::new();
        if !address_fits {
            expected.push("/delivery_address".to_owned());
        }
        if lines.is_empty() {
            expected.push("/items".to_owned());
        }
        let mut items = Vec::new();
        for (index, ((product, product_fits), (quantity, quantity_fits), price)) in lines.iter().enumerate() {
            let price_fits = price.cents.is_some_and(|cents| (1..=100_000_000).contains(&cents));
            let parts = [("product_id", *product_fits), ("quantity", *quantity_fits), ("price", price_fits)];
            let wrong = parts.iter().filter(|(_, fits)| !fits);
            expected.extend(wrong.map(|(name, _)| format!("/items/{index}/{name}")));
            // The price as text: JSON's own numbers would round it.
            items.push(format!("{{\"product_id\": {product}, \"quantity\": {quantity}, \"price\": {}}}", price.text));
        }
        let body = format!("{{\"items\": [{}], \"delivery_address\": {address}}}", items.join(", "));
        let Object(new) = json::parse::<Object<NewOrder>>(body.as_bytes()).expect("its shape is right");
        match check(&new) {
            Ok(items) => {
                prop_assert!(expected.is_empty(), "{expected:?} in {body}");
                for (item, (.., price)) in items.iter().zip(&lines) {
                    prop_assert_eq!(item.price.as_ref().map(|price| i128::from(price.minor_units)), price.cents);
                }
            }
            Err(errors) => {
                let named: Vec<_> = errors.into_iter().map(|error| error.pointer).collect();
                prop_assert_eq!(named, expected, "{}", body);
            }
        }
    }

    /// A good order with some of its text changed is refused, or it is an order within all limits.
    #[test]
    fn what_is_taken_is_within_all_limits(
        edits in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let good = json!({"delivery_address": "1 Quay", "items": [{"product_id": "tea", "quantity": 2, "price": 12.5}]});
        let mut body: Vec<char> = good.to_string().chars().collect();
        let letters: Vec<char> = "\"\\{}[]:,0123456789.eE+-tnul \u{0}\u{7f}é\u{202e}".chars().collect();
        for (at, letter) in edits {
            let (at, letter) = (at.index(body.len()), letters[letter.index(letters.len())]);
            body[at] = letter;
        }
        let body: String = body.into_iter().collect();
        let Ok(Object(new)) = json::parse::<Object<NewOrder>>(body.as_bytes()) else { return Ok(()) };
        let Ok(items) = check(&new) else { return Ok(()) };
        prop_assert!(!new.delivery_address.chars().any(char::is_control) && !new.delivery_address.trim().is_empty());
        prop_assert_eq!(items.len(), 1);
        let price = items[0].price.as_ref().map_or(0, |price| price.minor_units);
        prop_assert!((1..=10_000).contains(&items[0].quantity) && (1..=100_000_000).contains(&price), "{body}");
    }
}
