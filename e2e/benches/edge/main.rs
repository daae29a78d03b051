//! What the edge does under attack: each row of the security targets is measured in one run beside clients who behave, with what they
//! saw before and after it in the same run. It prints and judges, and fails only if it can't measure.
//!
//! ```console
//! $ cargo build --release --workspace --bins
//! $ cargo bench -p holdfast-e2e --bench edge             # all rows
//! $ cargo bench -p holdfast-e2e --bench edge -- silent   # those whose name has this in it
//! ```
//!
//! `EDGE_SECONDS` is the length of a phase (15). `--profile dev` measures debug builds, which is good for trying the benchmark only.
//! Attackers have addresses of the loopback other than those of the honest, and the gateway limits loopback addresses like others.
//!
//! - [`gateway`]: the gateway that is attacked; [`edge`]: the stack behind it;
//! - [`honest`]: those who behave, and what they see; [`http`]: the client of all of them;
//! - [`row`]: before, during and after one attack; [`attack`]: the attacks;
//! - [`overload`]: ten times the load that can be sustained; [`cost`]: CPU time for each request.
#![allow(clippy::print_stdout, reason = "the figures")]

mod attack;
mod cost;
mod edge;
mod gateway;
mod honest;
mod http;
mod overload;
mod row;

use std::future::Future;

use anyhow::Result;
use holdfast_chaos::rest::sample_order;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use crate::{
    attack::{
        bodies, handshakes, parser,
        quotas::{From, hammer},
        sockets, stop,
    },
    edge::Edge,
    gateway::{SHIPPED, WIDE},
    row::{Target, measure},
};

/// The rows that are asked for.
struct Wanted(Vec<String>);

impl Wanted {
    /// Measures a row if it is asked for. A row that can't be measured says so, and the others go on.
    async fn row<F: Future<Output = Result<()>>>(&self, name: &str, row: impl FnOnce(String) -> F) {
        if !self.0.is_empty() && !self.0.iter().any(|part| name.contains(part.as_str())) {
            return;
        }
        eprintln!("{name}; load average {}", load_average());
        if let Err(error) = Box::pin(row(name.to_owned())).await {
            println!("| {name} | not measured: {error:#} | | | | |");
        }
    }
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let [command, address, body_bytes] = arguments.as_slice()
        && command == "serve-bare"
    {
        return runtime.block_on(cost::serve_bare(address.parse()?, body_bytes.parse()?));
    }
    runtime.block_on(run(&Wanted(arguments)))
}

async fn run(wanted: &Wanted) -> Result<()> {
    let edge = Edge::start().await?;
    println!("load average at the start: {}", load_average());
    println!(
        "| attack | p99 of others in ms, before -> during -> after | MB of the gateway | besides | target | |"
    );
    println!("|---|---|---|---|---|---|");
    socket_rows(wanted, &edge).await;
    client_rows(wanted, &edge).await;
    wanted.row("good handshake on gRPC", |_| handshakes::measure(&edge)).await;
    wanted.row("refusals of the parser", |_| parser::measure(&edge)).await;
    wanted.row("SIGTERM with stuck clients", |_| stop::measure(&edge)).await;
    wanted.row("overload", |_| overload::measure(&edge)).await;
    wanted.row("cost", |_| cost::measure(&edge)).await;
    println!("load average at the end: {}", load_average());
    Ok(())
}

async fn socket_rows(wanted: &Wanted, edge: &Edge) {
    let twice = Target::Twice;
    for count in [200, 1_000] {
        let name = format!("{count} trickling heads");
        let row = |name: String| async move {
            measure(edge, SHIPPED, &name, twice, |server, stop| sockets::trickling_heads(server, stop, count))
                .await
        };
        wanted.row(&name, row).await;
    }
    for count in [1_000, 2_100, 2_600] {
        let name = format!("{count} silent sockets");
        let row = |name: String| async move {
            measure(edge, SHIPPED, &name, twice, |server, stop| sockets::silent(server, stop, count)).await
        };
        wanted.row(&name, row).await;
    }
    let row = |name: String| async move {
        let attack = |server, stop| sockets::idle_and_trickling(server, stop, 10_000, 1_000);
        measure(edge, WIDE, &name, twice, attack).await
    };
    wanted.row("10,000 idle sockets and 1,000 trickling heads", row).await;
    let row = |name: String| async move {
        measure(edge, SHIPPED, &name, twice, |server, stop| sockets::of_one_address(server, stop, 2_100))
            .await
    };
    wanted.row("2,100 sockets of one address", row).await;
    for count in [1_000, 2_048] {
        let name = format!("{count} sockets that never read");
        let row = |name: String| async move {
            measure(edge, SHIPPED, &name, twice, |server, stop| sockets::never_reading(server, stop, count))
                .await
        };
        wanted.row(&name, row).await;
    }
    let row =
        |name: String| async move { measure(edge, SHIPPED, &name, twice, sockets::opened_and_closed).await };
    wanted.row("connects, opened and closed at once", row).await;
}

