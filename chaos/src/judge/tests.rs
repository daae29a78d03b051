//! The judge is tested with the evidence of a clean run in which one thing is changed: each invariant finds its violation,
//! and the clean run has none.

use super::*;
use crate::{
    evidence::{
        AccountRow, DeliveryRow, LetterRow, LogFindings, OrderRow, PartitionEnds, PaymentRow, PositionRow,
        Record, RunInfo, State,
    },
    journal::{Call, Facts, Operation, Stage},
    scenario::{Plan, Scenario},
    storm::FaultRecord,
    watch::{Sample, ServiceSample},
};

const ORDERS: u32 = 60;
const USER: &str = "run-rich-1";
const SECOND: u64 = 1_000_000;

fn order_id(number: u32) -> String {
    format!("order-{number}")
}

fn call(op: Operation, begin: u64, http: u16, facts: Facts) -> Call {
    let stage = if http < 300 { Stage::Ok } else { Stage::Fail };
    Call {
        op,
        begin,
        end: Some(begin + 1_000),
        stage,
        facts: Facts { http: Some(http), user: USER.into(), ..facts },
    }
}

/// A run of 60 orders, each of one cent, delivered; a second apart.
fn clean() -> Evidence {
    let mut evidence = empty();
    let credit = Facts { cents: Some(1_000), ..Facts::default() };
    evidence.calls.push(call(Operation::Credit, 0, 201, credit));
    for number in 0..ORDERS {
        add_order(&mut evidence, number);
    }
    let orders: Vec<String> = (0..ORDERS).map(order_id).collect();
    let list = Facts { orders, complete_since: Some(100 * SECOND), ..Facts::default() };
    evidence.calls.push(call(Operation::List, 100 * SECOND, 200, list));
    evidence.state.accounts.push(AccountRow {
        user_id: USER.into(),
        balance_minor: 940,
        credited_minor: 1_000,
        charged_minor: 60,
        refunded_minor: 0,
    });
    tally_up(&mut evidence);
    evidence
}

fn add_order(evidence: &mut Evidence, number: u32) {
    let (order_id, key, at) = (order_id(number), format!("key-{number}"), u64::from(number) * SECOND);
    let created = Facts {
        key: Some(key.clone()),
        order_id: Some(order_id.clone()),
        address: Some("1 Quay Street".into()),
        cents: Some(1),
        version: Some(1),
        status: Some("PENDING".into()),
        ..Facts::default()
    };
    evidence.calls.push(call(Operation::Create, at, 201, created));
    let seen = Facts {
        order_id: Some(order_id.clone()),
        version: Some(3),
        status: Some("PAID".into()),
        ..Facts::default()
    };
    evidence.calls.push(call(Operation::Read, at + 100_000, 200, seen));
    let foreign = Facts { order_id: Some(order_id.clone()), ..Facts::default() };
    evidence.calls.push(call(Operation::Foreign, at + 200_000, 404, foreign));
    evidence.state.orders.push(OrderRow {
        order_id: order_id.clone(),
        user_id: USER.into(),
        key: Some(key),
        status: "PAID".into(),
        delivery_status: Some("DELIVERED".into()),
        delivery_address: "1 Quay Street".into(),
        total_minor: 1,
        version: 5,
    });
    evidence.state.payments.push(PaymentRow {
        order_id: order_id.clone(),
        user_id: USER.into(),
        status: "SUCCESS".into(),
        amount_minor: 1,
        charges: 1,
        charged_minor: 1,
        refunds: 0,
        refunded_minor: 0,
    });
    let steps = ["PENDING", "IN_TRANSIT", "OUT_FOR_DELIVERY", "DELIVERED"];
    evidence.state.deliveries.push(DeliveryRow {
        order_id: order_id.clone(),
        user_id: USER.into(),
        status: "DELIVERED".into(),
        steps: steps.map(str::to_owned).to_vec(),
    });
    let mut record = |topic: &str, status: Option<&str>| {
        let offset = evidence.records.iter().filter(|record| record.topic == topic).count();
        evidence.records.push(Record {
            topic: topic.into(),
            partition: 0,
            offset: i64::try_from(offset).expect("few"),
            event_id: Some(format!("{topic}-{offset}")),
            subject: Some(order_id.clone()),
            hash: format!("{topic}-{offset}"),
            status: status.map(str::to_owned),
        });
    };
    record("order.created", None);
    record("payment.completed", Some("SUCCESS"));
    for step in steps {
        record("delivery.status.updated", Some(step));
    }
}

