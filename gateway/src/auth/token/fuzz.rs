//! A token is taken only as its issuer has signed it. More cases: `PROPTEST_CASES=1000000 cargo test -p holdfast-gateway fuzz`.

use std::sync::LazyLock;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

use super::*;

const NOW_S: u64 = 1_800_000_000;

/// An issuer with a key of each algorithm.
struct World {
    keys: KeySet,
    rules: Rules,
    signers: [(Header, EncodingKey); 2],
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let ed = Ed25519KeyPair::generate().expect("generated");
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("generated");
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (x, y) = ec.public_key().as_ref()[1..].split_at(32);
    let jwks = json!({"keys": [
        {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": text(ed.public_key().as_ref())},
        {"kty": "EC", "crv": "P-256", "kid": "ec", "x": text(x), "y": text(y)},
    ]});
    let header = |algorithm, kid: &str| {
        let mut header = Header::new(algorithm);
        header.typ = Some("at+jwt".to_owned());
        header.kid = Some(kid.to_owned());
        header
    };
    let ed_key = EncodingKey::from_ed_der(ed.to_pkcs8().expect("encoded").as_ref());
    let ec_key = EncodingKey::from_ec_der(ec.to_pkcs8v1().expect("encoded").as_ref());
    World {
        keys: KeySet::parse(jwks.to_string()).expect("two keys"),
        rules: Rules {
            issuer: "https://auth.holdfast.internal".to_owned(),
            audience: "holdfast-api".to_owned(),
            lifetime_max: Duration::from_secs(24 * 3600),
        },
        signers: [(header(Algorithm::EdDSA, "ed"), ed_key), (header(Algorithm::ES256, "ec"), ec_key)],
    }
});

fn checked(token: &str) -> Result<Caller, Refused> {
    check(token, &WORLD.keys, &WORLD.rules, now_s())
}

/// The library has its own clock.
fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(NOW_S, |since| since.as_secs())
}

fn good_claims() -> Value {
    json!({
        "iss": WORLD.rules.issuer, "aud": WORLD.rules.audience, "sub": "alice", "jti": "1", "scope": "orders:read orders:write",
        "iat": now_s(), "exp": now_s() + 3_600,
    })
}

fn signed(signer: usize, claims: &Value) -> String {
    let (header, key) = &WORLD.signers[signer];
    jsonwebtoken::encode(header, claims, key).expect("signed")
}

/// A change of a token's text.
#[derive(Debug, Clone)]
enum Edit {
    Replace(prop::sample::Index, char),
    Insert(prop::sample::Index, char),
    Remove(prop::sample::Index),
    CutOff(prop::sample::Index),
    /// Appends a text.
    Append(&'static str),
    /// Puts a part where another one is.
    Part(usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let letter = || prop_oneof![4 => proptest::char::range('0', 'z'), 1 => any::<char>(), 1 => select(vec!['.', '=', '-', '_', '+', '/'])];
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), letter()).prop_map(|(at, letter)| Edit::Replace(at, letter)),
        2 => (at(), letter()).prop_map(|(at, letter)| Edit::Insert(at, letter)),
        2 => at().prop_map(Edit::Remove),
        1 => at().prop_map(Edit::CutOff),
        1 => select(vec!["=", "==", ".", " ", "\n", "\0", ".e30"]).prop_map(Edit::Append),
        1 => (0..3_usize, 0..3_usize).prop_map(|(from, to)| Edit::Part(from, to)),
    ]
}

fn edited(token: &str, edits: &[Edit]) -> String {
    let mut text: Vec<char> = token.chars().collect();
    for edit in edits {
        let length = text.len().max(1);
        match edit {
            Edit::Replace(at, letter) if !text.is_empty() => text[at.index(length)] = *letter,
            Edit::Insert(at, letter) => text.insert(at.index(length).min(text.len()), *letter),
            Edit::Remove(at) if !text.is_empty() => drop(text.remove(at.index(length))),
            Edit::CutOff(at) => text.truncate(at.index(length)),
            Edit::Append(more) => text.extend(more.chars()),
            Edit::Part(from, to) => {
                let whole = String::from_iter(&text);
                let mut parts: Vec<_> = whole.split('.').collect();
                if let (Some(part), true) = (parts.get(*from).copied(), *to < parts.len()) {
                    parts[*to] = part;
                }
                text = parts.join(".").chars().collect();
            }
            Edit::Replace(..) | Edit::Remove(_) => {}
        }
    }
    text.into_iter().collect()
}

