//! Strict JSON in, JSON out. Amounts are read and written as text, so that they never pass through a float.

use std::{fmt, marker::PhantomData};

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error, MapAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};
use serde_json::{error::Category, value::RawValue};
use serde_path_to_error::{Path, Segment};

use crate::problem::{FieldError, Problem, ProblemType};

/// Most characters of a client's own name for something that come back to it; ours are far shorter.
const NAME_CHARS_MAX: usize = 64;

/// The body of a request. 415 if it has another media type, 413 if it is too long, 400 if it is not JSON, 422 if it is not the
/// object that the operation takes.
#[derive(Debug)]
pub(crate) struct StrictJson<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for StrictJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "the body must be application/json";
            return Err(Problem::new(ProblemType::UnsupportedMediaType, detail));
        }
        let bytes = read(request.into_body()).await?;
        let Object(value) = parse(&bytes)?;
        Ok(Self(value))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(media_type), None) = (types.next(), types.next()) else { return false };
    let Ok(text) = media_type.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    let utf8 = |parameter: &str| {
        parameter.is_empty()
            || parameter.split_once('=').is_some_and(|(name, value)| {
                name.eq_ignore_ascii_case("charset") && value.trim_matches('"').eq_ignore_ascii_case("utf-8")
            })
    };
    // An encoded body (such as gzip) is not read at all, so there is no decompression bomb.
    essence && parts.all(utf8) && !headers.contains_key(header::CONTENT_ENCODING)
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    body.collect().await.map(Collected::to_bytes).map_err(|error| Problem::unreadable(&error))
}

pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer(error.path());
        refuse(pointer, error.inner(), bytes)
    })?;
    // Nothing may follow the value.
    deserializer.end().map_err(|error| refuse(String::new(), &error, bytes))?;
    Ok(value)
}

fn refuse(pointer: String, error: &serde_json::Error, bytes: &[u8]) -> Problem {
    match error.classify() {
        Category::Data => Problem::invalid(vec![FieldError::new(pointer, in_our_words(error))]),
        // JSON has no largest number, so one that is beyond ours is JSON of the wrong content.
        Category::Syntax if is_out_of_range(error) && serde_json::from_slice::<&RawValue>(bytes).is_ok() => {
            Problem::invalid(vec![FieldError::new(pointer, "is out of range")])
        }
        Category::Syntax | Category::Eof | Category::Io => {
            Problem::malformed(format!("the body is not JSON: {error}"))
        }
    }
}

/// The library has no code for it.
fn is_out_of_range(error: &serde_json::Error) -> bool {
    sentence(error).starts_with("number out of range")
}

/// What the library says, without where it was in the text: the pointer says that.
fn sentence(error: &serde_json::Error) -> String {
    let mut sentence = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    if sentence.ends_with(&place) {
        sentence.truncate(sentence.len() - place.len());
    }
    sentence
}

/// Says what is expected, in words of JSON. What was sent, which may be long, and types of the language are left out.
fn in_our_words(error: &serde_json::Error) -> String {
    let sentence = sentence(error);
    // Texts of the client come before what is expected, so the last comma is the library's.
    let expected = |separator: &str| sentence.rsplit_once(separator).map(|(_, expected)| expected);
    if sentence.starts_with("invalid type: ") || sentence.starts_with("invalid value: ") {
        return match expected(", expected ") {
            Some("a sequence") => "must be an array".to_owned(),
            Some(expected) => format!("must be {expected}"),
            None => "is not what is expected here".to_owned(),
        };
    }
    if sentence.starts_with("unknown field ") {
        return match expected("`, expected ") {
            Some(known) => format!("is not known here; known: {}", known.trim_start_matches("one of ")),
            None => "is not known here".to_owned(),
        };
    }
    sentence
}

/// A JSON object. A derived struct alone would also accept an array of its fields, which clients must not come to rely on.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// A whole number, however it is written: JSON does not tell `2` from `2.0`, and some clients write the latter.
pub(crate) fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    struct WholeNumber;

    impl Visitor<'_> for WholeNumber {
        type Value = u32;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<u32, E> {
            u32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<u32, E> {
            if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number) {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "just checked")]
                return Ok(number as u32);
            }
            Err(E::invalid_value(Unexpected::Float(number), &self))
        }
    }

    deserializer.deserialize_u32(WholeNumber)
}

/// A path as a JSON pointer (RFC 6901). A name that is longer than all of ours is cut off.
fn pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                pointer.push('/');
                pointer.push_str(&index.to_string());
            }
            Segment::Map { key } | Segment::Enum { variant: key } => {
                pointer.push('/');
                let name: String = key.chars().take(NAME_CHARS_MAX).collect();
                pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
                if name.len() < key.len() {
                    pointer.push('…');
                }
            }
            Segment::Unknown => {}
        }
    }
    pointer
}

/// A JSON response.
pub(crate) fn response(status: StatusCode, value: &impl Serialize) -> Response {
    match bytes(value) {
        Ok(body) => response_of(status, body),
        Err(problem) => problem.into_response(),
    }
}