/// Positions and ends that agree with the records, and a look each second.
fn tally_up(evidence: &mut Evidence) {
    for topic in holdfast_proto::topic::EVENT_TOPICS {
        let end = evidence.records.iter().filter(|record| record.topic == topic).count();
        let end = i64::try_from(end).expect("few");
        for partition in 0..4 {
            let end = if partition == 0 { end } else { 0 };
            evidence.state.partitions.push(PartitionEnds { topic: topic.into(), partition, first: 0, end });
        }
        for (_, group) in holdfast_proto::topic::READINGS.iter().filter(|(read, _)| *read == topic) {
            evidence.state.positions.push(PositionRow {
                service: (*group).to_owned(),
                topic: topic.into(),
                partition: 0,
                next_offset: end,
                applied: end,
                duplicates: 0,
                parked: 0,
                set_aside: 0,
            });
        }
    }
    for second in 0..100 {
        let service = ServiceSample { tally: i64::try_from(second).expect("few"), lag: Some(1), outbox: 0 };
        evidence.samples.push(Sample {
            time: second * SECOND,
            money: Some(Vec::new()),
            services: [("payment".to_owned(), service)].into(),
            ..Sample::default()
        });
    }
}

fn empty() -> Evidence {
    let scenario = Scenario::named("control").expect("built in");
    let components: Vec<String> =
        ["gateway", "order", "payment", "delivery", "orders-db", "payments-db", "kafka"]
            .map(str::to_owned)
            .to_vec();
    Evidence {
        info: RunInfo {
            run: "run".into(),
            began_at: String::new(),
            command: String::new(),
            commit: String::new(),
            machine: String::new(),
            plan: Plan::draw("control", scenario, 1, &components, &[]),
            components,
            users: vec![USER.into()],
            unavailable: Vec::new(),
            load_began: 0,
            storm: [0, 0],
            load_ended: 100 * SECOND,
            settled: Some(101 * SECOND),
            stuck: None,
            resolved: 0,
            discarded: 0,
            before_repair: Vec::new(),
            re_emitted: 0,
            open_before: BTreeSet::new(),
            counters: std::collections::BTreeMap::new(),
        },
        calls: Vec::new(),
        faults: Vec::new(),
        samples: Vec::new(),
        state: State::default(),
        records: Vec::new(),
        logs: LogFindings { lines: 1_000, components: 8, ..LogFindings::default() },
    }
}

/// The invariants that a run violates.
fn violated(evidence: &Evidence) -> Vec<String> {
    let judgement = judge(evidence);
    let failed = judgement.verdicts.iter().filter(|verdict| verdict.outcome == Outcome::Fail);
    failed.map(|verdict| verdict.id.clone()).collect()
}

fn kill(target: &str, begin: u64, over: Option<u64>) -> FaultRecord {
    FaultRecord {
        number: 1,
        action: Action::Kill,
        target: target.into(),
        begin,
        over,
        landed: Some("seen".into()),
        error: None,
        poison: Vec::new(),
        victim: None,
    }
}

/// A clean run passes, and I9, which had nothing to check, is unknown and not required.
#[test]
fn a_clean_run_passes() {
    let judgement = judge(&clean());
    assert_eq!(judgement.outcome, Outcome::Pass, "{judgement:#?}");
    let unknown = judgement.verdicts.iter().filter(|verdict| verdict.outcome == Outcome::Unknown);
    assert_eq!(unknown.map(|verdict| verdict.id.as_str()).collect::<Vec<_>>(), ["I9"]);
}

/// Nothing was checked: nothing is known. A plan whose faults did not land proves nothing either.
#[test]
fn what_was_not_checked_is_unknown() {
    let judgement = judge(&empty());
    assert_eq!(judgement.outcome, Outcome::Unknown);
    let mut evidence = clean();
    let scenario = Scenario::named("kill-kafka").expect("built in");
    evidence.info.plan = Plan::draw("kill-kafka", scenario, 1, &["kafka".to_owned()], &[]);
    let judgement = judge(&evidence);
    assert_eq!(judgement.outcome, Outcome::Unknown, "{judgement:#?}");
    assert_eq!(judgement.unproven.len(), 2, "{:?}", judgement.unproven);
}

