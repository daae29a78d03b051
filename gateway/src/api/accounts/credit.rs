//! `POST /api/accounts/{user_id}/credits`.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use holdfast_proto::{USER_ID_BYTES_MAX, payment::v1::CreditAccountRequest};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    api::{amount, idempotency_key, mark_replayed, model, params::PathUserId},
    auth::{Allowed, scope},
    http::{
        Call,
        json::{self, StrictJson},
    },
    problem::{FieldError, Problem, ProblemType},
    upstream::Upstream,
};

/// The body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCredit {
    amount: Box<RawValue>,
}

pub(crate) async fn credit(
    State(upstream): State<Upstream>,
    caller: Allowed<scope::AccountsCredit>,
    call: Call,
    PathUserId(user_id): PathUserId,
    headers: HeaderMap,
    StrictJson(new): StrictJson<NewCredit>,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?.ok_or_else(|| {
        let detail = "a credit needs an Idempotency-Key";
        Problem::new(ProblemType::IdempotencyKeyRequired, detail)
    })?;
    let mut errors = Vec::new();
    if user_id.is_none() {
        let detail = format!("must be 1 to {USER_ID_BYTES_MAX} printable ASCII characters without spaces");
        errors.push(FieldError::new("/user_id", detail));
    }
    let money = amount("/amount", &new.amount, &mut errors);
    let (Some(user_id), Some(money)) = (user_id, money) else { return Err(Problem::invalid(errors)) };
    let message = CreditAccountRequest {
        user_id: user_id.to_string(),
        amount: Some(money.to_proto()),
        requested_by: caller.user_id.to_string(),
        idempotency_key: key.as_str().to_owned(),
    };
    let answer = upstream.payments().credit_account(call.request(message)?).await?.into_inner();
    let mut response = json::response(StatusCode::CREATED, &model::Account::from_proto(answer.account)?);
    mark_replayed(&mut response, answer.replayed);
    Ok(response)
}
