//! `GET /api/orders?limit=&cursor=`: the caller's orders, newest first.

use axum::{extract::State, http::StatusCode, response::Response};
use holdfast_proto::order::v1::ListOrdersRequest;
use serde::Serialize;

use crate::{
    api::{model, params::Page, schema},
    auth::{Allowed, scope},
    http::{Call, json},
    problem::{Problem, ProblemType},
    upstream::Upstream,
};

/// A part of a listing.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct OrderPage {
    orders: Vec<model::Order>,
    /// Null on the last page.
    #[schema(required, value_type = Option<schema::OrderId>)]
    next_cursor: Option<String>,
}

/// Lists orders
///
/// The own ones, newest first. `next_cursor` is the `cursor` of the next page, and null on the last one.
#[utoipa::path(
    get,
    path = "/api/orders",
    tag = "orders",
    operation_id = "listOrders",
    params(Page),
    responses((
        status = OK,
        description = "A page.",
        body = OrderPage,
        links(("next" = (operation_id = "listOrders", parameters(("cursor" = "$response.body#/next_cursor")))))
    )),
    security(("token" = ["orders:read"])),
    extensions(
        ("x-other-user" = json!("own")),
        ("x-problems" = json!([ProblemType::InvalidContent.slug()]))
    )
)]
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
