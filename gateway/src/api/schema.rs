//! What the OpenAPI document says of single values: texts, numbers and header fields, with the limits that are kept. Each type here
//! exists for its description only; whole objects are described by their own types in [`super::model`] and in the operations.

use std::borrow::Cow;

use holdfast_proto::{
    IDEMPOTENCY_KEY_BYTES_MAX, USER_ID_BYTES_MAX,
    limits::{ADDRESS_CHARS_MAX, AMOUNT_MINOR_MAX, PRODUCT_ID_CHARS_MAX, QUANTITY_MAX},
};
use serde_json::json;
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{
        KnownFormat, ObjectBuilder, RefOr, Required, Schema, SchemaFormat, Type,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

/// What can't be in an address: control characters, and those that change how it is displayed. As the inside of a class.
const NOT_IN_ADDRESS: &str = r"\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069";
/// What nobody can read: white space that is no control character, and what displays ignore.
const INVISIBLE: &str = r"\u0020\u00a0\u00ad\u034f\u061c\u115f-\u1160\u1680\u17b4-\u17b5\u180b-\u180f\u2000-\u200f\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb";
const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";

/// A type that only stands for its schema.
macro_rules! values {
    ($($(#[doc = $doc:literal])+ $name:ident = $schema:expr;)+) => {$(
        $(#[doc = $doc])+
        pub(crate) enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let schema: ObjectBuilder = $schema;
                schema.description(Some(concat!($($doc),+).trim())).into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )+};
}

values! {
    /// The id of an order, a UUID of version 7.
    OrderId = text(36, 36)
        .format(Some(SchemaFormat::Custom("uuid".to_owned())))
        .pattern(Some(format!("^{UUID}$")))
        .examples([json!("01890a5d-ac96-774b-bcce-b302099a8057")]);
    /// The `next_cursor` of the page before. Empty or absent: the first page.
    Cursor = text(0, 36).pattern(Some(format!("^({UUID})?$")));
    /// Whose order or account it is: the `sub` of a token. Printable ASCII without spaces.
    UserId = text(1, USER_ID_BYTES_MAX).pattern(Some("^[!-~]+$")).examples([json!("user-123")]);
    /// Where an order is delivered to. Something readable, without control characters, and without those that change the direction
    /// of writing.
    Address = text(1, ADDRESS_CHARS_MAX)
        .pattern(Some(format!("^[^{NOT_IN_ADDRESS}]*[^{NOT_IN_ADDRESS}{INVISIBLE}][^{NOT_IN_ADDRESS}]*$")))
        .examples([json!("1 Quay Street")]);
    /// What is ordered.
    ProductId = text(1, PRODUCT_ID_CHARS_MAX)
        .pattern(Some("^[A-Za-z0-9._:-]+$"))
        .examples([json!("tea-100g")]);
    /// How many pieces of a product.
    Quantity = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int32)))
        .minimum(Some(1))
        .maximum(Some(QUANTITY_MAX as usize))
        .examples([json!(1)]);
    /// An amount that a client sends: at most 2 decimals.
    Amount = ObjectBuilder::new()
        .schema_type(Type::Number)
        .minimum(Some(decimal(1)))
        .maximum(Some(decimal(AMOUNT_MINOR_MAX)))
        .multiple_of(Some(decimal(1)))
        .examples([json!(12.5)]);
    /// An exact amount, with 2 decimals. Read it as a decimal, not as a binary floating-point number.
    Money = ObjectBuilder::new()
        // Not `multipleOf`: many clients check that with binary fractions, and would refuse 0.07.
        .schema_type(Type::Number)
        .examples([json!(25.5)]);
    /// An ISO 4217 code.
    Currency = text(3, 3).pattern(Some("^[A-Z]{3}$")).examples([json!("EUR")]);
    /// One event of a stream. Between events there may be comments, and blocks with an `id` and no data.
    Event = ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("event", ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["order"])))
        .required("event")
        .property("id", ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]+$")))
        .required("id")
        .property("data", ObjectBuilder::new().schema_type(Type::String).content_media_type("application/json").description(Some("An `Order`, on one line.")))
        .required("data")
        .examples([json!({"event": "order", "id": "1", "data": "{\"order_id\":\"01890a5d-ac96-774b-bcce-b302099a8057\",…}"})]);
}

/// A text of so many characters.
fn text(least: usize, most: usize) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(least)).max_length(Some(most))
}

#[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
fn decimal(cents: i64) -> f64 {
    cents as f64 / 100.0
}

/// A request with `Idempotency-Key`, which the operation does not insist on.
pub(crate) enum IdempotencyKeyOptional {}
/// A request with `Idempotency-Key`, which the operation insists on.
pub(crate) enum IdempotencyKeyRequired {}
/// A request with `Last-Event-ID`.
pub(crate) enum LastEventId {}
/// A request with `If-None-Match`.
pub(crate) enum IfNoneMatch {}

impl IntoParams for IdempotencyKeyOptional {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![idempotency_key(Required::False)]
    }
}

impl IntoParams for IdempotencyKeyRequired {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![idempotency_key(Required::True)]
    }
}

impl IntoParams for LastEventId {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description =
            "The id of the last event that the client got. What is no id of ours is taken for none.";
        let schema = ObjectBuilder::new().schema_type(Type::String);
        vec![header("Last-Event-ID", Required::False, description, schema)]
    }
}

impl IntoParams for IfNoneMatch {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description =
            "The `ETag` of the state that the client has: 304 as long as it is the current one.";
        let schema = ObjectBuilder::new().schema_type(Type::String);
        vec![header("If-None-Match", Required::False, description, schema)]
    }
}

fn idempotency_key(required: Required) -> Parameter {
    let description = "Names one intention, however often it is sent: a repetition gets the first answer and changes nothing. \
                       Printable ASCII.";
    let schema = text(1, IDEMPOTENCY_KEY_BYTES_MAX).pattern(Some("^[!-~]([ -~]*[!-~])?$"));
    header("Idempotency-Key", required, description, schema)
}

fn header(name: &str, required: Required, description: &str, schema: ObjectBuilder) -> Parameter {
    parameter(name, ParameterIn::Header, required).description(Some(description)).schema(Some(schema)).build()
}

/// A parameter, for the types that stand for several or that the macros can't describe.
pub(super) fn parameter(name: &str, place: ParameterIn, required: Required) -> ParameterBuilder {
    ParameterBuilder::new().name(name).parameter_in(place).required(required)
}

#[cfg(test)]
mod tests {
    use holdfast_proto::limits::is_address;

    use super::*;

    /// Whether a character is in the inside of a class, as the constants above are written.
    fn is_in(class: &str, c: char) -> bool {
        let point =
            |digits: &str| u32::from_str_radix(digits.trim_end_matches('-'), 16).expect("a code point");
        let points: Vec<_> = class.split(r"\u").skip(1).collect();
        points.iter().enumerate().any(|(index, digits)| {
            let first = point(digits);
            let last = if digits.ends_with('-') { point(points[index + 1]) } else { first };
            (first..=last).contains(&u32::from(c))
        })
    }

    /// The document describes the addresses that are taken: character by character, alone and beside one that can be read.
    #[test]
    fn addresses_are_those_that_are_taken() {
        for c in '\0'..='\u{ffff}' {
            assert_eq!(is_address(&format!("a{c}")), !is_in(NOT_IN_ADDRESS, c), "{c:?}");
            let is_described = !is_in(NOT_IN_ADDRESS, c) && !is_in(INVISIBLE, c);
            assert_eq!(is_address(&c.to_string()), is_described, "{c:?}");
        }
    }
}
