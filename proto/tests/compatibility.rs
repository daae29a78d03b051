//! A change of the `.proto` files must be readable by yesterday's code: nothing that was published is removed,
//! renumbered, renamed or retyped. `proto/compatibility.lock` is what was published; additions are written to it by
//! `UPDATE_PROTO_LOCK=1 cargo test -p holdfast-proto`, and nothing ever removes a line.

use std::{collections::BTreeSet, env, fs, path::PathBuf};

use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

fn lock_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("compatibility.lock")
}

/// One line for each field, enum value and method: everything that old code relies on.
fn published(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for file in set.file.iter().filter(|file| file.package().starts_with("holdfast.")) {
        let package = file.package();
        for message in &file.message_type {
            describe_message(package, message, &mut lines);
        }
        for item in &file.enum_type {
            describe_enum(package, item, &mut lines);
        }
        for service in &file.service {
            for method in &service.method {
                lines.insert(format!(
                    "rpc {package}.{}/{} {} -> {} streams={},{}",
                    service.name(),
                    method.name(),
                    method.input_type(),
                    method.output_type(),
                    method.client_streaming(),
                    method.server_streaming(),
                ));
            }
        }
    }
    lines
}

fn describe_message(scope: &str, message: &DescriptorProto, lines: &mut BTreeSet<String>) {
    let scope = format!("{scope}.{}", message.name());
    for field in &message.field {
        lines.insert(format!(
            "field {scope} {} {} {:?} {:?} {} {}",
            field.number(),
            field.name(),
            field.r#type(),
            field.label(),
            field.type_name(),
            if field.proto3_optional() { "optional" } else { "plain" },
        ));
    }
    for nested in &message.nested_type {
        describe_message(&scope, nested, lines);
    }
    for item in &message.enum_type {
        describe_enum(&scope, item, lines);
    }
}

fn describe_enum(scope: &str, item: &EnumDescriptorProto, lines: &mut BTreeSet<String>) {
    for value in &item.value {
        lines.insert(format!("enum {scope}.{} {} {}", item.name(), value.number(), value.name()));
    }
}

fn lost(locked: &BTreeSet<String>, current: &BTreeSet<String>) -> Vec<String> {
    locked.difference(current).cloned().collect()
}

/// Nothing that was published is gone or different, and nothing new was left unpublished by oversight.
#[test]
fn the_proto_files_stay_compatible() {
    let set = FileDescriptorSet::decode(holdfast_proto::DESCRIPTORS).expect("made by our own build");
    let current = published(&set);
    let text = fs::read_to_string(lock_path()).unwrap_or_default();
    let locked: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    let lost = lost(&locked, &current);
    assert!(lost.is_empty(), "incompatible with what was published, these are gone or changed:\n{lost:#?}");
    if env::var_os("UPDATE_PROTO_LOCK").is_some() {
        let mut text = current.into_iter().collect::<Vec<_>>().join("\n");
        text.push('\n');
        fs::write(lock_path(), text).expect("the lock file can be written");
        return;
    }
    let new: Vec<_> = current.difference(&locked).collect();
    assert!(new.is_empty(), "new, publish with UPDATE_PROTO_LOCK=1 cargo test -p holdfast-proto:\n{new:#?}");
}

/// The check itself notices each kind of break.
#[test]
fn each_kind_of_break_is_noticed() {
    let set = FileDescriptorSet::decode(holdfast_proto::DESCRIPTORS).expect("made by our own build");
    let before = published(&set);
    let breaks: [fn(&mut DescriptorProto); 4] = [
        |message| message.field[0].number = Some(99),
        |message| message.field[0].name = Some("renamed".to_owned()),
        |message| message.field[0].set_type(prost_types::field_descriptor_proto::Type::Int64),
        |message| drop(message.field.remove(0)),
    ];
    for (index, make_break) in breaks.iter().enumerate() {
        let mut changed = set.clone();
        let file = changed
            .file
            .iter_mut()
            .find(|file| file.name().ends_with("order/v1/events.proto"))
            .expect("the file is there");
        make_break(&mut file.message_type[0]);
        assert_eq!(lost(&before, &published(&changed)).len(), 1, "break {index}");
    }
}
