//! `/api/accounts`.

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use holdfast_proto::{UserId, payment::v1 as payment};

use super::{amount, idempotency_key, model, orders::mark_replayed};
use crate::{
    auth::{Allowed, scope},
    http::{
        Call,
        json::{self, StrictJson},
        problem::{FieldError, Problem},
    },
    upstream::Upstream,
};

pub(crate) async fn read(
    State(upstream): State<Upstream>,
    caller: Allowed<scope::AccountsRead>,
    call: Call,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    // The same answer whether that user exists or not.
    if !matches!(path, Ok(Path(user_id)) if user_id == caller.user_id.as_str()) {
        let detail = "only one's own account can be read";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign-user", detail));
    }
    let message = payment::GetAccountRequest { user_id: caller.user_id.to_string() };
    let answer = upstream.payments().get_account(call.request(message)?).await?;
    Ok(json::answer(StatusCode::OK, &model::Account::from_proto(answer.into_inner().account)?))
}

pub(crate) async fn credit(
    State(upstream): State<Upstream>,
    caller: Allowed<scope::AccountsCredit>,
    call: Call,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    StrictJson(new): StrictJson<model::NewCredit>,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?.ok_or_else(|| {
        let detail = "a credit needs an Idempotency-Key";
        Problem::new(StatusCode::BAD_REQUEST, "idempotency-key-required", detail)
    })?;
    let mut errors = Vec::new();
    let user_id = path.ok().and_then(|Path(text)| UserId::parse(&text).ok());
    if user_id.is_none() {
        errors
            .push(FieldError::new("/user_id", "must be 1 to 128 printable ASCII characters without spaces"));
    }
    let money = amount("/amount", &new.amount, &mut errors);
    let (Some(user_id), Some(money)) = (user_id, money) else { return Err(Problem::invalid(errors)) };
    let message = payment::CreditAccountRequest {
        user_id: user_id.to_string(),
        amount: Some(money.to_proto()),
        requested_by: caller.user_id.to_string(),
        idempotency_key: key.as_str().to_owned(),
    };
    let answer = upstream.payments().credit_account(call.request(message)?).await?.into_inner();
    let mut response = json::answer(StatusCode::CREATED, &model::Account::from_proto(answer.account)?);
    mark_replayed(&mut response, answer.replayed);
    Ok(response)
}
