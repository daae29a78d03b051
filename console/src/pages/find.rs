//! From an id that was typed to its page.

use axum::{
    extract::Query,
    response::{IntoResponse as _, Redirect, Response},
};
use serde::Deserialize;

use super::{letter_link, no_such_id, order_link};

#[derive(Deserialize)]
pub(crate) struct Wanted {
    #[serde(default)]
    order: String,
    #[serde(default)]
    letter: String,
}

pub(crate) async fn page(Query(wanted): Query<Wanted>) -> Response {
    let links = [order_link(wanted.order.trim()), letter_link(wanted.letter.trim())];
    match links.into_iter().find(|link| !link.is_empty()) {
        Some(link) => Redirect::to(&link).into_response(),
        None => no_such_id(),
    }
}
