//! `GET /api/orders?limit=&cursor=`: the caller's orders, newest first.

use axum::{extract::State, http::StatusCode, response::Response};
use bytes::Bytes;
use holdfast_proto::{limits::PAGE_BYTES_MAX, order::v1::ListOrdersRequest};

use super::{Orders, to_json};
use crate::{
    api::{model, params::Page, schema},
    auth::{Allowed, scope},
    http::{Call, json},
    limit::Limits,
    problem::{Problem, ProblemType},
};

/// A part of a listing.
#[derive(Debug, utoipa::ToSchema)]
#[expect(dead_code, reason = "describes what `write` writes")]
struct OrderPage {
    orders: Vec<model::Order>,
    /// Null on the last page.
    #[schema(required, value_type = Option<schema::OrderId>)]
    next_cursor: Option<String>,
}

/// What an entry takes beside the order, and the page beside its entries, at most.
const SEPARATOR_BYTES: usize = 1;
const FRAME_BYTES: usize = 96;

/// Lists orders
///
/// The own ones, newest first. `next_cursor` is the `cursor` of the next page, and null on the last one. A page has at most
/// 256 KiB, so it may have fewer orders than `limit`.
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
    State(orders): State<Orders>,
    State(limits): State<Limits>,
    caller: Allowed<scope::OrdersRead>,
    call: Call,
    page: Page,
) -> Result<Response, Problem> {
    let _turn = limits.turn(&caller.user_id).await;
    let message = ListOrdersRequest {
        user_id: caller.user_id.to_string(),
        page_size: page.limit,
        page_token: page.cursor.map(|id| id.to_string()).unwrap_or_default(),
    };
    let (found, next) = orders.list(call.request(message)?).await?;
    let bodies = found.iter().map(|order| to_json(order)).collect::<Result<Vec<Bytes>, _>>()?;
    let fits = entries_that_fit(bodies.iter().map(Bytes::len)).min(found.len());
    let next =
        if fits < found.len() { found.get(fits - 1).map(|last| last.order_id.to_string()) } else { next };
    Ok(json::response_of(StatusCode::OK, write(&bodies[..fits], next.as_deref())?))
}

/// A page of orders that are JSON already, because how many there are depends on how long they are.
fn write(orders: &[Bytes], next_cursor: Option<&str>) -> Result<Bytes, Problem> {
    let next_cursor = json::bytes(&next_cursor)?;
    let length = orders.iter().map(|order| order.len() + SEPARATOR_BYTES).sum::<usize>() + FRAME_BYTES;
    let mut page = Vec::with_capacity(length);
    page.extend_from_slice(b"{\"orders\":[");
    for (index, order) in orders.iter().enumerate() {
        if index > 0 {
            page.push(b',');
        }
        page.extend_from_slice(order);
    }
    page.extend_from_slice(b"],\"next_cursor\":");
    page.extend_from_slice(&next_cursor);
    page.push(b'}');
    Ok(page.into())
}

/// How many entries of these lengths go into a page; the first one always does.
fn entries_that_fit(lengths: impl IntoIterator<Item = usize>) -> usize {
    let mut bytes = FRAME_BYTES;
    let fit = lengths.into_iter().take_while(|length| {
        bytes += length + SEPARATOR_BYTES;
        bytes <= PAGE_BYTES_MAX
    });
    fit.count().max(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A page is bounded in bytes, but is never empty because its first order is long.
    #[test]
    fn a_page_is_bounded_in_bytes() {
        assert_eq!(entries_that_fit(vec![1_000; 100]), 100);
        assert_eq!(entries_that_fit(vec![PAGE_BYTES_MAX / 20; 100]), 19, "with the frame 20 are too long");
        assert_eq!(entries_that_fit([PAGE_BYTES_MAX, 1]), 1);
        let longest = PAGE_BYTES_MAX - FRAME_BYTES - SEPARATOR_BYTES;
        let frame = write(&[], Some(&"x".repeat(36))).expect("JSON").len();
        assert!(frame <= FRAME_BYTES, "{frame}");
        assert_eq!(entries_that_fit([longest / 2, longest / 2]), 2);
        assert_eq!(entries_that_fit([longest / 2, longest / 2 + 2]), 1);
    }

    /// What is written is the page that the document describes.
    #[test]
    fn a_page_is_json() {
        let orders = [r#"{"order_id":"a"}"#, r#"{"order_id":"b"}"#].map(Bytes::from);
        for (count, next, expected) in [
            (0, None, json!({"orders": [], "next_cursor": null})),
            (1, Some("b"), json!({"orders": [{"order_id": "a"}], "next_cursor": "b"})),
            (2, None, json!({"orders": [{"order_id": "a"}, {"order_id": "b"}], "next_cursor": null})),
        ] {
            let page = write(&orders[..count], next).expect("JSON");
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&page).expect("JSON"), expected);
        }
    }
}
