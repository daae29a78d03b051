//! Clients that send as fast as they can.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use anyhow::Result;
use bytes::Bytes;
use tokio::{task::JoinSet, time::Instant};

use super::{attacker, turn};
use crate::{
    gateway::Server,
    http::exchange,
    row::{Finding, Stop},
};

/// Where the attackers are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    OneAddress,
    /// Each connection from another one.
    EachItsOwn,
}

/// `connections` that send `request` again as soon as it is answered. More than `allowed` answers of 2xx a second, after `burst` of
/// them, are too many.
pub(crate) async fn hammer(
    server: Arc<Server>,
    stop: Stop,
    request: Bytes,
    connections: usize,
    from: From,
    allowed: Option<(f64, f64)>,
) -> Result<Finding> {
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for connection in 0..connections {
        let (server, stop, request) = (server.clone(), stop.clone(), request.clone());
        let address = match from {
            From::OneAddress => Ipv4Addr::new(127, 0, 9, 2),
            From::EachItsOwn if connections <= 64 => {
                Ipv4Addr::new(127, 0, 10, u8::try_from(connection + 2).unwrap_or(u8::MAX))
            }
            From::EachItsOwn => attacker(connection * 20),
        };
        clients.spawn(async move {
            turn(connection).await;
            let mut statuses = BTreeMap::new();
            let mut stream = None;
            while !stop.is_set() {
                let mut open = match stream.take() {
                    Some(open) => open,
                    None => match server.connect(address).await {
                        Ok(open) => open,
                        Err(_) => continue,
                    },
                };
                let status = match exchange(&mut open, &request).await {
                    Ok(reply) => {
                        stream = reply.is_open.then_some(open);
                        reply.status
                    }
                    Err(_) => 0,
                };
                *statuses.entry(status).or_insert(0_usize) += 1;
            }
            statuses
        });
    }
    let mut statuses = BTreeMap::new();
    for of_client in clients.join_all().await {
        for (status, count) in of_client {
            *statuses.entry(status).or_insert(0_usize) += count;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let count = |status: u16| statuses.get(&status).copied().unwrap_or_default() as f64;
    let said: Vec<_> =
        statuses.keys().map(|status| format!("{status}: {:.0}/s", count(*status) / seconds)).collect();
    // What comes before the limits are known, and what comes back while the last one is answered.
    let is_met = allowed.is_none_or(|(rate, burst)| {
        let passed: f64 = statuses.keys().filter(|status| **status != 429).map(|status| count(*status)).sum();
        passed <= rate * seconds + burst + 20.0
    });
    Ok(Finding { said: said.join(", "), is_met })
}