/// A rare place that a scenario must reach, and did not: the run proves less than it was to.
#[test]
fn a_mark_that_was_missed_is_unknown() {
    let mut evidence = clean();
    let mark = "a breaker opened".to_owned();
    evidence.info.plan.scenario.marks = vec![mark.clone()];
    let judgement = judge(&evidence);
    assert_eq!(judgement.outcome, Outcome::Unknown, "{judgement:#?}");
    assert_eq!(judgement.unproven, ["never reached: a breaker opened"]);
    evidence.info.counters.insert(mark, 1.0);
    assert_eq!(judge(&evidence).outcome, Outcome::Pass);
}

/// Every violation is found, and only the invariants that it breaks are called violated.
#[test]
fn a_planted_violation_is_found() {
    type Plant = fn(&mut Evidence);
    let planted: [(&str, Plant, &[&str]); 26] = [
        ("an order is gone", |e| drop(e.state.orders.remove(7)), &["I1", "I4", "I5", "I6"]),
        ("an order has another total", |e| e.state.orders[7].total_minor = 2, &["I1", "I4", "I5"]),
        ("a list lost an order", |e| drop(e.calls.last_mut().expect("the list").facts.orders.pop()), &["I1"]),
        ("a key was answered with two orders", |e| e.calls[1].facts.order_id = Some(order_id(3)), &["I2"]),
        ("a key made two orders", |e| e.state.orders[3].key = Some("key-4".into()), &["I2"]),
        ("nobody sent the key", |e| e.state.orders[3].key = None, &["I2"]),
        (
            "an order has not ended",
            |e| e.state.orders[3].delivery_status = Some("IN_TRANSIT".into()),
            &["I3"],
        ),
        ("charged twice", |e| e.state.payments[3].charges = 2, &["I4"]),
        ("refunded for nothing", |e| e.state.payments[3].status = "REFUNDED".into(), &["I4"]),
        ("a refund without its money", |e| refund_without_money(e), &["I4", "I7"]),
        ("a balance is off at one moment", |e| e.samples[50].money = Some(vec!["off".into()]), &["I5"]),
        ("money is gone", |e| e.state.accounts[0].balance_minor = 939, &["I5"]),
        ("no delivery", |e| drop(e.state.deliveries.remove(3)), &["I6"]),
        ("a delivery went back", |e| e.state.deliveries[3].steps.swap(1, 2), &["I7"]),
        ("a record is in no tally", |e| e.state.positions[0].applied -= 1, &["I8"]),
        ("an id has two values", |e| e.records[6].event_id = Some("order.created-0".into()), &["I8"]),
        ("an event had its effects twice", publish_again, &["I8"]),
        ("a letter is open", |e| e.state.letters.push(letter()), &["I9"]),
        ("poison was passed over", |e| e.records[1].status = None, &["I9"]),
        ("a letter was overtaken", |e| overtake(e), &["I9"]),
        ("a read went back", |e| read_back(e), &["I10"]),
        ("somebody else's order was read", |e| e.calls[3].facts.http = Some(200), &["I11"]),
        ("an answer came late", |e| e.calls[1].end = Some(9 * SECOND), &["I12"]),
        ("a token is in a log", |e| e.logs.secrets.push("order, line 1: a token".into()), &["I13"]),
        ("calls fail for no reason", |e| refuse(e, 10), &["I14"]),
        ("a group stands still", |e| stand_still(e), &["I14"]),
    ];
    for (what, plant, expected) in planted {
        let mut evidence = clean();
        plant(&mut evidence);
        let found = violated(&evidence);
        let missing: Vec<_> = expected.iter().filter(|id| !found.iter().any(|found| found == *id)).collect();
        assert!(missing.is_empty(), "{what}: {missing:?} did not find it, {found:?} did");
    }
}

