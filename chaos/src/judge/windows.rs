//! When the faults of a run allow a call to fail, and when they allow the saga to stand still. Outside of these windows
//! nothing may.

use holdfast_native::layout::{GATEWAY, PARTICIPANTS, service_of};

use crate::{evidence::Evidence, fault::links::matches, journal::Operation, storm::FaultRecord};

const SECOND: u64 = 1_000_000;
/// After a replica is gone, or is there again: breakers and balancers have noticed.
const REPLICA_GRACE: u64 = 5 * SECOND;
/// After a component serves again: connections are there again.
const GRACE: u64 = 10 * SECOND;
/// After Kafka serves again: groups have their members again.
const KAFKA_GRACE: u64 = 15 * SECOND;

/// A span of time in microseconds since the run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// The times within which something is allowed, and nothing outside.
#[derive(Debug, Clone, Default)]
pub(super) struct Windows(Vec<Window>);

impl Windows {
    /// Whether a span of time touches any of them.
    pub(super) fn touch(&self, begin: u64, end: u64) -> bool {
        self.0.iter().any(|window| begin <= window.end && end >= window.begin)
    }

    /// Those in which a call may fail. Kafka, certificates that are
    /// renewed, and poison are in no call's way.
    pub(super) fn of_calls(evidence: &Evidence, op: Operation) -> Self {
        let needed = match op {
            Operation::Account | Operation::Credit => "payment",
            Operation::Create | Operation::Read | Operation::Foreign | Operation::List => "order",
        };
        let those_of = |service| {
            let components = evidence.info.components.iter().map(String::as_str);
            components.filter(move |component| service_of(component) == Some(service))
        };
        let paths: Vec<(&str, &str)> = those_of(GATEWAY)
            .flat_map(|gateway| those_of(needed).map(move |replica| (gateway, replica)))
            .collect();
        let windows = evidence.faults.iter().flat_map(|fault| {
            let cut = paths.iter().filter(|path| is_cut(fault, **path, needed)).count();
            match cut {
                0 => Vec::new(),
                all if all == paths.len() => vec![whole(fault, GRACE)],
                // A path is left: only the going and the coming back of the others are excuses.
                _ => around_ends(fault),
            }
        });
        Self(windows.collect())
    }

    /// Those in which the gateway itself is the victim.
    pub(super) fn of_gateway(evidence: &Evidence) -> Self {
        let faults = evidence
            .faults
            .iter()
            .filter(|fault| fault.action.on_component() && service_of(&fault.target) == Some(GATEWAY));
        Self(faults.map(|fault| whole(fault, REPLICA_GRACE)).collect())
    }

    /// Those in which consumers may stand still. A group is one: while a member is stalled, its partitions wait for its session
    /// to end, so a replica that is left is no reason to be quicker.
    pub(super) fn of_consumers(evidence: &Evidence) -> Self {
        let windows = evidence.faults.iter().filter_map(|fault| {
            let in_the_way = if fault.action.on_link().is_some() {
                !fault.target.starts_with(GATEWAY)
            } else {
                // Certificates are in no consumer's way: databases and broker ask for none.
                fault.action.on_component() && service_of(&fault.target) != Some(GATEWAY)
            };
            let grace = if fault.target.ends_with("kafka") { KAFKA_GRACE } else { GRACE };
            in_the_way.then(|| whole(fault, grace))
        });
        Self(windows.collect())
    }
}

/// Whether a fault keeps a call from being answered by a replica of `service` through a gateway.
fn is_cut(fault: &FaultRecord, (gateway, replica): (&str, &str), service: &str) -> bool {
    let Some(database) = database_of(service) else { return false };
    if fault.action.on_link().is_some() {
        let links = [format!("{gateway}->{replica}"), format!("{replica}->{database}")];
        return links.iter().any(|link| matches(&fault.target, link));
    }
    if fault.action.on_identity().is_some() {
        // All replicas share the identity of their service.
        return [GATEWAY, service].contains(&fault.target.as_str());
    }
    fault.action.on_component() && [gateway, replica, database].contains(&fault.target.as_str())
}

fn database_of(service: &str) -> Option<&'static str> {
    PARTICIPANTS.iter().find(|participant| participant.name == service).map(|participant| participant.server)
}

/// From the beginning of a fault to the end of the time that recovery has. A fault that never was over allows everything
/// afterwards; that it was not is a violation of its own.
fn whole(fault: &FaultRecord, grace: u64) -> Window {
    let end = fault.over.map_or(u64::MAX, |over| over.saturating_add(grace));
    Window { begin: fault.begin, end }
}

/// When it begins, and when it is over.
fn around_ends(fault: &FaultRecord) -> Vec<Window> {
    let around = |time: u64| Window { begin: time, end: time.saturating_add(REPLICA_GRACE) };
    [Some(around(fault.begin)), fault.over.map(around)].into_iter().flatten().collect()
}