async fn client_rows(wanted: &Wanted, edge: &Edge) {
    let (twice, fast) = (Target::Twice, Target::Milliseconds(50.0));
    let row = |name: String| async move {
        let tokens = (0..200).map(|number| edge.token(&format!("slow-{number}"))).collect::<Result<_>>()?;
        measure(edge, SHIPPED, &name, twice, |server, stop| bodies::trickling(server, stop, tokens, 408))
            .await
    };
    wanted.row("200 trickling bodies", row).await;
    let row = |name: String| async move {
        let tokens = vec![String::new(); 1_800];
        measure(edge, SHIPPED, &name, twice, |server, stop| bodies::trickling(server, stop, tokens, 401))
            .await
    };
    wanted.row("1,800 trickling bodies without a token", row).await;

    // One subject that comes from many addresses: only its own limit holds it.
    let quota = Some((50.0, 100.0));
    let row = |name: String| async move {
        let user = edge.user("greedy").await?;
        let request = http::get(&format!("/api/orders/{}", edge.order(&user).await?), &user.token);
        measure(edge, SHIPPED, &name, twice, |server, stop| {
            hammer(server, stop, request, 8, From::EachItsOwn, quota)
        })
        .await
    };
    wanted.row("one token, 8 connections, GET", row).await;
    let row = |name: String| async move {
        let user = edge.user("greedy").await?;
        let request = http::post("/api/orders", &user.token, &sample_order("1 Quay Street", 1).to_string());
        measure(edge, SHIPPED, &name, twice, |server, stop| {
            hammer(server, stop, request, 8, From::EachItsOwn, quota)
        })
        .await
    };
    wanted.row("one token, 8 connections, POST", row).await;

    // One address: its limit holds it before anything is looked at.
    let quota = Some((100.0, 200.0));
    let good = edge.token("nobody");
    // Within the signature: the last letter of a token holds two bits only.
    let forged = good.map(|token| {
        token
            .chars()
            .rev()
            .enumerate()
            .map(|(at, letter)| if at == 40 { if letter == 'A' { 'B' } else { 'A' } } else { letter })
            .collect::<Vec<_>>()
    });
    let forged: String = forged.map(|letters| letters.into_iter().rev().collect()).unwrap_or_default();
    for (what, request) in [
        ("401 without a token", http::get("/api/orders", "")),
        ("401 by a wrong signature", http::get("/api/orders", &forged)),
        ("healthz", http::get("/healthz", "")),
    ] {
        let name = format!("one address, 8 connections, {what}");
        let row = |name: String| async move {
            let attack = |server, stop| hammer(server, stop, request, 8, From::OneAddress, quota);
            measure(edge, SHIPPED, &name, twice, attack).await
        };
        wanted.row(&name, row).await;
    }
    let row = |name: String| async move {
        let user = edge.user("hoarder").await?;
        let items = vec![json!({"product_id": "tea-100g", "quantity": 1, "price": 1}); 100];
        for _ in 0..100 {
            user.create_order(&json!({"delivery_address": "1 Quay Street", "items": items}), None).await?;
        }
        let request = http::get("/api/orders?limit=100", &user.token);
        measure(edge, SHIPPED, &name, fast, |server, stop| {
            hammer(server, stop, request, 64, From::EachItsOwn, None)
        })
        .await
    };
    wanted.row("one token, 64 connections, longest list", row).await;
    for count in [256, 700] {
        let name = format!("one token, {count} connections, POST");
        let row = |name: String| async move {
            let user = edge.user("flood").await?;
            let request =
                http::post("/api/orders", &user.token, &sample_order("1 Quay Street", 1).to_string());
            let attack = |server, stop| hammer(server, stop, request, count, From::EachItsOwn, None);
            measure(edge, SHIPPED, &name, fast, attack).await
        };
        wanted.row(&name, row).await;
    }
}
