//! `GET /api/accounts/{user_id}`.

use axum::{extract::State, http::StatusCode, response::Response};
use holdfast_proto::payment::v1::GetAccountRequest;

use crate::{
    api::{model, params::PathUserId},
    auth::{Allowed, scope},
    http::{Call, json},
    problem::{Problem, ProblemType},
    upstream::Upstream,
};

/// Reads an account
///
/// Only one's own. A user without an account has 0.
#[utoipa::path(
    get,
    path = "/api/accounts/{user_id}",
    tag = "accounts",
    operation_id = "readAccount",
    params(PathUserId),
    responses((status = OK, description = "The account.", body = model::Account)),
    security(("token" = ["accounts:read"])),
    extensions(
        ("x-other-user" = json!("foreign-user")),
        ("x-problems" = json!([ProblemType::ForeignUser.slug()]))
    )
)]
pub(crate) async fn read(
    State(upstream): State<Upstream>,
    caller: Allowed<scope::AccountsRead>,
    call: Call,
    PathUserId(user_id): PathUserId,
) -> Result<Response, Problem> {
    // The same response whether that user exists or not.
    if user_id.as_ref() != Some(&caller.user_id) {
        let detail = "only one's own account can be read";
        return Err(Problem::new(ProblemType::ForeignUser, detail));
    }
    let message = GetAccountRequest { user_id: caller.user_id.to_string() };
    let answer = upstream.payments().get_account(call.request(message)?).await?.into_inner();
    Ok(json::response(StatusCode::OK, &model::Account::from_proto(answer.account)?))
}
