//! `/api/accounts`.

mod credit;
mod read;

use axum::{
    Router,
    routing::{get, post},
};
use utoipa::OpenApi;

use crate::state::Gateway;

/// What the document says of them.
#[derive(OpenApi)]
#[openapi(paths(read::read, credit::credit))]
pub(crate) struct Document;

/// The operations.
pub(crate) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/api/accounts/{user_id}", get(read::read))
        .route("/api/accounts/{user_id}/credits", post(credit::credit))
}
