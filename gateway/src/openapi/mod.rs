//! The OpenAPI document of the whole interface, and a page on which it can be read and tried.
//!
//! What concerns one operation is written beside it in [`crate::api`]: its parameters, its answer, its scope, the problems that
//! only it has (`x-problems`), and what a token of another user gets (`x-other-user`). What concerns all is added here: [`failures`] are the answers that are no success, [`headers`] the
//! header fields of answers. [`page`] serves it.

mod failures;
mod headers;
mod page;

use utoipa::{
    OpenApi as _,
    openapi::{
        ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Server,
        path::{Operation, PathItem},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
        tag::TagBuilder,
    },
};

pub(crate) use self::page::routes;
use crate::{
    api::{accounts, orders, probes},
    problem::ProblemType,
};

/// The name of the security scheme, as the operations name it.
const TOKEN: &str = "token";
const TOKEN_DESCRIPTION: &str = "A signed access token (RFC 9068), EdDSA or ES256, with the scope that the operation names. For the \
                                 native stack, `holdfast token --user alice` prints one.";
const TAGS: [(&str, &str); 4] = [
    ("orders", "What a user has ordered, and what became of it."),
    ("events", "Orders as server-sent events: each change as it is committed."),
    ("accounts", "The money that orders are paid with."),
    ("probes", "For load balancers and supervisors. No token."),
];

/// The document.
pub(crate) fn document() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Holdfast")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(description()))
        .license(Some(
            LicenseBuilder::new().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build(),
        ));
    let tags =
        TAGS.map(|(name, description)| TagBuilder::new().name(name).description(Some(description)).build());
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some(TOKEN_DESCRIPTION));
    let components =
        ComponentsBuilder::new().security_scheme(TOKEN, SecurityScheme::Http(scheme.build())).build();
    let mut document = OpenApiBuilder::new()
        .info(info.build())
        .servers(Some([Server::new("/")]))
        .tags(Some(tags))
        .components(Some(components))
        .build();
    for part in [orders::Document::openapi(), accounts::Document::openapi(), probes::Document::openapi()] {
        document.merge(part);
    }
    complete(&mut document);
    document
}

/// Adds to each operation what all have.
fn complete(document: &mut OpenApi) {
    let mut components = document.components.take().unwrap_or_default();
    headers::add(&mut components);
    failures::add_schemas(&mut components);
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        failures::complete(operation, &mut components);
        headers::complete(operation);
        name_scope(operation);
    }
    document.components = Some(components);
}

/// Names the scope in the text too: the page does not show what the requirement of a bearer token lists.
fn name_scope(operation: &mut Operation) {
    let requirement = serde_json::to_value(&operation.security).unwrap_or_default();
    if let Some(scope) = requirement[0][TOKEN][0].as_str() {
        operation.description.get_or_insert_default().extend(["\n\nScope: `", scope, "`."]);
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten()
}

/// The text at the beginning, with the list of all problems.
fn description() -> String {
    let row = |problem: &ProblemType| {
        format!("| `{}` | {} | {} |\n", problem.slug(), problem.status().as_u16(), problem.doc())
    };
    let problems: String = ProblemType::ALL.iter().map(row).collect();
    include_str!("description.md").replace("{problems}", &problems)
}

#[cfg(test)]
mod tests {
    use std::{env, fs};

    use super::*;

    /// The file in the repository is the document. `UPDATE_OPENAPI=1 cargo test -p holdfast-gateway openapi` writes it.
    #[test]
    fn the_file_is_the_document() {
        let text = document().to_pretty_json().expect("JSON") + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        if env::var_os("UPDATE_OPENAPI").is_some() {
            fs::write(path, &text).expect("written");
        }
        let file = fs::read_to_string(path).unwrap_or_default();
        assert!(file == text, "gateway/openapi.json is out of date: run it with UPDATE_OPENAPI=1");
    }
}
