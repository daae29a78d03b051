//! `POST /api/orders`.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use holdfast_common::planted::{Bug, planted};
use holdfast_proto::{
    IdempotencyKey,
    limits::{ADDRESS_CHARS_MAX, ITEMS_MAX, PRODUCT_ID_CHARS_MAX, QUANTITY_MAX, is_address, is_product_id},
    order::v1::{CreateOrderRequest, OrderItem},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    api::{amount, idempotency_key, mark_replayed, model, schema},
    auth::{Allowed, scope},
    http::{
        Call,
        json::{self, Object, StrictJson},
    },
    problem::{FieldError, Problem, ProblemType},
    upstream::Upstream,
};

/// An order as a client sends it.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewOrder {
    /// Whose order it is: the token's own user, who is also meant if it is absent.
    #[schema(value_type = Option<schema::UserId>)]
    user_id: Option<String>,
    #[schema(value_type = schema::Address)]
    delivery_address: String,
    #[schema(min_items = 1, max_items = 100, value_type = Vec<NewItem>)]
    items: Vec<Object<NewItem>>,
}

/// A line of an order as a client sends it.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct NewItem {
    #[schema(value_type = schema::ProductId)]
    product_id: String,
    #[schema(value_type = schema::Quantity)]
    #[serde(deserialize_with = "json::whole_number")]
    quantity: u32,
    /// Of one piece.
    #[schema(value_type = schema::Amount)]
    price: Box<RawValue>,
}

// The macro takes only a number.
const _: () = assert!(ITEMS_MAX == 100);

