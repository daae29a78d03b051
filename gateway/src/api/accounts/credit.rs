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
    api::{amount, idempotency_key, mark_replayed, model, params::PathUserId, schema},
    auth::{Allowed, scope},
    http::{
        Call,
        json::{self, StrictJson},
    },
    problem::{FieldError, Problem, ProblemType},
    upstream::Upstream,
};

/// A credit as the treasury sends it.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCredit {
    #[schema(value_type = schema::Amount)]
    amount: Box<RawValue>,
}

/// Pays money into an account
///
/// For the treasury: of any user, also one who has no account yet.
#[utoipa::path(
    post,
    path = "/api/accounts/{user_id}/credits",
    tag = "accounts",
    operation_id = "creditAccount",
    params(PathUserId, schema::IdempotencyKeyRequired),
    request_body(content = NewCredit, examples(
        ("hundred" = (summary = "A hundred", value = json!({"amount": 100}))),
        ("cent" = (summary = "The least", value = json!({"amount": 0.01}))),
    )),
    responses((
        status = CREATED,
        description = "The account with the new balance, or as it was after the request with the same key.",
        body = model::Account,
        headers(("Idempotent-Replayed" = String, description = "`true`: the key was used before, and this request changed nothing."))
    )),
    security(("token" = ["accounts:credit"])),
    extensions(
        ("x-other-user" = json!("allowed")),
        ("x-problems" = json!([
            ProblemType::IdempotencyKeyInvalid.slug(),
            ProblemType::IdempotencyKeyRequired.slug(),
            ProblemType::IdempotencyKeyInUse.slug(),
            ProblemType::IdempotencyKeyReused.slug(),
        ]))
    )
)]
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
