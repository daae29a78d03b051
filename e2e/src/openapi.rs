//! The OpenAPI document of a running gateway: what it says of each operation, and whether an answer is one that it describes.

use std::collections::BTreeSet;

use holdfast_chaos::rest::{Answer, Rest};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

/// Header fields of answers that mean something to a client; each must be described where it is sent.
const MEANINGFUL: [&str; 10] = [
    "age",
    "etag",
    "holdfast-stale",
    "idempotent-replayed",
    "location",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "www-authenticate",
    "x-request-id",
];

/// The document.
pub struct Document(Value);

/// One operation of it.
#[derive(Clone, Copy)]
pub struct Operation<'a> {
    document: &'a Document,
    pub path: &'a str,
    method: &'a str,
    item: &'a Value,
}

impl Document {
    /// As the gateway serves it.
    pub async fn fetch(rest: &Rest) -> Self {
        let request = Request::get(format!("{}/openapi.json", rest.base_url()));
        let answer = rest.send(request.body(Full::default()).expect("a request")).await.expect("answered");
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
        Self(answer.json())
    }

    /// All operations.
    pub fn operations(&self) -> Vec<Operation<'_>> {
        let paths = self.0["paths"].as_object().expect("paths");
        let operations = paths.iter().flat_map(|(path, item)| {
            let item = item.as_object().expect("an object");
            let of = move |(method, item)| Operation { document: self, path, method, item };
            item.iter().map(|(method, item)| (method.as_str(), item)).map(of)
        });
        operations.collect()
    }

    /// All scopes that any operation needs.
    pub fn scopes(&self) -> BTreeSet<&str> {
        self.operations().iter().filter_map(Operation::scope).collect()
    }

    /// What a value refers to, or the value itself.
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        let Some(reference) = value["$ref"].as_str() else { return value };
        let pointer = reference.strip_prefix('#').expect("within the document");
        self.0.pointer(pointer).unwrap_or_else(|| panic!("{reference} is not there"))
    }

    /// Everything that is wrong with a value, by the schema that is meant.
    pub fn errors(&self, schema: &Value, value: &Value) -> Vec<String> {
        // References within a schema lead into the document, so it comes along.
        let root = json!({"components": self.0["components"], "allOf": [schema]});
        let validator = jsonschema::options().should_validate_formats(true).build(&root).expect("a schema");
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    /// The schema of a component.
    pub fn schema(&self, name: &str) -> Value {
        assert!(self.0["components"]["schemas"].get(name).is_some(), "there is no schema {name}");
        json!({"$ref": format!("#/components/schemas/{name}")})
    }
}

impl<'a> Operation<'a> {
    pub fn id(&self) -> &'a str {
        self.item["operationId"].as_str().expect("each operation has an id")
    }

    pub fn method(&self) -> Method {
        self.method.to_uppercase().parse().expect("a method")
    }

    /// The scope that a token needs; none if no token is needed.
    pub fn scope(&self) -> Option<&'a str> {
        self.item["security"].get(0).map(|requirement| {
            let scopes = requirement["token"].as_array().expect("the scheme is `token`");
            let [scope] = scopes.as_slice() else { panic!("{}: {scopes:?}", self.id()) };
            scope.as_str().expect("a name")
        })
    }

    /// What a token of another user gets.
    pub fn of_other_user(&self) -> &'a str {
        let said = self.item["x-other-user"].as_str();
        said.unwrap_or_else(|| panic!("{} does not say what a token of another user gets", self.id()))
    }

    /// The status of its success.
    pub fn success(&self) -> u16 {
        let statuses = self.responses().filter_map(|(status, _)| status.parse::<u16>().ok());
        statuses.filter(|status| (200..300).contains(status)).min().expect("each operation can succeed")
    }

    fn responses(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.item["responses"].as_object().expect("responses").iter()
    }

    /// Whether its success is a stream of events.
    pub fn is_stream(&self) -> bool {
        self.responses().any(|(_, response)| response["content"].get("text/event-stream").is_some())
    }

    /// The examples of its body; one without a body if it takes none.
    pub fn bodies(&self) -> Vec<(String, Option<&'a Value>)> {
        let Some(body) = self.item.get("requestBody") else { return vec![("no body".to_owned(), None)] };
        let examples = body["content"]["application/json"]["examples"].as_object();
        let examples = examples.filter(|examples| !examples.is_empty());
        let examples = examples.unwrap_or_else(|| panic!("{} has no example of its body", self.id()));
        examples.iter().map(|(name, example)| (name.clone(), Some(&example["value"]))).collect()
    }

    /// The schema of its body.
    pub fn body_schema(&self) -> &'a Value {
        &self.item["requestBody"]["content"]["application/json"]["schema"]
    }

    /// Its path with these values in it.
    pub fn path_with(&self, values: &[(&str, &str)]) -> String {
        let mut path = self.path.to_owned();
        for (name, value) in values {
            path = path.replace(&format!("{{{name}}}"), value);
        }
        assert!(!path.contains('{'), "{}: what goes into {path}?", self.id());
        path
    }

    /// Whether the header field must be sent.
    pub fn requires_header(&self, name: &str) -> bool {
        let parameters = self.item["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        let parameters = parameters.iter().map(|parameter| self.document.resolve(parameter));
        parameters
            .filter(|parameter| parameter["name"] == name)
            .any(|parameter| parameter["required"] == true)
    }

    /// An answer is as described: its status, its header fields, its media type and its content.
    pub fn assert_describes(&self, answer: &Answer) {
        let id = self.id();
        let response = self.assert_describes_head(answer.status, &answer.headers);
        let Some(contents) = response["content"].as_object() else {
            assert!(answer.body.is_empty(), "{id}: {} has a body", answer.status);
            return;
        };
        let media_type = answer.headers[header::CONTENT_TYPE].to_str().expect("text");
        let content = contents.get(media_type);
        let content = content.unwrap_or_else(|| panic!("{id}: {media_type} for {}", answer.status));
        let errors = self.document.errors(&content["schema"], &answer.json());
        assert!(errors.is_empty(), "{id}: {} {}: {errors:#?}", answer.status, answer.json());
    }

    /// The same for the head alone, which is all that a stream has at first. Returns what is described.
    pub fn assert_describes_head(&self, status: StatusCode, headers: &HeaderMap) -> &'a Value {
        let id = self.id();
        let (_, response) = self
            .responses()
            .find(|(described, _)| **described == status.as_str())
            .unwrap_or_else(|| panic!("{id}: {status} is not described"));
        let response = self.document.resolve(response);
        let described = response["headers"].as_object();
        let described: BTreeSet<_> =
            described.into_iter().flatten().map(|(name, _)| name.to_ascii_lowercase()).collect();
        for name in headers.keys().map(http::HeaderName::as_str).filter(|name| MEANINGFUL.contains(name)) {
            assert!(described.contains(name), "{id}: {status} has {name}, which is not described");
        }
        assert!(headers.contains_key("x-request-id"), "{id}: {status}");
        response
    }
}
