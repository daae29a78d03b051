//! `/api/orders`.

use axum::{
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use holdfast_proto::{
    IdempotencyKey, OrderId, UserId,
    delivery::v1 as delivery,
    limits::{ITEMS_MAX, PAGE_SIZE_MAX, QUANTITY_MAX, is_address, is_product_id},
    order::v1 as order,
    payment::v1 as payment,
};
use serde::Deserialize;
use tonic::{Code, Status};

use super::{IDEMPOTENT_REPLAYED, amount, idempotency_key, model};
use crate::{
    auth::{Allowed, scope},
    http::{
        Call,
        json::{self, StrictJson},
        problem::{FieldError, Problem},
    },
    upstream::Upstream,
};

const PAGE_SIZE_DEFAULT: u32 = 20;

pub(crate) async fn create(
    State(upstream): State<Upstream>,
    caller: Allowed<scope::OrdersWrite>,
    call: Call,
    headers: HeaderMap,
    StrictJson(new): StrictJson<model::NewOrder>,
) -> Result<Response, Problem> {
    // A client without a key gets one for this request, so that it is safe to send again below the edge.
    let key = idempotency_key(&headers)?;
    // Without a key of the client only a retry of ours can have been there before.
    let key_given = key.is_some();
    let key = key.unwrap_or_else(IdempotencyKey::generate);
    let message = parse_new_order(&caller.user_id, &key, new)?;
    let answer = upstream.orders().create_order(call.request(message)?).await?.into_inner();
    let order = model::Order::from_proto(answer.order)?;
    let location = HeaderValue::try_from(format!("/api/orders/{}", order.order_id));
    let mut response = json::answer(StatusCode::CREATED, &order);
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    mark_replayed(&mut response, answer.replayed && key_given);
    Ok(response)
}

/// Says that nothing was done now.
pub(super) fn mark_replayed(response: &mut Response, replayed: bool) {
    if replayed {
        let name = HeaderName::from_static(IDEMPOTENT_REPLAYED);
        response.headers_mut().insert(name, HeaderValue::from_static("true"));
    }
}

/// Checks the content and names everything that is wrong with it. The order service checks again: it trusts no edge.
fn parse_new_order(
    caller: &UserId,
    key: &IdempotencyKey,
    new: model::NewOrder,
) -> Result<order::CreateOrderRequest, Problem> {
    if new.user_id.is_some_and(|user_id| user_id != caller.as_str()) {
        let detail = "an order can only be created for the token's own user";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign-user", detail));
    }
    let mut errors = Vec::new();
    if !is_address(&new.delivery_address) {
        let detail = "must be 1 to 500 characters, not blank, without control characters";
        errors.push(FieldError::new("/delivery_address", detail));
    }
    if !(1..=ITEMS_MAX).contains(&new.items.len()) {
        errors.push(FieldError::new("/items", "must have 1 to 100 entries"));
    }
    let mut items = Vec::with_capacity(new.items.len().min(ITEMS_MAX));
    for (index, json::Object(item)) in new.items.into_iter().enumerate().take(ITEMS_MAX) {
        if !is_product_id(&item.product_id) {
            let pointer = format!("/items/{index}/product_id");
            errors.push(FieldError::new(pointer, "must be 1 to 64 of A-Z a-z 0-9 . _ : -"));
        }
        if !(1..=QUANTITY_MAX).contains(&item.quantity) {
            errors.push(FieldError::new(format!("/items/{index}/quantity"), "must be 1 to 10000"));
        }
        if let Some(price) = amount(&format!("/items/{index}/price"), &item.price, &mut errors) {
            items.push(order::OrderItem {
                product_id: item.product_id,
                quantity: item.quantity,
                price: Some(price.to_proto()),
            });
        }
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    Ok(order::CreateOrderRequest {
        user_id: caller.to_string(),
        idempotency_key: key.as_str().to_owned(),
        delivery_address: new.delivery_address,
        items,
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page {
    limit: Option<u32>,
    cursor: Option<String>,
}

pub(crate) async fn list(
    State(upstream): State<Upstream>,
    caller: Allowed<scope::OrdersRead>,
    call: Call,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Problem> {
    let wrong_limit = || Problem::invalid(vec![FieldError::new("/limit", "must be 1 to 100")]);
    let Query(page) = page.map_err(|rejection| {
        let text = rejection.body_text();
        if text.contains("limit") {
            wrong_limit()
        } else {
            Problem::invalid(vec![FieldError::new("", "the parameters are limit and cursor")])
        }
    })?;
    let page_size = page.limit.unwrap_or(PAGE_SIZE_DEFAULT);
    if !(1..=PAGE_SIZE_MAX).contains(&page_size) {
        return Err(wrong_limit());
    }
    let page_token = page.cursor.unwrap_or_default();
    if !page_token.is_empty() && OrderId::parse(&page_token).is_err() {
        return Err(Problem::invalid(vec![FieldError::new(
            "/cursor",
            "must be a next_cursor of an earlier page",
        )]));
    }
    let message = order::ListOrdersRequest { user_id: caller.user_id.to_string(), page_size, page_token };
    let answer = upstream.orders().list_orders(call.request(message)?).await?.into_inner();
    let orders = answer
        .orders
        .into_iter()
        .map(|order| model::Order::from_proto(Some(order)))
        .collect::<Result<_, _>>()?;
    let next_cursor = Some(answer.next_page_token).filter(|token| !token.is_empty());
    Ok(json::answer(StatusCode::OK, &model::OrderPage { orders, next_cursor }))
}

/// What can't be an id is as unknown as an id that nobody has.
fn parse_id(path: Result<Path<String>, PathRejection>) -> Result<OrderId, Problem> {
    let Path(text) = path.map_err(|_| Problem::not_found())?;
    OrderId::parse(&text).map_err(|_| Problem::not_found())
}

pub(crate) async fn read(
    State(upstream): State<Upstream>,
    caller: Allowed<scope::OrdersRead>,
    call: Call,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let order = get_order(&upstream, &caller.user_id, &call, parse_id(path)?).await?;
    Ok(json::answer(StatusCode::OK, &order))
}

async fn get_order(
    upstream: &Upstream,
    user_id: &UserId,
    call: &Call,
    order_id: OrderId,
) -> Result<model::Order, Problem> {
    let message = order::GetOrderRequest { order_id: order_id.to_string(), user_id: user_id.to_string() };
    let answer = upstream.orders().get_order(call.request(message)?).await?;
    model::Order::from_proto(answer.into_inner().order)
}

pub(crate) async fn read_payment(
    State(upstream): State<Upstream>,
    caller: Allowed<scope::OrdersRead>,
    call: Call,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id = parse_id(path)?;
    let message =
        payment::GetPaymentRequest { order_id: id.to_string(), user_id: caller.user_id.to_string() };
    let request = call.request(message)?;
    let mut payments = upstream.payments();
    let (order, found) =
        tokio::join!(get_order(&upstream, &caller.user_id, &call, id), payments.get_payment(request));
    let order = order?;
    match found {
        Ok(found) => {
            Ok(json::answer(StatusCode::OK, &model::Payment::from_proto(found.into_inner().payment)?))
        }
        Err(status) => Err(absent(status, &order, WillCome::Always)),
    }
}

pub(crate) async fn read_delivery(
    State(upstream): State<Upstream>,
    caller: Allowed<scope::OrdersRead>,
    call: Call,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id = parse_id(path)?;
    let message =
        delivery::GetDeliveryRequest { order_id: id.to_string(), user_id: caller.user_id.to_string() };
    let request = call.request(message)?;
    let mut deliveries = upstream.deliveries();
    let (order, found) =
        tokio::join!(get_order(&upstream, &caller.user_id, &call, id), deliveries.get_delivery(request));
    let order = order?;
    match found {
        Ok(found) => {
            Ok(json::answer(StatusCode::OK, &model::Delivery::from_proto(found.into_inner().delivery)?))
        }
        Err(status) => Err(absent(status, &order, WillCome::UnlessDeclined)),
    }
}

/// Whether what is absent will be there some day.
enum WillCome {
    Always,
    UnlessDeclined,
}

/// The order is there; what belongs to it is not.
fn absent(status: Status, order: &model::Order, will_come: WillCome) -> Problem {
    match (status.code(), will_come) {
        (Code::NotFound, WillCome::UnlessDeclined) if order.is_declined() => Problem::not_found(),
        (Code::NotFound, _) => Problem::not_yet(),
        _ => status.into(),
    }
}