fn letter() -> LetterRow {
    LetterRow {
        service: "order".into(),
        id: "letter".into(),
        class: "decode".into(),
        state: "parked".into(),
        subject: None,
        topic: "payment.completed".into(),
        partition: 0,
        offset: 0,
    }
}

/// An order and its payment say that they were refunded, and the ledger does not.
fn refund_without_money(evidence: &mut Evidence) {
    let order = &mut evidence.state.orders[3];
    (order.status, order.delivery_status) = ("REFUNDED".into(), Some("FAILED".into()));
    evidence.state.payments[3].status = "REFUNDED".into();
}

/// An event is in its topic twice, and its second record was applied like the first.
fn publish_again(evidence: &mut Evidence) {
    let records = &mut evidence.records;
    let first = records.iter_mut().find(|record| record.topic == "payment.completed").expect("one");
    first.event_id = Some("01930000-0000-7000-8000-000000000001".into());
    let again = Record { offset: i64::from(ORDERS), ..first.clone() };
    records.push(again);
    for ends in evidence.state.partitions.iter_mut().filter(|ends| ends.topic == "payment.completed") {
        ends.end += i64::from(ends.partition == 0);
    }
    let positions = evidence.state.positions.iter_mut();
    for position in positions.filter(|position| position.topic == "payment.completed") {
        position.applied += 1;
    }
}

/// The first step of a delivery was given up, and the second was applied without it.
fn overtake(evidence: &mut Evidence) {
    let first =
        evidence.records.iter().find(|record| record.topic == "delivery.status.updated").expect("one");
    let (topic, subject, offset) = (first.topic.clone(), first.subject.clone(), first.offset);
    evidence.state.letters.push(LetterRow { state: "discarded".into(), topic, subject, offset, ..letter() });
}

/// What comes once the letter before it is closed overtakes nothing: its order waited behind that letter from the beginning.
#[test]
fn what_comes_after_the_repair_overtakes_nothing() {
    let mut evidence = clean();
    overtake(&mut evidence);
    let letter = evidence.state.letters.last().expect("one").clone();
    let ends = |end| vec![PartitionEnds { topic: letter.topic.clone(), partition: 0, first: 0, end }];
    for (end, expected) in [(letter.offset + 2, &["I9"][..]), (letter.offset + 1, &[])] {
        evidence.info.before_repair = ends(end);
        assert_eq!(violated(&evidence), expected, "the topic ended at {end}");
    }
}

fn read_back(evidence: &mut Evidence) {
    let seen = Facts {
        order_id: Some(order_id(1)),
        version: Some(2),
        status: Some("PAID".into()),
        ..Facts::default()
    };
    evidence.calls.push(call(Operation::Read, 90 * SECOND, 200, seen));
}

fn refuse(evidence: &mut Evidence, calls: usize) {
    let reads = evidence.calls.iter_mut().filter(|call| call.op == Operation::Read).take(calls);
    for read in reads {
        (read.stage, read.facts.http, read.facts.retry_after) = (Stage::Fail, Some(503), true);
    }
}

fn stand_still(evidence: &mut Evidence) {
    for sample in &mut evidence.samples[40..60] {
        sample.services.get_mut("payment").expect("sampled").tally = 40;
    }
}

/// What a fault excuses is no violation, and it excuses nothing else: not another service's calls, not what comes later, and a
/// replica that is left has seconds, not the whole time.
#[test]
fn a_fault_excuses_what_is_in_its_way() {
    let refused = |faults: &[FaultRecord], replicas: &[&str]| {
        let mut evidence = clean();
        refuse(&mut evidence, 10);
        evidence.faults = faults.to_vec();
        evidence.info.components.extend(replicas.iter().map(|&name| name.to_owned()));
        violated(&evidence)
    };
    assert!(refused(&[kill("order", 0, Some(2 * SECOND))], &[]).is_empty(), "reads of the first 10 s");
    assert!(refused(&[kill("orders-db", 0, Some(2 * SECOND))], &[]).is_empty());
    assert_eq!(refused(&[kill("payment", 0, Some(2 * SECOND))], &[]), ["I14"]);
    assert_eq!(
        refused(&[kill("kafka", 0, Some(2 * SECOND))], &[]),
        ["I14"],
        "orders are taken without Kafka"
    );
    assert!(refused(&[kill("order", 50 * SECOND, Some(51 * SECOND))], &[]).is_empty(), "see the next test");
    assert_eq!(
        refused(&[kill("order", 0, Some(60 * SECOND))], &["order-2"]),
        ["I14"],
        "the other one is there"
    );
    assert_eq!(refused(&[kill("order", 0, None)], &[]), ["I14"], "it never came back");

    let mut evidence = clean();
    stand_still(&mut evidence);
    evidence.faults = vec![kill("kafka", 39 * SECOND, Some(44 * SECOND))];
    assert!(violated(&evidence).is_empty(), "15 s after Kafka is back");
    evidence.faults = vec![kill("gateway", 39 * SECOND, Some(44 * SECOND))];
    assert_eq!(violated(&evidence), ["I14"], "a gateway is nothing to a consumer");
}

