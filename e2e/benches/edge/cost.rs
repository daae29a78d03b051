//! What a request costs the gateway in CPU time, beside a handler of the same framework that does nothing: same runtime, same load,
//! in turn within one run.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use axum::{Router, http::header, routing::get};
use bytes::Bytes;
use holdfast_chaos::rest::sample_order;
use tokio::{net::TcpListener, task::JoinSet, time::Instant};

use crate::{
    edge::Edge,
    gateway::{GENEROUS, Server},
    http::{self, exchange},
    row::phase,
};

/// As many as one user may have requests in progress.
const CONNECTIONS: usize = 16;
const ROUNDS: usize = 4;

/// The bare handler: the answer has as many bytes as an order.
pub(crate) async fn serve_bare(address: SocketAddr, body_bytes: usize) -> Result<()> {
    let body = Bytes::from(vec![b'x'; body_bytes]);
    let answer = move || async move { ([(header::CONTENT_TYPE, "application/json")], body) };
    // A body is read, as the gateway does.
    let post = answer.clone();
    let post = move |_: Bytes| post();
    let router =
        Router::new().route("/api/orders/{id}", get(answer)).route("/api/orders", axum::routing::post(post));
    axum::serve(TcpListener::bind(address).await?, router).await?;
    Ok(())
}

/// Requests, and the CPU time of the server that they took.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    requests: usize,
    wrong: usize,
    cpu: Duration,
    wall: Duration,
}

impl Cost {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.wrong += other.wrong;
        self.cpu += other.cpu;
        self.wall += other.wall;
    }

    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    fn per_cpu_second(&self) -> f64 {
        self.requests as f64 / self.cpu.as_secs_f64()
    }

    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    fn per_second(&self) -> f64 {
        self.requests as f64 / self.wall.as_secs_f64()
    }

    fn microseconds(&self) -> f64 {
        1e6 / self.per_cpu_second()
    }
}

pub(crate) async fn measure(edge: &Edge) -> Result<()> {
    let user = edge.user("frugal").await?;
    let order = edge.order(&user).await?;
    let body_bytes = serde_json::to_vec(&user.order(&order).await?)?.len();
    let gateway = Arc::new(Server::gateway(&edge.world.stack.layout, GENEROUS).await?);
    let bare = Arc::new(Server::bare(body_bytes).await?);
    let read = http::get(&format!("/api/orders/{order}"), &user.token);
    let write = http::post("/api/orders", &user.token, &sample_order("1 Quay Street", 1).to_string());
    let health = http::get("/healthz", "");
    let rows = [
        ("bare handler, GET", &bare, &read, CONNECTIONS),
        ("gateway, GET of a finished order", &gateway, &read, CONNECTIONS),
        ("gateway, /healthz", &gateway, &health, CONNECTIONS),
        ("bare handler, POST", &bare, &write, CONNECTIONS),
        ("gateway, POST", &gateway, &write, CONNECTIONS),
    ];
    let mut costs = [Cost::default(); 5];
    for (_, server, request, connections) in rows {
        load(server, request, connections, Duration::from_secs(1)).await?;
    }
    for _ in 0..ROUNDS {
        for (cost, (_, server, request, connections)) in costs.iter_mut().zip(rows) {
            cost.add(load(server, request, connections, phase() / 3).await?);
        }
    }
    for (index, ((name, ..), cost)) in rows.iter().zip(costs).enumerate() {
        let other = costs[if index < 3 { 0 } else { 3 }];
        println!(
            "| {name} | {:.0} requests per CPU-second, {:.1} us each: {:.2}x of the bare handler; {:.0}/s, {} answered otherwise | | | {} | |",
            cost.per_cpu_second(),
            cost.microseconds(),
            cost.microseconds() / other.microseconds(),
            cost.per_second(),
            cost.wrong,
            if index == 1 { "2x" } else { "" },
        );
    }
    Ok(())
}

/// Sends `request` on kept connections, each as soon as the last was answered.
async fn load(server: &Arc<Server>, request: &Bytes, connections: usize, time: Duration) -> Result<Cost> {
    let (begin, before) = (Instant::now(), server.usage()?.cpu);
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let (server, request) = (server.clone(), request.clone());
        clients.spawn(async move {
            let mut stream = server.connect([127, 0, 1, 1].into()).await?;
            let (mut requests, mut wrong) = (0, 0);
            while begin.elapsed() < time {
                let reply = exchange(&mut stream, &request).await?;
                requests += 1;
                wrong += usize::from(reply.status >= 300);
            }
            Ok::<_, std::io::Error>((requests, wrong))
        });
    }
    let mut cost = Cost::default();
    for client in clients.join_all().await {
        let (requests, wrong) = client?;
        cost.add(Cost { requests, wrong, ..Cost::default() });
    }
    Ok(Cost { cpu: server.usage()?.cpu.saturating_sub(before), wall: begin.elapsed(), ..cost })
}
