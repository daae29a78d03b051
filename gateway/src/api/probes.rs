//! `/healthz` and `/readyz`, the same as on the admin port: for load balancers that see only this one.

use axum::{Router, extract::State, response::Response, routing::get};
use holdfast_common::{admin, health::Health};
use utoipa::{
    OpenApi,
    openapi::{ArrayBuilder, Object, ObjectBuilder, RefOr, Schema, Type},
};

use crate::state::Gateway;

/// What the document says of them.
#[derive(OpenApi)]
#[openapi(paths(liveness, readiness))]
pub(crate) struct Document;

/// The operations.
pub(crate) fn routes() -> Router<Gateway> {
    Router::new().route("/healthz", get(liveness)).route("/readyz", get(readiness))
}

/// Whether the process is alive
///
/// If it is not, it should be restarted.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "probes",
    operation_id = "liveness",
    responses(
        (status = OK, description = "It is.", body = Liveness),
        (status = SERVICE_UNAVAILABLE, description = "Some of its loops make no progress.", body = Liveness)
    )
)]
async fn liveness(State(health): State<Health>) -> Response {
    admin::liveness(&health)
}

/// Whether the process can serve
///
/// If it can't, it should get no requests. `degraded` names what is away without keeping it from serving.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "probes",
    operation_id = "readiness",
    responses(
        (status = OK, description = "It can.", body = Readiness),
        (status = SERVICE_UNAVAILABLE, description = "A part that callers need is away.", body = Readiness)
    )
)]
async fn readiness(State(health): State<Health>) -> Response {
    admin::readiness(&health)
}

/// Stands for the schema of what [`admin::liveness`] answers.
enum Liveness {}

impl utoipa::PartialSchema for Liveness {
    fn schema() -> RefOr<Schema> {
        let names = ArrayBuilder::new().items(Object::with_type(Type::String));
        object([("alive", of(Type::Boolean)), ("stalled", names.into())]).into()
    }
}

impl utoipa::ToSchema for Liveness {}

/// Stands for the schema of what [`admin::readiness`] answers.
enum Readiness {}

impl utoipa::PartialSchema for Readiness {
    fn schema() -> RefOr<Schema> {
        let (boolean, text) = (of(Type::Boolean), of(Type::String));
        let component = object([("ready", boolean.clone()), ("required", boolean.clone()), ("detail", text)]);
        let components =
            ObjectBuilder::new().schema_type(Type::Object).additional_properties(Some(component));
        object([("ready", boolean.clone()), ("degraded", boolean), ("components", components.into())]).into()
    }
}

impl utoipa::ToSchema for Readiness {}

fn of(kind: Type) -> Schema {
    Object::with_type(kind).into()
}

/// An object that has all of these properties.
fn object<const N: usize>(properties: [(&str, Schema); N]) -> ObjectBuilder {
    let object = ObjectBuilder::new().schema_type(Type::Object);
    properties.into_iter().fold(object, |object, (name, schema)| object.property(name, schema).required(name))
}