/// A response whose body is JSON already.
pub(crate) fn response_of(status: StatusCode, json: Bytes) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], json).into_response()
}

/// The JSON of a value.
pub(crate) fn bytes(value: &impl Serialize) -> Result<Bytes, Problem> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
        tracing::error!(error = %error, "response cannot be written as JSON");
        Problem::internal()
    })
}

/// An exact decimal as a JSON number.
pub(crate) fn number(decimal: String) -> Result<Box<RawValue>, Problem> {
    RawValue::from_string(decimal).map_err(|_| Problem::internal())
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        items: Vec<Object<Inner>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(deserialize_with = "whole_number")]
        quantity: u32,
        price: Box<RawValue>,
    }

    fn status_of(body: &[u8]) -> u16 {
        parse::<Object<Outer>>(body).map_or_else(|problem| problem.into_response().status().as_u16(), |_| 200)
    }

    /// What is not JSON is 400. What is JSON but not the expected object is 422.
    #[test]
    fn malformed_is_400_and_invalid_is_422() {
        let deep = format!("{{\"items\":{}1{}}}", "[".repeat(20_000), "]".repeat(20_000));
        for (body, expected) in [
            (&br#"{"items":[{"quantity":1,"price":12.50}]}"#[..], 200),
            (b"", 400),
            (b"{", 400),
            (br#"{"items":[]} x"#, 400),
            (b"\xef\xbb\xbf{\"items\":[]}", 400),
            (b"{\x00\"\x00i\x00", 400),
            (b"{\"items\":[{\"quantity\":1,\"price\":NaN}]}", 400),
            (b"{\"items\":\"\xff\xfe\"}", 400),
            (br#"{"items":[],"items":[]}"#, 422),
            (br#"{"items":[],"status":"PAID"}"#, 422),
            (br#"{"items":[{"quantity":1.0,"price":1}]}"#, 200),
            (br#"{"items":[{"quantity":-1.0,"price":1}]}"#, 422),
            (br#"{"items":[{"quantity":4294967296.0,"price":1}]}"#, 422),
            (br#"{"items":[{"quantity":1e400,"price":1}]}"#, 422),
            (br#"{"items":1e400}"#, 422),
            (br#"{"items":1e400"#, 400),
            (br#"{"items":[1e400}"#, 400),
            (br#"{"\ud800":1}"#, 400),
            (br#"{"items":[{"quantity":"1","price":1}]}"#, 422),
            (br#"{"items":[{"quantity":-1,"price":1}]}"#, 422),
            (br#"{"items":[{"quantity":4294967296,"price":1}]}"#, 422),
            (br#"{"items":[{"quantity":1.5,"price":1}]}"#, 422),
            (br"[]", 422),
            (br#"[[{"quantity":1,"price":1}]]"#, 422),
            (br#"{"items":[[1,1]]}"#, 422),
            (br"null", 422),
        ] {
            assert_eq!(status_of(body), expected, "{}", String::from_utf8_lossy(body));
        }
        assert!([400, 422].contains(&status_of(deep.as_bytes())));
    }

    /// What is wrong is said in words of JSON, and of what was sent only the beginning of a name comes back, once.
    #[test]
    fn what_is_wrong_is_said_in_our_words() {
        let long = "k".repeat(60_000);
        for (body, pointer, detail) in [
            ("[]", "", "must be an object"),
            ("null", "", "must be an object"),
            ("{}", "", "missing field `items`"),
            (r#"{"items": {}}"#, "/items", "must be an array"),
            (r#"{"items": "a, expected b"}"#, "/items", "must be an array"),
            (r#"{"items": [7]}"#, "/items/0", "must be an object"),
            (r#"{"items": [{"quantity": -1}]}"#, "/items/0/quantity", "must be a whole number"),
            (r#"{"items": [{"quantity": 1.5}]}"#, "/items/0/quantity", "must be a whole number"),
            (r#"{"items": [{"quantity": 1e400}]}"#, "/items/0/quantity", "is out of range"),
            (r#"{"items": [], "items": []}"#, "", "duplicate field `items`"),
            (r#"{"a, expected b": 1}"#, "/a, expected b", "is not known here; known: `items`"),
            (
                &format!("{{\"{long}\": 1}}"),
                &format!("/{}…", &long[..NAME_CHARS_MAX]),
                "is not known here; known: `items`",
            ),
            (&format!("{{\"items\": \"{long}\"}}"), "/items", "must be an array"),
        ] {
            let mut response = parse::<Object<Outer>>(body.as_bytes()).expect_err("refused").into_response();
            let problem = response.extensions_mut().remove::<Problem>().expect("a problem");
            assert_eq!(problem, Problem::invalid(vec![FieldError::new(pointer, detail)]), "{body:.80}");
        }
    }

    /// Amounts stay as they were written.
    #[test]
    fn amounts_stay_as_they_were_written() {
        let Object(outer): Object<Outer> =
            parse(br#"{"items":[{"quantity":2.0,"price":0.10}]}"#).expect("valid");
        let Object(inner) = &outer.items[0];
        assert_eq!((inner.quantity, inner.price.get()), (2, "0.10"));
    }
}
