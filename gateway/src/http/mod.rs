//! HTTP apart from the API: connections, the layers that [`crate::router`] puts together, the context of a request, strict
//! JSON.

pub(crate) mod body;
pub(crate) mod context;
pub(crate) mod head;
pub(crate) mod json;
pub(crate) mod server;

pub(crate) use self::context::Call;
