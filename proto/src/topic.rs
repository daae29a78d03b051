//! The topics of the contract: who writes which event, and who reads it. One row describes a topic; everything else
//! (which topics are created, consumer groups, dead-letter topics, who may do what, decoding by tools) is derived from the
//! rows. The package of a message is named after the service that writes it.

use std::time::Duration;

use crate::{CONSOLE, delivery, order, payment};

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

        /// Topic and the service that writes it.
        pub const WRITINGS: &[(&str, &str)] = &[$(($constant, stringify!($package))),+];

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

/// Of which topic's records a dead-letter topic has copies, and which group could not handle them; `None` if this is no such topic.
#[must_use]
pub fn copied_from(topic: &str) -> Option<(&'static str, &'static str)> {
    READINGS.iter().find(|(original, group)| dead_letters_of(original, group) == topic).copied()
}

/// What is guarded at the brokers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// A topic, by its name.
    Topic(String),
    /// A consumer group, by its name.
    Group(String),
}

/// What may be done; each includes to see that the resource is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// To read records, or in the name of the group.
    Read,
    /// To write records.
    Write,
    /// To see how a topic is configured.
    DescribeConfigs,
}

/// That a service, or the console, may do something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// The name of its identity.
    pub service: &'static str,
    /// What it may do.
    pub operation: Operation,
    /// To which resource.
    pub resource: Resource,
}

/// What services may do at the brokers, in order; everything else is forbidden. Each writes its own events and the copies of its dead
/// letters, and reads what its group reads. The console reads all of these topics, in no group. None may create, delete or change a topic.
#[must_use]
pub fn grants() -> Vec<Grant> {
    let grant = |service, operation, resource| Grant { service, operation, resource };
    let mut grants = Vec::new();
    for (topic, writer) in WRITINGS {
        grants.push(grant(*writer, Operation::Write, Resource::Topic((*topic).to_owned())));
    }
    for (topic, reader) in READINGS {
        grants.push(grant(*reader, Operation::Read, Resource::Topic((*topic).to_owned())));
        grants.push(grant(*reader, Operation::Read, Resource::Group((*reader).to_owned())));
        grants.push(grant(*reader, Operation::Write, Resource::Topic(dead_letters_of(topic, reader))));
    }
    let letters = READINGS.iter().map(|(topic, reader)| dead_letters_of(topic, reader));
    for topic in EVENT_TOPICS.iter().map(|topic| (*topic).to_owned()).chain(letters) {
        grants.push(grant(CONSOLE, Operation::Read, Resource::Topic(topic.clone())));
        grants.push(grant(CONSOLE, Operation::DescribeConfigs, Resource::Topic(topic)));
    }
    grants.sort();
    grants.dedup();
    grants
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each service may do, written out: whoever changes a row sees here whom it lets in.
    #[test]
    fn services_may_do_this_and_nothing_else() {
        let lines = grants().into_iter().map(|Grant { service, operation, resource }| match resource {
            Resource::Topic(name) => format!("{service} {operation:?} {name}").to_lowercase(),
            Resource::Group(name) => format!("{service} {operation:?} group {name}").to_lowercase(),
        });
        let expected = "
            console read delivery.status.updated
            console read delivery.status.updated.order.dlq
            console read delivery.status.updated.payment.dlq
            console read order.created
            console read order.created.payment.dlq
            console read payment.completed
            console read payment.completed.delivery.dlq
            console read payment.completed.order.dlq
            console read payment.refunded
            console read payment.refunded.order.dlq
            console describeconfigs delivery.status.updated
            console describeconfigs delivery.status.updated.order.dlq
            console describeconfigs delivery.status.updated.payment.dlq
            console describeconfigs order.created
            console describeconfigs order.created.payment.dlq
            console describeconfigs payment.completed
            console describeconfigs payment.completed.delivery.dlq
            console describeconfigs payment.completed.order.dlq
            console describeconfigs payment.refunded
            console describeconfigs payment.refunded.order.dlq
            delivery read payment.completed
            delivery read group delivery
            delivery write delivery.status.updated
            delivery write payment.completed.delivery.dlq
            order read delivery.status.updated
            order read payment.completed
            order read payment.refunded
            order read group order
            order write delivery.status.updated.order.dlq
            order write order.created
            order write payment.completed.order.dlq
            order write payment.refunded.order.dlq
            payment read delivery.status.updated
            payment read order.created
            payment read group payment
            payment write delivery.status.updated.payment.dlq
            payment write order.created.payment.dlq
            payment write payment.completed
            payment write payment.refunded";
        let expected: Vec<&str> = expected.trim().lines().map(str::trim).collect();
        assert_eq!(lines.collect::<Vec<_>>(), expected);
    }

    /// A dead-letter topic says whose records it has, and other topics are none.
    #[test]
    fn a_dead_letter_topic_has_its_original() {
        assert_eq!(copied_from("payment.completed.order.dlq"), Some((PAYMENT_COMPLETED, "order")));
        for other in ["payment.completed", "order.created.order.dlq", "x.order.dlq", ""] {
            assert_eq!(copied_from(other), None);
        }
    }

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
