//! Links: a stack that is started with `holdfast up --links` has each client reach each server by a port of their link instead of
//! the server's own, so that something can stand between the two.
//!
//! Nothing listens on these ports until whoever starts the stack runs a proxy for each ([`crate::state::StackReport::links`]); until
//! then nothing becomes ready. Tools use the servers' own ports.

use serde::{Deserialize, Serialize};

use crate::layout::{Gateway, KAFKA, Layout, PARTICIPANTS, REPLICA_PORT_STEP, Replica, Replicas};

/// The ports of links, in blocks with a port for each possible replica.
const DATABASE_LINK_PORT: u16 = 10_100;
const KAFKA_LINK_PORT: u16 = DATABASE_LINK_PORT + BLOCK;
/// Where the broker listens for one client each: it tells a client where it is, and that must be the client's link.
const KAFKA_LISTENER_PORT: u16 = KAFKA_LINK_PORT + BLOCK;
/// A block for each gateway.
const GATEWAY_LINK_PORT: u16 = KAFKA_LISTENER_PORT + BLOCK;
#[expect(clippy::cast_possible_truncation, reason = "there are three")]
const BLOCK: u16 = PARTICIPANTS.len() as u16 * REPLICA_PORT_STEP;

/// The way from one client to one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The component that connects.
    pub from: String,
    /// The component that it connects to.
    pub to: String,
    /// The port where the client expects the server: a proxy must listen there.
    pub listen: u16,
    /// The port where the server is.
    pub target: u16,
}

impl Link {
    /// As `order->kafka`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}->{}", self.from, self.to)
    }

    /// The name of the broker's listener for this client.
    pub(crate) fn kafka_listener(&self) -> String {
        self.from.to_uppercase()
    }
}

impl Layout {
    /// The links of a stack with these replicas.
    #[must_use]
    pub fn links(&self, replicas: Replicas) -> Vec<Link> {
        let to_services = replicas
            .gateways()
            .flat_map(|gateway| replicas.all().map(move |replica| self.link_of(gateway, replica)));
        to_services.chain(replicas.all().flat_map(|replica| self.links_of(replica))).collect()
    }

    fn link_of(&self, gateway: Gateway, replica: Replica) -> Link {
        Link {
            from: gateway.name(),
            to: replica.name(),
            listen: self.port(GATEWAY_LINK_PORT + BLOCK * gateway.number + place(replica)),
            target: self.grpc_port(replica),
        }
    }

    fn links_of(&self, replica: Replica) -> [Link; 2] {
        let (name, participant) = (replica.name(), replica.participant);
        let port = |block: u16| self.port(block + place(replica));
        let link = |from: &str, to: &str, block: u16, target: u16| Link {
            from: from.to_owned(),
            to: to.to_owned(),
            listen: port(block),
            target,
        };
        [
            link(&name, participant.server, DATABASE_LINK_PORT, self.database_port(participant)),
            link(&name, KAFKA, KAFKA_LINK_PORT, port(KAFKA_LISTENER_PORT)),
        ]
    }
}

/// Of a replica in a block of ports.
fn place(replica: Replica) -> u16 {
    let first = PARTICIPANTS.iter().zip((0..).step_by(REPLICA_PORT_STEP.into()));
    let mut first = first.filter(|(participant, _)| std::ptr::eq(*participant, replica.participant));
    first.next().map_or(0, |(_, place)| place) + replica.number
}

/// The port by which `from` reaches `to`: that of their link, or `own` where they have none.
pub(crate) fn port_between(links: &[Link], from: &str, to: &str, own: u16) -> u16 {
    links.iter().find(|link| link.from == from && link.to == to).map_or(own, |link| link.listen)
}

/// The ports of links, and what will listen on each.
pub(crate) fn ports(links: &[Link]) -> Vec<(String, u16)> {
    let proxies = links.iter().map(|link| (format!("the link {}", link.name()), link.listen));
    let listeners = links.iter().filter(|link| link.to == KAFKA);
    let listeners = listeners.map(|link| (format!("kafka (for {})", link.from), link.target));
    proxies.chain(listeners).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Each client has a link to each of its servers; only Kafka's end at ports of their own.
    #[test]
    fn each_client_has_a_link_to_each_of_its_servers() {
        let mut replicas = Replicas::default();
        replicas.set("order=2").expect("two orders");
        replicas.set("gateway=2").expect("two gateways");
        let links = Layout::new(PathBuf::from("/"), 1000).links(replicas);
        let names: Vec<String> = links.iter().map(Link::name).collect();
        let expected = [
            ["gateway->order", "gateway->order-2", "gateway->payment", "gateway->delivery"],
            ["gateway-2->order", "gateway-2->order-2", "gateway-2->payment", "gateway-2->delivery"],
            ["order->orders-db", "order->kafka", "order-2->orders-db", "order-2->kafka"],
            ["payment->payments-db", "payment->kafka", "delivery->deliveries-db", "delivery->kafka"],
        ];
        assert_eq!(names, expected.concat());
        let ports = |at: usize| (links[at].listen, links[at].target);
        assert_eq!((ports(0), ports(1), ports(4)), ((11_190, 51_051), (11_191, 51_061), (11_220, 51_051)));
        assert_eq!((ports(8), ports(9)), ((11_100, 6_432), (11_130, 11_160)));
        assert_eq!(links[11].kafka_listener(), "ORDER-2");
        assert_eq!(port_between(&links, "order-2", "orders-db", 1), 11_101);
        assert_eq!(port_between(&links, "order", "payments-db", 1), 1);
        assert_eq!(port_between(&[], "order", "kafka", 1), 1);
    }
}
