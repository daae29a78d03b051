//! `/api/accounts`.

mod credit;
mod read;

use axum::{
    Router,
    routing::{get, post},
};

use crate::state::Gateway;

/// The operations.
pub(crate) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/api/accounts/{user_id}", get(read::read))
        .route("/api/accounts/{user_id}/credits", post(credit::credit))
}
