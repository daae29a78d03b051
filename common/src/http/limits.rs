//! The limits of one port.

use std::time::Duration;

/// Limits of one port. All of them exist for every port; there is no value that turns one off.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time. When there are more, the one that has been silent for longest is closed; if none is silent, the
    /// new one is refused with 503.
    pub connections_max: usize,
    /// Connections of one address at a time; for IPv6 of one /64. Further ones are refused with 503.
    pub connections_per_address_max: usize,
    /// How long a connection may wait for the next request.
    pub idle_time: Duration,
    /// Time for a head, from its first byte; also for a TLS handshake.
    pub head_time: Duration,
    /// Time for a whole exchange: head, body and answer. An answer that is [`super::LongLived`] has no such limit.
    pub exchange_time: Duration,
    /// How long a client may take in nothing of what is written to it.
    pub stall_time: Duration,
}

impl Limits {
    /// See [`Limits::idle_time`]: above the 60 s of usual load balancers, so that they close first (pitfalls P39).
    pub const IDLE_TIME: Duration = Duration::from_secs(75);
    /// See [`Limits::head_time`].
    pub const HEAD_TIME: Duration = Duration::from_secs(5);
    /// See [`Limits::exchange_time`].
    pub const EXCHANGE_TIME: Duration = Duration::from_secs(30);
    /// See [`Limits::stall_time`].
    pub const STALL_TIME: Duration = Duration::from_secs(10);
    /// See [`Limits::connections_max`].
    pub const CONNECTIONS_MAX: usize = 2_048;
    /// See [`Limits::connections_per_address_max`].
    pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 256;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: Self::CONNECTIONS_MAX,
            connections_per_address_max: Self::CONNECTIONS_PER_ADDRESS_MAX,
            idle_time: Self::IDLE_TIME,
            head_time: Self::HEAD_TIME,
            exchange_time: Self::EXCHANGE_TIME,
            stall_time: Self::STALL_TIME,
        }
    }
}
