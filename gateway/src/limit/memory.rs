//! What the limits remember of many clients, in bytes:
//!
//! ```console
//! $ cargo test --release -p holdfast-gateway --lib million_subjects -- --ignored --nocapture
//! ```

use std::net::Ipv4Addr;

use axum::{body::Body, http::Request};

use super::*;

const CLIENTS: u32 = 1_000_000;

/// Resident memory of this process: alone in it, the test sees what it has added.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("it runs");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4_096
}

/// A million subjects that read and write, each from an address of its own, take at most 64 MiB.
#[tokio::test]
#[ignore = "memory of the whole process: run it alone"]
async fn a_million_subjects_take_little_memory() {
    let config = LimitsConfig { exempt: Vec::new(), ..LimitsConfig::default() };
    let limits = Limits::new(&config, None);
    let before = resident_bytes();
    let mut most_bytes = 0;
    for client in 0..CLIENTS {
        let user_id = UserId::parse(&format!("user-{client}")).expect("a user");
        let address = Ipv4Addr::from(0x0b00_0000 + client).into();
        for method in [Method::GET, Method::POST] {
            let (parts, _) =
                Request::builder().method(method).body(Body::empty()).expect("a request").into_parts();
            limits.enter_address(address).await.expect("its first ones");
            limits.enter_subject(&user_id, &parts).await.expect("its first one");
        }
        if client % 1_000 == 0 {
            most_bytes = most_bytes.max(resident_bytes().saturating_sub(before));
        }
    }
    println!("{CLIENTS} subjects and as many addresses: +{} KiB", most_bytes >> 10);
    assert!(most_bytes <= 64 << 20, "{most_bytes} bytes");
}
