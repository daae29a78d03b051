//! What `deploy/vector` makes of the services' lines, compared with lines that services have written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use toml::Table;

/// The configuration of the collector.
#[derive(Debug)]
pub struct Collection {
    /// The names of the files that are collected, as patterns.
    files: Vec<String>,
    /// Fields of a line that the transform reads, and those that it makes.
    read: BTreeSet<String>,
    made: BTreeSet<String>,
    /// Fields that sinks refer to.
    used: BTreeSet<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/vector")
}

fn table(name: &str) -> Table {
    let text = fs::read_to_string(folder().join(name)).expect("there");
    text.parse().expect("TOML")
}

fn text(value: &toml::Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// The fields of events that a program of Vector's language names: `.time`, `."service.name"`.
fn fields_in(program: &str) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    for (at, _) in program.match_indices('.') {
        let before = program[..at].chars().next_back();
        if before.is_some_and(char::is_alphanumeric) {
            // Within a word or a number.
            continue;
        }
        let rest = &program[at + 1..];
        let name = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next().unwrap_or_default(),
            None => rest
                .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .next()
                .unwrap_or_default(),
        };
        if !name.is_empty() {
            fields.insert(name.to_owned());
        }
    }
    fields
}

impl Collection {
    /// Reads `deploy/vector`.
    #[must_use]
    pub fn shipped() -> Self {
        let main = table("vector.toml");
        let include = main["sources"]["services"]["include"].as_array().expect("a list");
        let files = include.iter().map(|path| text(path).rsplit('/').next().expect("a name").to_owned());
        let (mut read, mut made) = (BTreeSet::new(), BTreeSet::new());
        for line in text(&main["transforms"]["lines"]["source"]).lines() {
            let (to, from) = line.split_once(" = ").expect("an assignment");
            made.extend(fields_in(to));
            read.extend(fields_in(from));
        }
        // The line itself, which is `message` to the source of any kind.
        assert!(read.contains("message"), "{read:?}");
        let mut used = BTreeSet::new();
        let loki = &table("loki.toml")["sinks"]["loki"];
        for fields in [&loki["labels"], &loki["structured_metadata"]] {
            for template in fields.as_table().expect("a table").values().map(text) {
                let field = template.strip_prefix("{{ ").and_then(|field| field.strip_suffix(" }}"));
                used.insert(field.expect("a template").to_owned());
            }
        }
        let query = &table("victorialogs.toml")["sinks"]["victorialogs"]["query"];
        for key in ["_msg_field", "_time_field", "_stream_fields"] {
            used.extend(text(&query[key]).split(',').map(str::to_owned));
        }
        Self { files: files.collect(), read, made, used }
    }

    /// Whether the file of a component is collected.
    #[must_use]
    pub fn takes(&self, component: &str) -> bool {
        let name = format!("{component}.log");
        self.files.iter().any(|pattern| match pattern.split_once("[0-9]") {
            Some((start, end)) => {
                let number = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
                number.is_some_and(|number| {
                    number.len() == 1 && number.bytes().all(|digit| digit.is_ascii_digit())
                })
            }
            None => *pattern == name,
        })
    }

    /// Panics unless `lines`, of any services and of all kinds, have what is read and used.
    pub fn check<'a>(&self, lines: impl IntoIterator<Item = &'a str>) {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for line in lines {
            let fields: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
            let fields = fields.as_object().unwrap_or_else(|| panic!("no object: {line}"));
            for name in ["time", "level", "service.name", "message", "target"] {
                assert!(fields.get(name).is_some_and(Value::is_string), "{name} of {line}");
            }
            let time = fields["time"].as_str().unwrap_or_default();
            let format = &time::format_description::well_known::Rfc3339;
            assert!(time::OffsetDateTime::parse(time, format).is_ok(), "{line}");
            for made in &self.made {
                assert!(!fields.contains_key(made), "the collector would write over {made} of {line}");
            }
            fields.keys().for_each(|name| *seen.entry(name.clone()).or_default() += 1);
        }
        for field in &self.read {
            assert!(seen.contains_key(field), "the collector reads {field}, which no line has: {seen:?}");
        }
        for field in &self.used {
            let is_there = seen.contains_key(field) && !self.read_away(field);
            assert!(
                is_there || self.made.contains(field),
                "a sink uses {field}, which no line has: {seen:?}"
            );
        }
    }

    /// Whether the transform takes a field out of the line.
    fn read_away(&self, field: &str) -> bool {
        self.read.contains(field) && field != "message"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LETTER: &str = r#"{"time":"2026-01-31T12:00:00.5Z","level":"WARN","service.name":"payment","message":"parked","target":"a","trace_id":"01","span_id":"02","order_id":"03"}"#;

    /// The fields of a program are those behind a point that is in no word.
    #[test]
    fn fields_are_found() {
        let program = ". = object(parse_json(.line) ?? 1.5)\n.a_b = del(.\"service.name\")";
        assert_eq!(fields_in(program), ["a_b", "line", "service.name"].map(str::to_owned).into());
    }

    /// A line as services write it passes; without a field that a sink uses, or with one that the collector makes, it does not.
    #[test]
    fn a_wrong_line_is_noticed() {
        let collection = Collection::shipped();
        collection.check([LETTER]);
        let fails = |line: String| {
            let caught = std::panic::catch_unwind(|| Collection::shipped().check([line.as_str()]));
            assert!(caught.is_err(), "{line}");
        };
        fails(LETTER.replace("order_id", "order"));
        fails(LETTER.replace("\"time\"", "\"timestamp\""));
        fails(LETTER.replace("\"order_id\"", "\"service_name\":\"x\",\"order_id\""));
    }

    /// The services are collected, and what writes no JSON is not.
    #[test]
    fn services_are_collected() {
        let collection = Collection::shipped();
        for service in holdfast_native::layout::service_names() {
            assert!(collection.takes(service) && collection.takes(&format!("{service}-2")), "{service}");
        }
        for other in ["orders-db", "payments-db", "kafka", "supervisor", "redis"] {
            assert!(!collection.takes(other), "{other}");
        }
    }
}
