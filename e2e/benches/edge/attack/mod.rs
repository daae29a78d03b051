//! The attacks, one file for each part of the gateway that they are on.

pub(crate) mod bodies;
pub(crate) mod handshakes;
pub(crate) mod parser;
pub(crate) mod quotas;
pub(crate) mod sockets;
pub(crate) mod stop;

use std::net::Ipv4Addr;

/// Fewer sockets than an address may have.
const SOCKETS_PER_ADDRESS: usize = 200;

/// The address of an attacker's socket: so that no address has more than it may have.
fn attacker(socket: usize) -> Ipv4Addr {
    let host = socket / SOCKETS_PER_ADDRESS;
    Ipv4Addr::new(127, 0, 7, u8::try_from(2 + host).unwrap_or(u8::MAX))
}
