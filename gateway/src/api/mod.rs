//! One file per resource: parse, call, answer. Nothing is decided here that a service decides.

pub(crate) mod accounts;
mod model;
pub(crate) mod orders;

use axum::http::{HeaderMap, StatusCode};
use holdfast_proto::{Currency, IdempotencyKey, Money, limits::AMOUNT_MINOR_MAX};
use serde_json::value::RawValue;

use crate::http::problem::{FieldError, Problem};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const IDEMPOTENT_REPLAYED: &str = "idempotent-replayed";

/// The client's key, if it sent one; 400 if it is not one.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let refuse = || {
        let detail = "Idempotency-Key must be one header with 1 to 255 printable ASCII characters";
        Problem::new(StatusCode::BAD_REQUEST, "idempotency-key-invalid", detail)
    };
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refuse());
    }
    let text = value.to_str().map_err(|_| refuse())?;
    IdempotencyKey::parse(text).map(Some).map_err(|_| refuse())
}

/// An amount of 0.01 to 1,000,000.00 as it stands in the body.
fn amount(pointer: &str, raw: &RawValue, errors: &mut Vec<FieldError>) -> Option<Money> {
    match Money::parse_decimal(raw.get(), Currency::EUR) {
        Ok(money) if (1..=AMOUNT_MINOR_MAX).contains(&money.minor_units) => Some(money),
        Ok(_) => {
            errors.push(FieldError::new(pointer, "must be 0.01 to 1000000.00"));
            None
        }
        Err(error) => {
            errors.push(FieldError::new(pointer, error.to_string()));
            None
        }
    }
}
