//! Generates the Rust types from the `.proto` files. protox parses them, so no `protoc` is needed.

use std::{env, fmt::Write as _, fs, path::PathBuf};

use prost::Message as _;
use prost_types::{FileDescriptorSet, method_options::IdempotencyLevel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=holdfast");
    let files = [
        "holdfast/type/v1/money.proto",
        "holdfast/order/v1/order_service.proto",
        "holdfast/order/v1/events.proto",
        "holdfast/payment/v1/payment_service.proto",
        "holdfast/payment/v1/events.proto",
        "holdfast/delivery/v1/delivery_service.proto",
        "holdfast/delivery/v1/events.proto",
        "holdfast/ops/v1/dead_letter_service.proto",
        "holdfast/ops/v1/outbox_service.proto",
        "holdfast/ops/v1/reconcile_service.proto",
    ];
    let descriptors = protox::compile(files, ["."])?;
    // The compatibility check (tests/compatibility.rs) compares this with the committed lock file.
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin"), descriptors.encode_to_vec())?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("idempotent.rs"), idempotent_methods(&descriptors))?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
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
