//! `GET /api/orders?limit=&cursor=`: the caller's orders, newest first.

use axum::{extract::State, http::StatusCode, response::Response};
use holdfast_proto::order::v1::ListOrdersRequest;
use serde::Serialize;

use crate::{
    api::{model, params::Page},
    auth::{Allowed, scope},
    http::{Call, json},
    problem::Problem,
    upstream::Upstream,
};

#[derive(Debug, Serialize)]
struct OrderPage {
    orders: Vec<model::Order>,
    next_cursor: Option<String>,
}

pub(crate) async fn list(
    State(upstream): State<Upstream>,
    caller: Allowed<scope::OrdersRead>,
    call: Call,
    page: Page,
) -> Result<Response, Problem> {
    let message = ListOrdersRequest {
        user_id: caller.user_id.to_string(),
        page_size: page.limit,
        page_token: page.cursor.map(|id| id.to_string()).unwrap_or_default(),
    };
    let answer = upstream.orders().list_orders(call.request(message)?).await?.into_inner();
    let orders = answer
        .orders
        .into_iter()
        .map(|order| model::Order::from_proto(Some(order)))
        .collect::<Result<_, _>>()?;
    let next_cursor = Some(answer.next_page_token).filter(|token| !token.is_empty());
    Ok(json::response(StatusCode::OK, &OrderPage { orders, next_cursor }))
}
