//! The topics of the contract: who writes which event, and who reads it. One row describes a topic; everything else
//! (which topics are created, consumer groups, dead-letter topics, decoding by tools) is derived from the rows.

use std::time::Duration;

use crate::{delivery, order, payment};

/// A business event: its protobuf message knows its topic.
pub trait Event: prost::Message + Default {
    /// The topic; the CloudEvents type is `holdfast.<topic>.v<version>`.
    const TOPIC: &'static str;
    /// Grows only with a change that old readers can't read.
    const VERSION: u32;
}

macro_rules! topics {
    ($(
        $(#[$doc:meta])*
        $constant:ident = $name:literal, $package:ident::$message:ident, version $version:literal, read by $($reader:ident),+;
    )+) => {
        $(
            $(#[$doc])*
            pub const $constant: &str = $name;

            impl Event for $package::v1::$message {
                const TOPIC: &'static str = $constant;
                const VERSION: u32 = $version;
            }
        )+

        /// The topics that carry events.
        pub const EVENT_TOPICS: [&str; [$($name),+].len()] = [$($constant),+];

        /// Topic and consumer group of each reading; a group is named after its service.
        pub const READINGS: &[(&str, &str)] = &[$($(($constant, stringify!($reader)),)+)+];

        /// Name, version and writer of the event that a topic carries.
        #[must_use]
        pub fn event_of(topic: &str) -> Option<(&'static str, u32, &'static str)> {
            match topic {
                $($constant => Some(($constant, $version, stringify!($package))),)+
                _ => None,
            }
        }

        /// The full name of the message that a topic carries, for tools that decode events by [`crate::DESCRIPTORS`].
        #[must_use]
        pub fn message_name(topic: &str) -> Option<&'static str> {
            match topic {
                $($constant => {
                    Some(concat!("holdfast.", stringify!($package), ".v1.", stringify!($message)))
                })+
                _ => None,
            }
        }
    };
}

topics! {
    /// Written by order.
    ORDER_CREATED = "order.created", order::OrderCreated, version 1, read by payment;
    /// Written by payment.
    PAYMENT_COMPLETED = "payment.completed", payment::PaymentCompleted, version 1, read by order, delivery;
    /// Written by payment.
    PAYMENT_REFUNDED = "payment.refunded", payment::PaymentRefunded, version 1, read by order;
    /// Written by delivery.
    DELIVERY_STATUS_UPDATED =
        "delivery.status.updated", delivery::DeliveryStatusUpdated, version 1, read by order, payment;
}

/// How long a topic keeps its events. A consumer that is away for longer misses some.
pub const EVENT_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// Largest record of a dead-letter topic in bytes, and so the largest that our clients send or fetch: a copy is a
/// record at the broker's default limit (1 MiB) plus headers.
pub const RECORD_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The topics that `group` reads.
#[must_use]
pub fn read_by(group: &str) -> Vec<&'static str> {
    READINGS.iter().filter(|(_, reader)| *reader == group).map(|(topic, _)| *topic).collect()
}

/// The topic for copies of the records of `topic` that `group` could not handle.
#[must_use]
pub fn dead_letters_of(topic: &str, group: &str) -> String {
    format!("{topic}.{group}.dlq")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every message that a row names exists in the schema.
    #[test]
    fn every_topic_has_its_message() {
        let descriptors =
            <prost_types::FileDescriptorSet as prost::Message>::decode(crate::DESCRIPTORS).expect("valid");
        for topic in EVENT_TOPICS {
            let name = message_name(topic).expect("it has one");
            let found = descriptors.file.iter().any(|file| {
                let package = file.package();
                file.message_type.iter().any(|message| format!("{package}.{}", message.name()) == name)
            });
            assert!(found, "{name}");
            assert!(READINGS.iter().any(|(read, _)| *read == topic), "somebody reads {topic}");
        }
    }
}
