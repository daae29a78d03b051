//! The parameters of path and query as types, so that a handler never sees one that is not valid.

use std::convert::Infallible;

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::{Uri, request::Parts},
};
use holdfast_proto::{OrderId, UserId, limits::PAGE_SIZE_MAX};
use serde::Deserialize;
use utoipa::{
    IntoParams, PartialSchema as _, ToSchema as _,
    openapi::{
        ObjectBuilder, Ref, Required, Type,
        path::{Parameter, ParameterIn},
    },
};

use super::schema::{self, parameter};
use crate::problem::{FieldError, Problem};

/// Entries per page if the client does not say how many.
const PAGE_SIZE_DEFAULT: u32 = 20;

/// The order that the path names. A text that can't be an id gets the same 404 as an id that does not exist.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathOrderId(pub(crate) OrderId);

impl<S: Send + Sync> FromRequestParts<S> for PathOrderId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_undecodable| Problem::not_found())?;
        OrderId::parse(&text).map(Self).map_err(|_| Problem::not_found())
    }
}

impl IntoParams for PathOrderId {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let id = parameter("id", ParameterIn::Path, Required::True)
            .description(Some("The order. An id that can't be one is not found either."))
            .schema(Some(Ref::from_schema_name(schema::OrderId::name())));
        vec![id.build()]
    }
}

/// The user that the path names; `None` if the text can't be an id. The operations differ in what follows: reading an account
/// treats it like any other user, a credit reports it together with the other errors.
#[derive(Debug, Clone)]
pub(crate) struct PathUserId(pub(crate) Option<UserId>);

impl<S: Send + Sync> FromRequestParts<S> for PathUserId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        Ok(Self(path.ok().and_then(|Path(text)| UserId::parse(&text).ok())))
    }
}

impl IntoParams for PathUserId {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let user_id = parameter("user_id", ParameterIn::Path, Required::True)
            .description(Some("The user whose account it is."))
            .schema(Some(Ref::from_schema_name(schema::UserId::name())));
        vec![user_id.build()]
    }
}

/// The part of a listing that the client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// Entries at most.
    pub(crate) limit: u32,
    /// The last entry of the previous page; `None` for the first page.
    pub(crate) cursor: Option<OrderId>,
}

/// The query as it was sent. Both are plain text, so that reading it can fail only because of a parameter that is unknown or
/// repeated.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    limit: Option<String>,
    cursor: Option<String>,
}

impl Page {
    fn parse(uri: &Uri) -> Result<Self, FieldError> {
        let Query(query) = Query::<PageQuery>::try_from_uri(uri)
            .map_err(|_| FieldError::new("", "the parameters are limit and cursor, each at most once"))?;
        let limit = match query.limit {
            None => PAGE_SIZE_DEFAULT,
            Some(text) => Some(text)
                // Digits only: a parser of numbers would take a sign too.
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse().ok())
                .filter(|limit| (1..=PAGE_SIZE_MAX).contains(limit))
                .ok_or_else(|| FieldError::new("/limit", format!("must be 1 to {PAGE_SIZE_MAX}")))?,
        };
        let cursor = query
            .cursor
            .filter(|text| !text.is_empty())
            .map(|text| OrderId::parse(&text))
            .transpose()
            .map_err(|_| FieldError::new("/cursor", "must be a next_cursor of an earlier page"))?;
        Ok(Self { limit, cursor })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::parse(&parts.uri).map_err(|error| Problem::invalid(vec![error]))
    }
}

impl IntoParams for Page {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let limit = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(PAGE_SIZE_MAX as usize))
            .default(Some(PAGE_SIZE_DEFAULT.into()));
        let limit = parameter("limit", ParameterIn::Query, Required::False)
            .description(Some("Entries per page, at most."))
            .schema(Some(limit));
        let cursor = parameter("cursor", ParameterIn::Query, Required::False)
            .description(Some("Where the page begins."))
            .schema(Some(schema::Cursor::schema()));
        vec![limit.build(), cursor.build()]
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str) -> Result<Page, String> {
        let uri = format!("/api/orders?{query}").parse().expect("a URI");
        Page::parse(&uri).map_err(|error| error.pointer)
    }

    /// A page has defaults, an empty cursor means the first page, and an error names its parameter.
    #[test]
    fn an_error_in_a_page_names_its_parameter() {
        let id = OrderId::generate();
        let first = Page { limit: PAGE_SIZE_DEFAULT, cursor: None };
        for (query, expected) in [
            (String::new(), Ok(first.clone())),
            ("cursor=".to_owned(), Ok(first)),
            ("limit=1".to_owned(), Ok(Page { limit: 1, cursor: None })),
            (format!("cursor={id}&limit=100"), Ok(Page { limit: 100, cursor: Some(id) })),
            ("limit=".to_owned(), Err("/limit")),
            ("limit=0".to_owned(), Err("/limit")),
            ("limit=101".to_owned(), Err("/limit")),
            ("limit=-1".to_owned(), Err("/limit")),
            ("limit=%2B1".to_owned(), Err("/limit")),
            ("limit=4294967296".to_owned(), Err("/limit")),
            ("limit=x&cursor=x".to_owned(), Err("/limit")),
            ("cursor=x".to_owned(), Err("/cursor")),
            ("cursor=%ff".to_owned(), Err("/cursor")),
            ("page=2".to_owned(), Err("")),
            ("unlimited=1".to_owned(), Err("")),
            ("xlimit=1&limit=2".to_owned(), Err("")),
            ("limit=1&limit=1".to_owned(), Err("")),
        ] {
            assert_eq!(page(&query), expected.map_err(str::to_owned), "{query}");
        }
    }
}
