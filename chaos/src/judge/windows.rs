//! When the faults of a run allow a call to fail, and when they allow the saga to stand still. Outside of these windows
//! nothing may.

use holdfast_native::layout::{GATEWAY, PARTICIPANTS, service_of};

use crate::{evidence::Evidence, journal::Operation, scenario::Action, storm::FaultRecord};

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

    /// Those in which a call may fail. Kafka, certificates and poison are in no call's way.
    pub(super) fn of_calls(evidence: &Evidence, op: Operation) -> Self {
        let needed = match op {
            Operation::Account | Operation::Credit => "payment",
            Operation::Create | Operation::Read | Operation::Foreign | Operation::List => "order",
        };
        let in_the_way = |fault: &&FaultRecord| {
            is_process_fault(fault)
                && (service_of(&fault.target).is_some_and(|service| service == GATEWAY || service == needed)
                    || database_of(needed) == Some(fault.target.as_str()))
        };
        let faults = evidence.faults.iter().filter(in_the_way);
        Self(faults.flat_map(|fault| windows(evidence, fault, GRACE)).collect())
    }

    /// Those in which the gateway itself is the victim.
    pub(super) fn of_gateway(evidence: &Evidence) -> Self {
        let faults =
            evidence.faults.iter().filter(|fault| is_process_fault(fault) && fault.target == GATEWAY);
        Self(faults.map(|fault| whole(fault, REPLICA_GRACE)).collect())
    }

    /// Those in which consumers may stand still.
    pub(super) fn of_consumers(evidence: &Evidence) -> Self {
        let in_the_way = |fault: &&FaultRecord| is_process_fault(fault) && fault.target != GATEWAY;
        let faults = evidence.faults.iter().filter(in_the_way);
        Self(
            faults
                .flat_map(|fault| {
                    let grace = if fault.target == "kafka" { KAFKA_GRACE } else { GRACE };
                    // A group is one: while a member is stalled, its partitions wait for its session to end.
                    vec![whole(fault, grace)]
                })
                .collect(),
        )
    }
}

fn is_process_fault(fault: &FaultRecord) -> bool {
    match fault.action {
        Action::Kill | Action::Terminate | Action::Stall | Action::Hold | Action::Crash => true,
        Action::RotateCertificates | Action::RotateAuthority | Action::Poison => false,
    }
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

/// The same, but where a replica is left only its going and its coming back are excuses.
fn windows(evidence: &Evidence, fault: &FaultRecord, grace: u64) -> Vec<Window> {
    let service = service_of(&fault.target);
    let replicas = evidence.info.components.iter().filter(|name| service_of(name) == service).count();
    if service.is_none() || replicas < 2 {
        return vec![whole(fault, grace)];
    }
    let around = |time: u64| Window { begin: time, end: time.saturating_add(REPLICA_GRACE) };
    [Some(around(fault.begin)), fault.over.map(around)].into_iter().flatten().collect()
}
