//! Lists of operations worth keeping: each is a way in which a system like this loses or repeats something. A list that
//! `whatever_happens_every_order_ends_well` finds belongs here, under a name that says what happens.

use holdfast_simulation::{
    bug::Bug,
    operation::{End::*, Operation, Operation::*, Poison::*, Service, Service::*, User::*},
    world::run,
};

fn holds(operations: &[Operation]) {
    if let Err(violation) = run(operations, None) {
        panic!("{violation}");
    }
}

/// The list holds, and would not with this bug: it does reach what it is named after.
fn holds_but_not_with(bug: Bug, operations: &[Operation]) {
    holds(operations);
    assert!(run(operations, Some(bug)).is_err(), "{bug:?} would be found");
}

/// An order that is published.
fn ordered(user: holdfast_simulation::operation::User) -> [Operation; 2] {
    [Create { user, cents: 100, unreachable: false, end: Commits }, Send { of: Order, rows: 9 }]
}

/// A service publishes what it has, and a group handles what is there.
fn passes_on(of: Service, by: Service) -> [Operation; 4] {
    [
        Send { of, rows: 9 },
        Acknowledge { of, rows: 9 },
        Handle { by, member: 0, end: Commits },
        Handle { by, member: 1, end: Commits },
    ]
}

/// The broker has acknowledged a row, and the relay dies before it deletes it: it is published twice and applied once.
#[test]
fn a_relay_dies_between_acknowledgement_and_deletion() {
    let story = [
        ordered(Rich).to_vec(),
        passes_on(Order, Payment)[2..].to_vec(),
        vec![Crash { of: Order }],
        passes_on(Order, Payment).to_vec(),
    ];
    holds_but_not_with(Bug::NoInbox, &story.concat());
}

/// A relay dies after it has claimed a row.
#[test]
fn a_relay_dies_before_the_acknowledgement() {
    let story = [ordered(Rich).to_vec(), vec![Crash { of: Order }]];
    holds_but_not_with(Bug::DeleteBeforeAcknowledgement, &story.concat());
}

/// A record comes once more after the inbox has it.
#[test]
fn a_record_is_repeated_after_it_was_handled() {
    let story = [
        ordered(Rich).to_vec(),
        passes_on(Order, Payment).to_vec(),
        vec![Repeat { topic: 0, pick: 0 }, Handle { by: Payment, member: 0, end: CommitUnknown }],
        passes_on(Order, Payment).to_vec(),
    ];
    holds_but_not_with(Bug::NoInbox, &story.concat());
}

/// A transaction takes its row before another one and commits after the relay has passed that one.
#[test]
fn a_transaction_commits_behind_the_relay() {
    let story = [
        vec![CreateLate { user: Rich, cents: 100 }],
        ordered(Rich).to_vec(),
        vec![Acknowledge { of: Order, rows: 9 }, CommitLate],
    ];
    holds_but_not_with(Bug::ClaimAfterLastId, &story.concat());
}

/// A consumer dies before the commit of its batch.
#[test]
fn a_consumer_dies_before_its_commit() {
    let died = |member| Handle { by: Payment, member, end: CrashBefore };
    holds_but_not_with(Bug::PositionBeforeCommit, &[&ordered(Rich)[..], &[died(0), died(1)]].concat());
}

/// A member has received a batch, its partitions go to another one, and both handle it.
#[test]
fn a_batch_is_handled_by_its_old_and_its_new_owner() {
    let take = |member| Take { by: Payment, member, records: 9 };
    let story = [
        ordered(Rich).to_vec(),
        vec![Rebalance { of: Payment, owners: 0 }, take(0), Rebalance { of: Payment, owners: 0xff }, take(1)],
        passes_on(Order, Payment).to_vec(),
    ];
    holds_but_not_with(Bug::NoInbox, &story.concat());
}

/// Poison in the middle of an order, and an event of it that can't be stored: a redrive fails at them, a new event of the
/// order arrives between two redrives, the reason is fixed, the poison is given up, and the rest is handled in order.
#[test]
fn a_new_event_arrives_between_two_redrives() {
    let redrive = Redrive { by: Order, pick: 0, letters: 4, end: Commits };
    let moves = [Wait { seconds: 1 }, Deliver { end: Commits }];
    let story = [
        ordered(Rich).to_vec(),
        passes_on(Order, Payment).to_vec(),
        passes_on(Payment, Order).to_vec(),
        passes_on(Payment, Delivery).to_vec(),
        vec![Send { of: Delivery, rows: 9 }, Break { by: Order, topic: 2, pick: 0 }],
        vec![Forge { topic: 1, pick: 0, poison: Garbage }],
        passes_on(Delivery, Order).to_vec(),
        vec![redrive],
        moves.to_vec(),
        passes_on(Delivery, Order).to_vec(),
        vec![redrive, Fix { by: Order }, Discard { by: Order }],
        vec![Redrive { by: Order, pick: 0, letters: 1, end: CrashAfter }],
        moves.to_vec(),
        passes_on(Delivery, Order).to_vec(),
    ];
    let story = story.concat();
    holds_but_not_with(Bug::BlockedNotParked, &story);
    holds_but_not_with(Bug::RedriveSkipsFailures, &story);
}

/// An event that can't be stored is parked after three attempts, and handled once the reason is gone.
#[test]
fn an_unforeseen_failure_is_redriven() {
    let story = [
        ordered(Rich).to_vec(),
        vec![Break { by: Payment, topic: 0, pick: 0 }],
        passes_on(Order, Payment).to_vec(),
        vec![
            Redrive { by: Payment, pick: 0, letters: 1, end: Commits },
            Fix { by: Payment },
            Redrive { by: Payment, pick: 0, letters: 1, end: CrashBefore },
            Redrive { by: Payment, pick: 0, letters: 1, end: CommitUnknown },
        ],
    ];
    holds_but_not_with(Bug::PoisonDropped, &story.concat());
}
