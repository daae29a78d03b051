//! Faults of the network between two components: a TCP proxy stands between them and does to their connections what it is told.
//!
//! It works above TCP: it delays, holds back, cuts and damages streams, and never reorders or loses part of one. A handshake of
//! TCP with the proxy succeeds whatever the condition, as it does with a load balancer.

mod condition;
mod connection;
mod counters;
mod proxy;
#[cfg(test)]
mod tests;

pub use self::{
    condition::{Condition, Direction},
    counters::Counters,
    proxy::Proxy,
};
