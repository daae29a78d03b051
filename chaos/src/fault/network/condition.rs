//! What happens to the connections of a link.

use std::{num::NonZeroU64, time::Duration};

use serde::{Deserialize, Serialize};

use super::Counters;

/// A direction of a connection. Clients connect, servers are connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// What the client sends.
    ToServer,
    /// What the server sends.
    ToClient,
}

/// The condition of a link. In JSON `"clear"`, `{"latency": {"delay-ms": 50, "jitter-ms": 10}}`, `{"one-way": "to-server"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Condition {
    /// Everything passes.
    #[default]
    Clear,
    /// Bytes arrive later, in either direction.
    Latency {
        /// By at least this time.
        #[serde(rename = "delay-ms", with = "milliseconds")]
        delay: Duration,
        /// And by up to this time more, drawn anew for each read; order is kept.
        #[serde(rename = "jitter-ms", with = "milliseconds", default)]
        jitter: Duration,
    },
    /// Connections are reset (RST), and so is every new one after it was accepted.
    Reset,
    /// Nothing passes, and nobody is told: neither bytes nor the end of a connection. New connections are accepted and silent; the
    /// server does not see them. Once it is healed what was held back passes, so no stream has a gap.
    BlackHole,
    /// The same in this direction only.
    OneWay(Direction),
    /// The server's side of the connections that exist is reset, and the client is not told: what it sends disappears. That is a
    /// peer that restarted, or a middlebox that forgot its connections, so new ones work. Once it is healed the silent ones are
    /// reset, as a host does that gets a packet of a connection that it does not know.
    HalfOpen,
    /// Bytes trickle, in either direction.
    Throttle {
        /// Bytes per second of each connection in each direction.
        #[serde(rename = "bytes-per-second")]
        bytes_per_second: NonZeroU64,
    },
    /// A bit is flipped every few kilobytes, in either direction. TLS turns that into a broken connection. Nothing does where bytes
    /// are not protected, as on the links to Kafka and the databases of the native stack: there it falsifies data unseen.
    Corrupt,
}

impl Condition {
    pub(super) fn lets_pass(self, direction: Direction) -> bool {
        match self {
            Self::BlackHole => false,
            Self::OneWay(blocked) => blocked != direction,
            _ => true,
        }
    }

    pub(super) fn lets_all_pass(self) -> bool {
        self.lets_pass(Direction::ToServer) && self.lets_pass(Direction::ToClient)
    }

    /// For the next bytes: how much later they arrive.
    pub(super) fn delay(self) -> Duration {
        match self {
            Self::Latency { delay, jitter } => delay + jitter.mul_f64(fastrand::f64()),
            _ => Duration::ZERO,
        }
    }

    /// How the condition was seen to land, by what was counted while it was on ([`Counters::since`]), as `3 connections reset`; `None`
    /// if nothing shows it: no connection that existed, or no bytes that wanted to pass.
    #[must_use]
    pub fn evidence(self, seen: &Counters) -> Option<String> {
        let (count, what) = match self {
            Self::Clear => return None,
            Self::Latency { .. } | Self::Throttle { .. } => (seen.bytes_delayed, "bytes delayed"),
            Self::Reset => (seen.connections_reset, "connections reset"),
            Self::BlackHole | Self::OneWay(_) => (seen.bytes_held, "bytes held back"),
            Self::HalfOpen => (seen.connections_half_open, "connections left half-open"),
            Self::Corrupt => (seen.bytes_corrupted, "bytes corrupted"),
        };
        (count > 0).then(|| format!("{count} {what}"))
    }
}

/// A time as a whole number of milliseconds.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Conditions are written as documented and read back the same; what is no condition is refused.
    #[test]
    fn conditions_have_a_text_form() {
        let delay = Duration::from_millis(50);
        for (condition, text) in [
            (Condition::Clear, json!("clear")),
            (
                Condition::Latency { delay, jitter: Duration::from_millis(10) },
                json!({"latency": {"delay-ms": 50, "jitter-ms": 10}}),
            ),
            (Condition::BlackHole, json!("black-hole")),
            (Condition::OneWay(Direction::ToServer), json!({"one-way": "to-server"})),
            (Condition::HalfOpen, json!("half-open")),
            (
                Condition::Throttle { bytes_per_second: NonZeroU64::new(9).expect("not 0") },
                json!({"throttle": {"bytes-per-second": 9}}),
            ),
        ] {
            assert_eq!(serde_json::to_value(condition).expect("written"), text);
            assert_eq!(serde_json::from_value::<Condition>(text).expect("read"), condition);
        }
        let steady = Condition::Latency { delay, jitter: Duration::ZERO };
        let read: Condition = serde_json::from_value(json!({"latency": {"delay-ms": 50}})).expect("read");
        assert_eq!(read, steady);
        for wrong in [
            json!(""),
            json!("Clear"),
            json!({"throttle": {"bytes-per-second": 0}}),
            json!({"latency": {"delay-ms": 1, "speed": 1}}),
        ] {
            assert!(serde_json::from_value::<Condition>(wrong.clone()).is_err(), "{wrong}");
        }
    }

    /// A condition landed if what it does was counted, and only then.
    #[test]
    fn a_condition_landed_if_it_was_counted() {
        let seen = Counters { bytes_held: 7, bytes_to_server: 100, ..Counters::default() };
        assert_eq!(Condition::BlackHole.evidence(&seen).as_deref(), Some("7 bytes held back"));
        for other in [Condition::Clear, Condition::Reset, Condition::HalfOpen, Condition::Corrupt] {
            assert_eq!(other.evidence(&seen), None, "{other:?}");
        }
    }
}