/// A disk that is full or fails excuses what a kill of the same component does; a certificate excuses the calls between its
/// identity and the gateway, and no consumer.
#[test]
fn disks_and_certificates_excuse_what_is_in_their_way() {
    let fault = |action, target: &str, begin, over| FaultRecord { action, ..kill(target, begin, Some(over)) };
    let refused = |fault: FaultRecord| {
        let mut evidence = clean();
        refuse(&mut evidence, 10);
        evidence.faults = vec![fault];
        evidence.info.components.push("order-2".to_owned());
        violated(&evidence)
    };
    for action in [Action::DiskFull, Action::FsyncError, Action::SlowDisk] {
        assert!(refused(fault(action, "orders-db", 0, 10 * SECOND)).is_empty(), "{action:?}");
        assert_eq!(refused(fault(action, "payments-db", 0, 10 * SECOND)), ["I14"], "{action:?}");
        assert_eq!(refused(fault(action, "kafka", 0, 10 * SECOND)), ["I14"], "{action:?}");
    }
    for action in [Action::ExpiredCertificate, Action::WrongCertificate] {
        assert!(
            refused(fault(action, "order", 0, 10 * SECOND)).is_empty(),
            "{action:?}: all replicas have it"
        );
        assert!(refused(fault(action, "gateway", 0, 10 * SECOND)).is_empty(), "{action:?}");
        assert_eq!(refused(fault(action, "payment", 0, 10 * SECOND)), ["I14"], "{action:?}");
    }
    let still = |fault: FaultRecord| {
        let mut evidence = clean();
        stand_still(&mut evidence);
        evidence.faults = vec![fault];
        violated(&evidence)
    };
    assert!(still(fault(Action::DiskFull, "payments-db", 39 * SECOND, 50 * SECOND)).is_empty());
    assert!(still(fault(Action::FsyncError, "kafka", 39 * SECOND, 44 * SECOND)).is_empty());
    assert_eq!(still(fault(Action::ExpiredCertificate, "payment", 39 * SECOND, 50 * SECOND)), ["I14"]);
}

/// Calls that fail before the first fault are the machine's: the run is unknown, not failed, and it says why.
#[test]
fn a_slow_machine_makes_a_run_unknown() {
    let mut evidence = clean();
    refuse(&mut evidence, 10);
    evidence.faults = vec![kill("order", 50 * SECOND, Some(51 * SECOND))];
    let judgement = judge(&evidence);
    assert_eq!(judgement.outcome, Outcome::Unknown, "{judgement:#?}");
    assert!(judgement.unproven.iter().any(|reason| reason.contains("too slow")), "{:?}", judgement.unproven);
}

/// A letter that was open before the run is not the run's affair.
#[test]
fn letters_of_others_are_left_alone() {
    let mut evidence = clean();
    evidence.state.letters.push(letter());
    assert_eq!(violated(&evidence), ["I9"]);
    evidence.info.open_before.insert(letter().id);
    assert!(violated(&evidence).is_empty());
}

/// A list whose last page did not come says nothing about the orders that are missing in it.
#[test]
fn a_list_that_was_cut_short_proves_nothing() {
    let mut evidence = clean();
    let cut_short = Facts { orders: Vec::new(), ..Facts::default() };
    evidence.calls.push(call(Operation::List, 120 * SECOND, 200, cut_short));
    assert!(violated(&evidence).is_empty());
}
