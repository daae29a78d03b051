//! Generates the Rust types from the `.proto` files. protox parses them, so no `protoc` is needed.

use std::{
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use prost::Message as _;
use prost_types::{FileDescriptorSet, method_options::IdempotencyLevel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=holdfast");
    println!("cargo:rerun-if-changed=opentelemetry");
    let descriptors = protox::compile(proto_files("holdfast".as_ref())?, ["."])?;
    // The compatibility check (tests/compatibility.rs) compares this with the committed lock file.
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin"), descriptors.encode_to_vec())?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("idempotent.rs"), idempotent_methods(&descriptors))?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("methods.rs"), methods(&descriptors))?;
    tonic_prost_build::configure().include_file("packages.rs").compile_fds(descriptors)?;
    // Not part of the contract: how spans are exported.
    let mut otlp = protox::compile(proto_files("opentelemetry".as_ref())?, ["."])?;
    for file in &mut otlp.file {
        // Its comments have examples that would be taken for Rust.
        file.source_code_info = None;
    }
    tonic_prost_build::configure().include_file("otlp.rs").compile_fds(otlp)?;
    Ok(())
}

/// The `.proto` files of a folder and those below it, in the order of their names.
fn proto_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    entries.sort();
    let mut files = Vec::new();
    for path in entries {
        if path.is_dir() {
            files.extend(proto_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Every method, as a Rust array of `package.Service/Method`.
fn methods(descriptors: &FileDescriptorSet) -> String {
    let mut table = String::from("[");
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let _ = write!(table, "\"{}.{}/{}\", ", file.package(), service.name(), method.name());
            }
        }
    }
    table + "]"
}

/// The unary methods that are marked as idempotent, as a Rust array of (service, method).
fn idempotent_methods(descriptors: &FileDescriptorSet) -> String {
    let mut table = String::from("[");
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let level = method.options.as_ref().map(prost_types::MethodOptions::idempotency_level);
                let idempotent = level.is_some_and(|level| level != IdempotencyLevel::IdempotencyUnknown);
                if idempotent && !method.client_streaming() && !method.server_streaming() {
                    let service = format!("{}.{}", file.package(), service.name());
                    let _ = write!(table, "({service:?}, {:?}), ", method.name());
                }
            }
        }
    }
    table + "]"
}
