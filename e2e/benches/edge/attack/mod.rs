//! The attacks, one file for each part of the gateway that they are on.

pub(crate) mod bodies;
pub(crate) mod handshakes;
pub(crate) mod parser;
pub(crate) mod quotas;
pub(crate) mod sockets;
pub(crate) mod stop;

use std::{net::Ipv4Addr, time::Duration};

use tokio::time::sleep;

/// Fewer sockets than an address may have.
const SOCKETS_PER_ADDRESS: usize = 200;

/// The address of an attacker's socket: so that no address has more than it may have.
fn attacker(socket: usize) -> Ipv4Addr {
    let host = socket / SOCKETS_PER_ADDRESS;
    Ipv4Addr::new(127, 0, 7, u8::try_from(2 + host).unwrap_or(u8::MAX))
}

/// Sockets are opened and closed at this pace: attackers do both on the processors that the gateway and the honest have too.
const PACE: Duration = Duration::from_millis(1);

/// Waits until it is this socket's turn to open.
async fn turn(socket: usize) {
    sleep(PACE * u32::try_from(socket).unwrap_or(u32::MAX)).await;
}
