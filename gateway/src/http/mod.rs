//! HTTP without the API: connections, the layers of [`crate::router`], the context of a request, strict JSON.

pub(crate) mod body;
pub(crate) mod context;
pub(crate) mod head;
pub(crate) mod json;
pub(crate) mod server;

pub(crate) use self::context::Call;
