//! What is seen of dead letters, from fixed data.

use holdfast_proto::ops::v1 as pb;
use prost_types::Timestamp;
use time::macros::datetime;

use super::{
    audit,
    done::{self, Done, Line, failures},
    letter::LetterLine,
    list, resume, stats,
};
use crate::{
    output::{Outcome, json},
    snapshot,
    table::at_all_widths,
};

const NOON: Timestamp = Timestamp { seconds: 1_769_860_800, nanos: 123_456_789 };

fn letter(number: u8, class: &str, reason: &str, blocked_by: &str) -> LetterLine {
    let letter = pb::DeadLetter {
        id: format!("01a21190-0000-7000-8000-00000000000{number}"),
        service: "payment".to_owned(),
        state: pb::DeadLetterState::Parked.into(),
        class: class.to_owned(),
        reason: reason.to_owned(),
        topic: "order.created".to_owned(),
        partition: 3,
        offset: 4_711,
        subject: if class == "decode" {
            String::new()
        } else {
            "01a21184-8763-7214-acea-bb1c3b689082".to_owned()
        },
        blocked_by: blocked_by.to_owned(),
        attempts: 1,
        redrive_count: 2,
        parked_at: Some(NOON),
        first_failed_at: Some(NOON),
        ..pb::DeadLetter::default()
    };
    LetterLine { age: "17m".to_owned(), ..LetterLine::of(&letter) }
}

/// Ids are whole at every width, and the reason as long as there is room.
#[test]
fn letters_are_shown() {
    let letters = [
        letter(1, "decode", "the value is no event of this topic: buffer underflow", ""),
        letter(2, "wrong-topic", "belongs to payment.completed", ""),
        letter(3, "blocked-by-key", "waits behind an earlier one", "01a21190-0000-7000-8000-000000000002"),
    ];
    snapshot::check("tables/dlq-list.txt", &at_all_widths(&list::narrow(&letters)));
    snapshot::check("tables/dlq-list-wide.txt", &at_all_widths(&list::wide(&letters)));
    snapshot::check("json/dlq-list.json", &json(&letters));
}

/// What there is most of is counted by service, class and topic.
#[test]
fn counts_are_shown() {
    let line = |service, class: &str, parked| {
        let stats = pb::DeadLetterStats {
            topic: "order.created".to_owned(),
            class: class.to_owned(),
            parked,
            ..pb::DeadLetterStats::default()
        };
        stats::Line::of(stats, service, datetime!(2026-01-31 12:17 UTC))
    };
    let lines = [line("payment", "decode", 1_204), line("delivery", "attempts-exhausted", 3)];
    snapshot::check("tables/dlq-stats.txt", &at_all_widths(&stats::table(&lines)));
    snapshot::check("json/dlq-stats.json", &json(&lines));
}

/// What is left of allowances, and what was done about them.
#[test]
fn allowances_are_shown() {
    let line = |service, allowed, used| {
        stats::AllowanceLine::of(&pb::ConsumerAllowance { allowed, used, since: None }, service)
    };
    let lines = || vec![line("payment", 5_000, 1_800), line("delivery", 20, 20)];
    snapshot::check("tables/dlq-allowances.txt", &at_all_widths(&stats::allowance_table(&lines())));
    snapshot::check("json/dlq-allowances.json", &json(&lines()));
    let document = |resumed, park, ended_allowances| resume::Document {
        service: "payment".to_owned(),
        resumed,
        park,
        ended_allowances,
    };
    let both = [document(2, 5_000, Vec::new()), document(0, 0, lines())];
    snapshot::check("json/dlq-resume.json", &json(&both));
}

/// What was done to each letter, in the same shape whatever it was; whether it was all decides how the command ends.
#[test]
fn what_was_done_is_shown() {
    let line = |number: u8, service, result, reason: Option<&str>| Line {
        id: format!("01a21190-0000-7000-8000-00000000000{number}"),
        service,
        result,
        reason: reason.map(str::to_owned),
    };
    let payment = Some("payment");
    let discarded = [
        line(1, payment, Done::Discarded, None),
        line(2, payment, Done::Left, Some("is redriven already")),
        line(3, None, Done::Absent, None),
    ];
    let edited = [
        line(1, payment, Done::Edited, None),
        line(2, payment, Done::Failed, Some("the result cannot be handled: header ce_type is missing")),
        line(3, payment, Done::Unknown, Some("payment cannot be reached at 127.0.0.1:50052")),
    ];
    let planned = [
        line(1, payment, Done::Planned, None),
        line(2, payment, Done::WouldFail, Some("the result cannot be handled: the value is no event")),
    ];
    snapshot::check("tables/dlq-edit-refused.txt", &at_all_widths(&failures(edited.iter().skip(1))));
    let of = |action, executed, lines: &[Line]| done::Document::of(action, executed, lines.to_vec());
    let documents = [
        of("discard", true, &discarded),
        of("restore", true, &[line(1, payment, Done::Restored, None)]),
        of("edit", true, &edited),
        of("edit", true, &[line(1, payment, Done::Reverted, None)]),
        of("edit", false, &planned),
    ];
    snapshot::check("json/dlq-done.json", &json(&documents));
    let outcomes: Vec<_> = documents.iter().map(done::Document::outcome).collect();
    let (all, partly) = (Outcome::Done, Outcome::Partly);
    assert_eq!(outcomes, [partly, all, partly, all, Outcome::NothingMatched]);
    assert_eq!(of("edit", true, &edited[1..]).outcome(), Outcome::Failed);
}

/// Who did what to which letter.
#[test]
fn the_audit_is_shown() {
    let entry = |action: &str, detail: &str, letter: &str| pb::DeadLetterAuditEntry {
        at: Some(NOON),
        actor: "operator (alice)".to_owned(),
        action: action.to_owned(),
        dead_letter_id: letter.to_owned(),
        detail: detail.to_owned(),
        ..pb::DeadLetterAuditEntry::default()
    };
    let entries = [
        entry("edit", "amount was missing: value, ce_type", "01a21190-0000-7000-8000-000000000001"),
        entry("resume", "known garbage: 5000 more may be parked", ""),
        entry("end-allowance", "enough: 1800 of 5000 were parked", ""),
    ];
    let lines = entries.map(|entry| audit::AuditLine::of(entry, "payment"));
    snapshot::check("tables/dlq-audit.txt", &at_all_widths(&audit::table(&lines)));
    snapshot::check("json/dlq-audit.json", &json(&lines));
}
