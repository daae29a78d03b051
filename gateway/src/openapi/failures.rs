//! The answers that are no success: which problems an operation has, and what they look like.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::{
    PartialSchema as _, ToSchema as _,
    openapi::{
        AllOfBuilder, Components, Content, ContentBuilder, ObjectBuilder, Ref, RefOr, Response,
        ResponseBuilder, Type, example::ExampleBuilder, path::Operation,
    },
};

use super::headers::{self, RETRY_AFTER, WWW_AUTHENTICATE};
use crate::problem::{Document, FieldError, ProblemType};

/// How an operation names the problems that only it has; it is not in the finished document.
const EXTENSION: &str = "x-problems";
const MEDIA_TYPE: &str = "application/problem+json";

/// Problems of every request, whatever it asks for.
const OF_ALL: [ProblemType; 8] = [
    ProblemType::Malformed,
    ProblemType::SlowHead,
    ProblemType::RateLimited,
    ProblemType::TooManyInFlight,
    ProblemType::HeadTooLarge,
    ProblemType::Internal,
    ProblemType::Unavailable,
    ProblemType::Deadline,
];
/// Problems of a request that needs a token.
const OF_TOKENS: [ProblemType; 2] = [ProblemType::InvalidToken, ProblemType::InsufficientScope];
/// Problems of a request with a body.
const OF_BODIES: [ProblemType; 4] = [
    ProblemType::SlowBody,
    ProblemType::TooLarge,
    ProblemType::UnsupportedMediaType,
    ProblemType::InvalidContent,
];

/// Describes the problem document itself.
pub(super) fn add_schemas(components: &mut Components) {
    components.schemas.insert(Document::name().into_owned(), Document::schema());
    components.schemas.insert(FieldError::name().into_owned(), FieldError::schema());
}

/// Adds the answers that an operation has for its problems. Operations with the same problems of a status share one.
pub(super) fn complete(operation: &mut Operation, components: &mut Components) {
    let mut by_status = BTreeMap::<u16, Vec<ProblemType>>::new();
    for problem in problems_of(operation) {
        by_status.entry(problem.status().as_u16()).or_default().push(problem);
    }
    for (status, problems) in by_status {
        let failure = response(&problems);
        let status = status.to_string();
        // A probe says more than that something is away.
        if let Some(RefOr::T(described)) = operation.responses.responses.get_mut(&status) {
            described.content.extend(failure.content);
            described.headers.extend(failure.headers);
            continue;
        }
        let name = problems.iter().map(|problem| problem.slug()).collect::<Vec<_>>().join("-or-");
        let reference = Ref::from_response_name(&name);
        components.responses.insert(name, failure.into());
        operation.responses.responses.insert(status, RefOr::Ref(reference));
    }
}

/// All problems of an operation, in the order of the one list of them.
fn problems_of(operation: &mut Operation) -> Vec<ProblemType> {
    let own = operation.extensions.as_mut().and_then(|extensions| extensions.remove(EXTENSION));
    let own: Vec<Value> = own.and_then(|own| own.as_array().cloned()).unwrap_or_default();
    let applies = |problem: &ProblemType| {
        OF_ALL.contains(problem)
            || (operation.security.is_some() && OF_TOKENS.contains(problem))
            || (operation.request_body.is_some() && OF_BODIES.contains(problem))
            || own.contains(&problem.slug().into())
    };
    ProblemType::ALL.iter().copied().filter(applies).collect()
}

/// The answer for these problems, which have the same status.
fn response(problems: &[ProblemType]) -> Response {
    let line = |problem: &ProblemType| format!("`{}`: {}", problem.slug(), problem.doc());
    let description = problems.iter().map(line).collect::<Vec<_>>().join("\n\n");
    let mut response =
        ResponseBuilder::new().description(description).content(MEDIA_TYPE, content(problems)).build();
    headers::refer_of_failure(&mut response);
    if problems.iter().any(|problem| says_when(*problem)) {
        headers::refer(&mut response, &[RETRY_AFTER]);
    }
    if problems.iter().any(|problem| OF_TOKENS.contains(problem)) {
        headers::refer(&mut response, &[WWW_AUTHENTICATE]);
    }
    response
}

/// Whether the answer says when to try again.
const fn says_when(problem: ProblemType) -> bool {
    matches!(
        problem,
        ProblemType::NotYet
            | ProblemType::IdempotencyKeyInUse
            | ProblemType::RateLimited
            | ProblemType::TooManyInFlight
            | ProblemType::TooManyStreams
            | ProblemType::Unavailable
    )
}

/// A problem document whose type is one of these.
fn content(problems: &[ProblemType]) -> Content {
    let types = problems.iter().map(|problem| problem.uri());
    let statuses = problems.first().map(|problem| problem.status().as_u16());
    let one_of_these = ObjectBuilder::new()
        .property("type", ObjectBuilder::new().schema_type(Type::String).enum_values(Some(types)))
        .property("status", ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some(statuses)));
    let schema = AllOfBuilder::new().item(Ref::from_schema_name(Document::name())).item(one_of_these);
    let examples = problems.iter().map(|problem| {
        (problem.slug(), ExampleBuilder::new().summary(problem.slug()).value(Some(example(*problem))).build())
    });
    ContentBuilder::new().schema(Some(schema)).examples_from_iter(examples).build()
}

fn example(problem: ProblemType) -> Value {
    let mut document = json!({
        "type": problem.uri(),
        "title": problem.title(),
        "status": problem.status().as_u16(),
        "detail": problem.doc(),
        "instance": "0af7651916cd43dd8448eb211c80319c",
    });
    if problem == ProblemType::InvalidContent {
        document["errors"] = json!([{"pointer": "/items", "detail": "must have 1 to 100 entries"}]);
    }
    document
}
