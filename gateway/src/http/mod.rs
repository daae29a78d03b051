//! HTTP apart from the API: the layers that [`crate::router`] puts together, the context of a request, strict
//! JSON. Connections are [`holdfast_common::http`].

pub(crate) mod body;
pub(crate) mod context;
pub(crate) mod head;
pub(crate) mod headers;
pub(crate) mod json;

pub(crate) use self::context::Call;