/// A claim, and whether a token with it is good.
fn claim() -> impl Strategy<Value = (&'static str, Value, bool)> {
    let hour = 3_600;
    let texts = |name: &'static str, good: Value| {
        prop_oneof![Just((name, good, true)), other().prop_map(move |value| (name, value, false))]
    };
    prop_oneof![
        texts("iss", json!(WORLD.rules.issuer)),
        texts("aud", json!(WORLD.rules.audience)),
        Just(("aud", json!(["somebody", WORLD.rules.audience]), true)),
        Just(("iss", json!([WORLD.rules.issuer]), false)),
        "[!-~]{1,128}".prop_map(|sub| ("sub", json!(sub), true)),
        select(vec![
            json!(""),
            json!("a b"),
            json!("é"),
            json!("x".repeat(129)),
            json!(7),
            json!(null),
            json!(["alice"])
        ])
        .prop_map(|value| ("sub", value, false)),
        select(vec![json!(""), json!(7), json!(null)]).prop_map(|value| ("jti", value, false)),
        select(vec![json!(7), json!(null), json!(["orders:read"])]).prop_map(|value| ("scope", value, false)),
        (1..23 * hour).prop_map(|ago| ("iat", json!(now_s() - ago), true)),
        (60..u64::MAX / 2).prop_map(|ahead| ("iat", json!(now_s() + ahead), false)),
        (25 * hour..now_s()).prop_map(|ago| ("iat", json!(now_s() - ago), false)),
        (60..now_s()).prop_map(|ago| ("exp", json!(now_s() - ago), false)),
        (25 * hour..u64::MAX / 2).prop_map(|ahead| ("exp", json!(now_s() + ahead), false)),
        select(vec![json!("9999999999"), json!(null), json!(-1), json!(1.5), json!(true)])
            .prop_map(|value| ("exp", value, false)),
        select(vec![json!("9999999999"), json!(null), json!(-1), json!(1.5)])
            .prop_map(|value| ("nbf", value, false)),
        (60..hour).prop_map(|ahead| ("nbf", json!(now_s() + ahead), false)),
        (0..hour).prop_map(|ago| ("nbf", json!(now_s() - ago), true)),
        ("x-[a-z]{1,8}", other()).prop_map(|(_, value)| ("x", value, true)),
    ]
}

/// A value that is none of ours.
fn other() -> impl Strategy<Value = Value> {
    prop_oneof![
        "[a-z/:.]{0,40}".prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(Value::Null),
        Just(json!([])),
        Just(json!({"a": 1})),
    ]
}

proptest! {
    /// Arbitrary text is refused.
    #[test]
    fn arbitrary_text_is_no_token(text in prop_oneof![any::<String>(), "[A-Za-z0-9_-]{0,200}(\\.[A-Za-z0-9_-]{0,300}){0,4}"]) {
        prop_assert!(checked(&text).is_err());
    }

    /// Arbitrary headers and claims without a signature of the issuer are refused.
    #[test]
    fn what_is_not_signed_is_refused(
        alg in select(vec!["EdDSA", "ES256", "HS256", "none", "NONE", "RS256", ""]),
        kid in select(vec!["ed", "ec", "", "x"]),
        signature in vec(any::<u8>(), 0..80),
    ) {
        let header = json!({"alg": alg, "kid": kid, "typ": "at+jwt", "jwk": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}});
        let parts = [header.to_string().into_bytes(), good_claims().to_string().into_bytes(), signature];
        let token = parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        prop_assert!(checked(&token).is_err());
    }

    /// A token is taken as it was signed, and no other text in its place.
    #[test]
    fn a_token_is_taken_only_as_it_was_signed(signer in 0..2_usize, edits in vec(edit(), 1..4)) {
        let token = signed(signer, &good_claims());
        prop_assert!(checked(&token).is_ok());
        let text = edited(&token, &edits);
        prop_assert_eq!(checked(&text).is_ok(), text == token, "{}", text);
    }

    /// What a token says must be right in every claim, whatever it says besides.
    #[test]
    fn every_claim_must_be_right(signer in 0..2_usize, changes in vec(claim(), 0..4), absent in proptest::option::weighted(0.2, select(vec!["iss", "aud", "sub", "exp", "iat", "jti", "scope"]))) {
        let mut claims = good_claims();
        let mut goods = std::collections::HashMap::new();
        for (name, value, is_good) in changes {
            claims[name] = value;
            goods.insert(name, is_good);
        }
        // An hour after now, and at most 24 hours after it was issued.
        let mut is_good = goods.values().all(|good| *good);
        if let (Some(name), Some(claims)) = (absent, claims.as_object_mut()) {
            claims.remove(name);
            is_good = false;
        }
        let caller = checked(&signed(signer, &claims));
        prop_assert_eq!(caller.is_ok(), is_good, "{} {:?}", claims, caller);
        if let Ok(caller) = caller {
            prop_assert_eq!(caller.user_id.as_str(), claims["sub"].as_str().unwrap_or_default());
        }
    }
}
