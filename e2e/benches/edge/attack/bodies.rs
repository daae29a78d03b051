//! Bodies that arrive a byte at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{attacker, turn};
use crate::{
    gateway::Server,
    honest::summary,
    row::{Finding, Stop},
};

/// One body for each of these tokens, `""` for none; a new one when it is refused.
pub(crate) async fn trickling(
    server: Arc<Server>,
    stop: Stop,
    tokens: Vec<String>,
    expected: u16,
) -> Result<Finding> {
    let (all, right) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut bodies = JoinSet::new();
    for (socket, token) in tokens.into_iter().enumerate() {
        let (server, stop, all, right) = (server.clone(), stop.clone(), all.clone(), right.clone());
        bodies.spawn(async move {
            let authorization = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
            let head = format!(
                "POST /api/orders HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{authorization}Content-Length: 60000\r\n\r\n{{"
            );
            turn(socket).await;
            let mut times = Vec::new();
            while !stop.is_set() {
                let Ok(mut slow) = server.connect(attacker(socket)).await else { continue };
                let begin = Instant::now();
                let _ = slow.write_all(head.as_bytes()).await;
                let mut answer = [0; 1_024];
                let length = loop {
                    match timeout(Duration::from_millis(200), slow.read(&mut answer)).await {
                        Ok(read) => break read.unwrap_or(0),
                        Err(_) => drop(slow.write_all(b" ").await),
                    }
                };
                times.push(begin.elapsed());
                all.fetch_add(1, Ordering::Relaxed);
                // So many of one address may be over its quota too.
                let is_expected = [expected, 429]
                    .iter()
                    .any(|status| answer[..length].starts_with(format!("HTTP/1.1 {status} ").as_bytes()));
                right.fetch_add(usize::from(is_expected), Ordering::Relaxed);
            }
            times
        });
    }
    let mut times: Vec<_> = bodies.join_all().await.into_iter().flatten().collect();
    let seen = summary(&mut times, 0);
    let (all, right) = (all.load(Ordering::Relaxed), right.load(Ordering::Relaxed));
    let said = format!(
        "{right} of {all} were {expected} or 429, after {:.1} s (p50), {:.1} s at most",
        seen.p50_ms / 1e3,
        seen.max_ms / 1e3
    );
    Ok(Finding { said, is_met: right * 100 >= all * 99 && seen.p99_ms <= 3_500.0 })
}
