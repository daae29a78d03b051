//! Generates the Rust types from the `.proto` files. protox parses them, so no `protoc` is needed.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

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
    ];
    let descriptors = protox::compile(files, ["."])?;
    // The compatibility check (tests/compatibility.rs) compares this with the committed lock file.
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