/// Creates an order
///
/// It is `PENDING` until it is paid, which takes moments: read it again, or watch its stream of events.
///
/// Send an `Idempotency-Key`, so that the request can be repeated without creating a second order: the same key and content get the
/// order as it was created, and `Idempotent-Replayed: true`.
#[utoipa::path(
    post,
    path = "/api/orders",
    tag = "orders",
    operation_id = "createOrder",
    params(schema::IdempotencyKeyOptional),
    request_body(content = NewOrder, examples(
        ("one-line" = (
            summary = "One line",
            value = json!({
                "delivery_address": "1 Quay Street, 20457 Hamburg",
                "items": [{"product_id": "tea-100g", "quantity": 2, "price": 12.5}]
            })
        )),
        ("several-lines" = (
            summary = "Several lines",
            value = json!({
                "delivery_address": "Fischmarkt 2\u{a0}b, 22767 Hamburg",
                "items": [
                    {"product_id": "tea-100g", "quantity": 1, "price": 12.5},
                    {"product_id": "cup:blue", "quantity": 6, "price": 3},
                    {"product_id": "spoon.small", "quantity": 6, "price": 0.99}
                ]
            })
        )),
        ("undeliverable" = (
            summary = "One that will be refunded",
            description = "In the native stack a delivery to an address that begins with UNDELIVERABLE fails.",
            value = json!({
                "delivery_address": "UNDELIVERABLE, 1 Quay Street",
                "items": [{"product_id": "tea-100g", "quantity": 1, "price": 0.01}]
            })
        )),
    )),
    responses((
        status = CREATED,
        description = "The order, or the one that was created with the same key.",
        body = model::Order,
        headers(
            ("Location" = String, description = "The path of the order."),
            ("Idempotent-Replayed" = String, description = "`true`: the key was used before, and this request changed nothing."),
        ),
        links(
            ("order" = (operation_id = "readOrder", parameters(("id" = "$response.body#/order_id")))),
            ("payment" = (operation_id = "readPayment", parameters(("id" = "$response.body#/order_id")))),
            ("delivery" = (operation_id = "readDelivery", parameters(("id" = "$response.body#/order_id")))),
            ("events" = (operation_id = "watchOrder", parameters(("id" = "$response.body#/order_id")))),
        )
    )),
    security(("token" = ["orders:write"])),
    extensions(
        ("x-other-user" = json!("own")),
        ("x-problems" = json!([
            ProblemType::IdempotencyKeyInvalid.slug(),
            ProblemType::ForeignUser.slug(),
            ProblemType::IdempotencyKeyInUse.slug(),
            ProblemType::IdempotencyKeyReused.slug(),
        ]))
    )
)]
pub(crate) async fn create(
    State(upstream): State<Upstream>,
    caller: Allowed<scope::OrdersWrite>,
    call: Call,
    headers: HeaderMap,
    StrictJson(new): StrictJson<NewOrder>,
) -> Result<Response, Problem> {
    let client_key = idempotency_key(&headers)?;
    // If the client sent no key, a replay can only be a retry below the edge, which does not concern the client.
    let key_given = client_key.is_some();
    // The order gets a key anyway, so that such a retry is safe.
    let key = client_key.unwrap_or_else(IdempotencyKey::generate);
    if new.user_id.as_deref().is_some_and(|user_id| user_id != caller.user_id.as_str()) {
        let detail = "an order can only be created for the token's own user";
        return Err(Problem::new(ProblemType::ForeignUser, detail));
    }
    let items = check(&new).map_err(Problem::invalid)?;
    let message = CreateOrderRequest {
        user_id: caller.user_id.to_string(),
        idempotency_key: key.as_str().to_owned(),
        delivery_address: new.delivery_address,
        items,
    };
    let again = planted(Bug::NewKeyOnRetry).then(|| message.clone());
    let mut answer = upstream.orders().create_order(call.request(message)?).await;
    if let (Some(mut message), Err(_)) = (again, &answer) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        IdempotencyKey::generate().as_str().clone_into(&mut message.idempotency_key);
        answer = upstream.orders().create_order(call.request(message)?).await;
    }
    let answer = answer?.into_inner();
    let order = model::Order::from_proto(answer.order)?;
    let mut response = json::response(StatusCode::CREATED, &order);
    if let Ok(location) = HeaderValue::try_from(format!("/api/orders/{}", order.order_id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    mark_replayed(&mut response, answer.replayed && key_given);
    Ok(response)
}

/// Returns the lines of an order, or everything that is wrong with the order. The order service checks it again, because it
/// does not trust the edge.
fn check(new: &NewOrder) -> Result<Vec<OrderItem>, Vec<FieldError>> {
    let mut errors = Vec::new();
    if !is_address(&new.delivery_address) {
        let detail =
            format!("must be 1 to {ADDRESS_CHARS_MAX} characters, not blank, without control characters");
        errors.push(FieldError::new("/delivery_address", detail));
    }
    if !(1..=ITEMS_MAX).contains(&new.items.len()) {
        errors.push(FieldError::new("/items", format!("must have 1 to {ITEMS_MAX} entries")));
    }
    let mut items = Vec::with_capacity(new.items.len().min(ITEMS_MAX));
    for (index, Object(item)) in new.items.iter().enumerate().take(ITEMS_MAX) {
        if !is_product_id(&item.product_id) {
            let detail = format!("must be 1 to {PRODUCT_ID_CHARS_MAX} of A-Z a-z 0-9 . _ : -");
            errors.push(FieldError::new(format!("/items/{index}/product_id"), detail));
        }
        if !(1..=QUANTITY_MAX).contains(&item.quantity) {
            let detail = format!("must be 1 to {QUANTITY_MAX}");
            errors.push(FieldError::new(format!("/items/{index}/quantity"), detail));
        }
        if let Some(price) = amount(&format!("/items/{index}/price"), &item.price, &mut errors) {
            items.push(OrderItem {
                product_id: item.product_id.clone(),
                quantity: item.quantity,
                price: Some(price.to_proto()),
            });
        }
    }
    if errors.is_empty() { Ok(items) } else { Err(errors) }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(body: &str) -> Result<Vec<OrderItem>, Vec<FieldError>> {
        let Object(new) = json::parse(body.as_bytes()).expect("an order");
        check(&new)
    }

    /// All errors are reported at once, each with its limit.
    #[test]
    fn all_errors_are_reported_at_once() {
        let errors = checked(
            r#"{"delivery_address": " ", "items": [
                {"product_id": "tea", "quantity": 1, "price": 0.01},
                {"product_id": "a b", "quantity": 0, "price": 1000000.01}
            ]}"#,
        )
        .expect_err("the address and the second line are wrong");
        assert_eq!(
            errors,
            [
                ("/delivery_address", "must be 1 to 500 characters, not blank, without control characters"),
                ("/items/1/product_id", "must be 1 to 64 of A-Z a-z 0-9 . _ : -"),
                ("/items/1/quantity", "must be 1 to 10000"),
                ("/items/1/price", "must be 0.01 to 1000000.00"),
            ]
            .map(|(pointer, detail)| FieldError::new(pointer, detail))
        );
    }

    /// A wrong number of lines is one error, however many lines there are.
    #[test]
    fn a_wrong_number_of_lines_is_one_error() {
        for count in [0, ITEMS_MAX + 1] {
            let items = vec![r#"{"product_id": "tea", "quantity": 1, "price": 1}"#; count].join(",");
            let errors = checked(&format!(r#"{{"delivery_address": "x", "items": [{items}]}}"#));
            assert_eq!(errors, Err(vec![FieldError::new("/items", "must have 1 to 100 entries")]));
        }
    }
}
