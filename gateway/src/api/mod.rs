//! The operations, one file each: parse the request, call a service, respond. What a service decides is not decided here.

pub(crate) mod accounts;
mod model;
pub(crate) mod orders;
mod params;
pub(crate) mod probes;
pub(crate) mod schema;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue},
    response::Response,
};
use holdfast_proto::{Currency, IDEMPOTENCY_KEY_BYTES_MAX, IdempotencyKey, Money, limits::AMOUNT_MINOR_MAX};
use serde_json::value::RawValue;

use crate::problem::{FieldError, Problem, ProblemType};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Returns the client's key, if it sent one; 400 if the key is not valid.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let refuse = || {
        let detail = format!(
            "Idempotency-Key must be one header with 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters"
        );
        Problem::new(ProblemType::IdempotencyKeyInvalid, detail)
    };
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refuse());
    }
    let text = value.to_str().map_err(|_| refuse())?;
    IdempotencyKey::parse(text).map(Some).map_err(|_| refuse())
}

/// Tells the client that its key was used before, so that this request changed nothing.
fn mark_replayed(response: &mut Response, replayed: bool) {
    if replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
}

/// Parses an amount of 0.01 to 1,000,000.00 as written in the body, or adds to `errors` what is wrong with it.
fn amount(pointer: &str, raw: &RawValue, errors: &mut Vec<FieldError>) -> Option<Money> {
    match Money::parse_decimal(raw.get(), Currency::EUR) {
        Ok(money) if (1..=AMOUNT_MINOR_MAX).contains(&money.minor_units) => Some(money),
        Ok(_) => {
            let [least, most] =
                [1, AMOUNT_MINOR_MAX].map(|cents| Money::new(cents, Currency::EUR).to_decimal());
            errors.push(FieldError::new(pointer, format!("must be {least} to {most}")));
            None
        }
        Err(error) => {
            errors.push(FieldError::new(pointer, error.to_string()));
            None
        }
    }
}
