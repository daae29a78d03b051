//! What operators do with dead letters, against real PostgreSQL: in order, exactly once, with an audit of everything.

mod support;

use std::collections::BTreeMap;

use futures_util::{FutureExt as _, StreamExt as _, future::join_all};
use holdfast_common::{
    consumer::{PARKED_BYTES_MAX, observer::ViewReceiver},
    database::TransactionStep,
    dead_letter::{
        Filter, State,
        redrive::{Ended, Exhausted, Mode, Outcome, Redrive, RedriveError, Redriver, Step},
        service::DeadLetters,
    },
    event::{Metadata, NewEvent},
    record::Record,
};
use holdfast_proto::ops::v1::{
    self as pb, dead_letter_service_server::DeadLetterService as _,
    redrive_dead_letters_response::Step as ReportedStep,
};
use sqlx::{Connection as _, Row as _};
use support::{Lab, as_operator, service};
use tokio::sync::mpsc;
use tonic::{Code, Request};
use uuid::Uuid;

fn all(mode: Mode) -> Redrive {
    Redrive {
        id: None,
        filter: Filter::default(),
        mode,
        rate_per_second: None,
        letters_max: None,
        exhausted: Exhausted::Refuse,
        actor: "operator (test)".to_owned(),
        trace: None,
    }
}

/// Redrives, and returns subject and outcome of each letter, in order.
async fn redrive(lab: &Lab, request: Redrive) -> Vec<(String, Outcome)> {
    let (steps, mut receiver) = mpsc::channel(64);
    let redriver = lab.redriver();
    let running = tokio::spawn(async move { redriver.redrive(&request, &steps).await });
    let mut outcomes = Vec::new();
    while let Some(step) = receiver.recv().await {
        if let Step::Letter { letter, outcome } = step {
            outcomes.push((letter.subject.unwrap_or_default(), outcome));
        }
    }
    running.await.expect("no panic").expect("the database is there");
    outcomes
}

async fn letters(lab: &Lab) -> Vec<pb::DeadLetter> {
    let request = pb::ListDeadLettersRequest { page_size: 1000, ..Default::default() };
    let answer = service(lab).list_dead_letters(as_operator(request)).await.expect("listed");
    answer.into_inner().dead_letters
}

async fn edit(lab: &Lab, id: &str, value: &str) -> Result<(), tonic::Status> {
    edit_parts(lab, id, Some(value), &[]).await
}

async fn edit_parts(
    lab: &Lab,
    id: &str,
    value: Option<&str>,
    headers: &[(&str, &str)],
) -> Result<(), tonic::Status> {
    let header = |(name, value): &(&str, &str)| pb::RecordHeader {
        name: (*name).to_owned(),
        value: value.as_bytes().to_vec(),
    };
    let request = pb::EditDeadLetterRequest {
        id: id.to_owned(),
        value: value.unwrap_or_default().as_bytes().to_vec(),
        key: None,
        headers: headers.iter().map(header).collect(),
        reason: "repaired".to_owned(),
        author: "alice".to_owned(),
        ..pb::EditDeadLetterRequest::default()
    };
    service(lab).edit_dead_letter(as_operator(request)).await.map(drop)
}

type Moment = Option<prost_types::Timestamp>;

/// The audit between two times, newest first.
async fn entries_between(lab: &Lab, since: Moment, until: Moment) -> Vec<pb::DeadLetterAuditEntry> {
    let request = pb::ListDeadLetterAuditRequest { since, until, page_size: 1000, ..Default::default() };
    service(lab).list_dead_letter_audit(as_operator(request)).await.expect("listed").into_inner().entries
}

/// Action and letter of each audit row, oldest first.
async fn audit(lab: &Lab) -> Vec<(String, String)> {
    let entries = entries_between(lab, None, None).await;
    entries.into_iter().rev().map(|entry| (entry.action, entry.dead_letter_id)).collect()
}

async fn park(lab: &Lab, records: Vec<Record>) {
    lab.processor().process(records.into()).await.expect("done");
}

/// Five events of an order, the second poisoned, among others.
async fn five_with_a_poisoned_second(lab: &Lab) {
    let payloads = ["1", "poison", "3", "4", "5"];
    let mut records: Vec<Record> = (0i64..)
        .zip(payloads)
        .map(|(offset, payload)| lab.record(offset * 2, lab.event("order", payload)))
        .collect();
    for n in 0..4 {
        records.push(lab.record(n * 2 + 1, lab.event("other", "fine")));
    }
    records.sort_by_key(|record| record.offset);
    park(lab, records).await;
}

async fn effects_of(lab: &Lab, subject: &str) -> Vec<String> {
    let effects = lab.effects().await.into_iter();
    effects.filter(|(of, _)| of == subject).map(|(_, payload)| payload).collect()
}

/// Event 2 of 5 is repaired: the events are applied once, in their order, and the audit says who did what.
#[tokio::test(flavor = "multi_thread")]
async fn a_repaired_event_and_those_behind_it_are_redriven_in_order() {
    let lab = Lab::new("order").await;
    five_with_a_poisoned_second(&lab).await;
    let parked = letters(&lab).await;
    assert_eq!(parked.len(), 4);
    assert_eq!(effects_of(&lab, "order").await, ["1"]);
    assert_eq!(effects_of(&lab, "other").await.len(), 4, "others are not held up");

    edit(&lab, &parked[0].id, "2").await.expect("edited");
    let outcomes = redrive(&lab, all(Mode::Execute)).await;
    assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Redriven), "{outcomes:?}");
    assert_eq!(effects_of(&lab, "order").await, ["1", "2", "3", "4", "5"]);
    // Again: nothing is parked any more, so nothing is done.
    assert_eq!(redrive(&lab, all(Mode::Execute)).await, []);
    assert_eq!(effects_of(&lab, "order").await.len(), 5);

    let actions = audit(&lab).await;
    let expected: Vec<_> = std::iter::once(("edit".to_owned(), parked[0].id.clone()))
        .chain(parked.iter().map(|letter| ("redrive".to_owned(), letter.id.clone())))
        .collect();
    assert_eq!(actions, expected);
    // Since a time is from then on, and until a time is before it.
    let edited_at = entries_between(&lab, None, None).await.last().and_then(|edit| edit.at);
    let redriven = entries_between(&lab, None, None).await.first().and_then(|redrive| redrive.at);
    assert_eq!(entries_between(&lab, edited_at, None).await.len(), actions.len());
    assert_eq!(entries_between(&lab, None, edited_at).await, []);
    assert_eq!(entries_between(&lab, edited_at, redriven).await.len(), 1, "the edit");
    assert_eq!(entries_between(&lab, redriven, None).await.len(), actions.len() - 1, "in one transaction");
    // The original is kept beside the edit, and the history shows both actions.
    let request = pb::GetDeadLetterRequest { id: parked[0].id.clone() };
    let letter = service(&lab).get_dead_letter(as_operator(request)).await.expect("there").into_inner();
    let letter = letter.dead_letter.expect("a letter");
    assert_eq!(
        (letter.value.as_deref(), letter.edited_value.as_deref()),
        (Some(&b"poison"[..]), Some(&b"2"[..]))
    );
    assert_eq!(letter.history.len(), 2);
    assert_eq!(letter.history[0].actor, "operator (alice)");
    // A new event of the order is handled at once again, and the redrive has not changed the tally.
    park(&lab, vec![lab.record(100, lab.event("order", "6"))]).await;
    assert_eq!(effects_of(&lab, "order").await.last().map(String::as_str), Some("6"));
    assert_eq!(lab.tally().await, (6, 0, 4));
}

/// What a handler has left for after the commit is undone with an event that it refuses, in a batch and in a redrive, whose
/// transaction is committed all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_not_announced() {
    let lab = Lab::new("announced").await;
    five_with_a_poisoned_second(&lab).await;
    let announced = || lab.announced().into_iter().filter(|payload| payload != "fine").collect::<Vec<_>>();
    assert_eq!(announced(), ["1"]);
    let parked = letters(&lab).await;
    edit(&lab, &parked[0].id, "2").await.expect("edited");
    edit(&lab, &parked[2].id, "poison too").await.expect("edited");
    let outcomes = redrive(&lab, all(Mode::Execute)).await;
    assert!(matches!(outcomes[2].1, Outcome::Failed(_)), "{outcomes:?}");
    assert_eq!(effects_of(&lab, "order").await, ["1", "2", "3"], "the first two letters are committed");
    assert_eq!(announced(), ["1", "2", "3"]);
}

/// What fails again stays parked with what waits behind it, counts, and is refused the fourth time unless the operator
/// insists.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_again_stays_and_is_refused_the_fourth_time() {
    let lab = Lab::new("again").await;
    five_with_a_poisoned_second(&lab).await;
    for count in 1..=3 {
        let outcomes = redrive(&lab, all(Mode::Execute)).await;
        assert!(matches!(outcomes[0].1, Outcome::Failed(_)), "{outcomes:?}");
        assert!(outcomes[1..].iter().all(|(_, outcome)| *outcome == Outcome::Behind), "{outcomes:?}");
        assert_eq!(letters(&lab).await[0].redrive_count, count);
    }
    let outcomes = redrive(&lab, all(Mode::Execute)).await;
    assert_eq!(outcomes[0].1, Outcome::Refused);
    assert_eq!(letters(&lab).await[0].redrive_count, 3, "refused before it was tried");
    assert_eq!(effects_of(&lab, "order").await, ["1"]);
    let insisted = Redrive { exhausted: Exhausted::RedriveToo, ..all(Mode::Execute) };
    assert!(matches!(redrive(&lab, insisted).await[0].1, Outcome::Failed(_)));
    let actions = audit(&lab).await;
    assert_eq!(actions.iter().filter(|(action, _)| action == "redrive-failed").count(), 4);
}

/// What was refused because it had failed too often is redriven once it is repaired: that was never tried.
#[tokio::test(flavor = "multi_thread")]
async fn a_repaired_letter_is_not_refused() {
    let lab = Lab::new("anew").await;
    park(&lab, vec![lab.record(0, lab.event("order", "poison"))]).await;
    for _ in 0..3 {
        assert!(matches!(redrive(&lab, all(Mode::Execute)).await[0].1, Outcome::Failed(_)));
    }
    assert_eq!(redrive(&lab, all(Mode::Execute)).await[0].1, Outcome::Refused);
    let id = letters(&lab).await[0].id.clone();
    edit(&lab, &id, "repaired").await.expect("edited");
    assert_eq!(letters(&lab).await[0].redrive_count, 0, "of this content");
    assert_eq!(redrive(&lab, all(Mode::Execute)).await[0].1, Outcome::Redriven);
    assert_eq!(effects_of(&lab, "order").await, ["repaired"]);
}

/// Two operators edit a letter at once, one its value and one a header: both edits are in it.
#[tokio::test(flavor = "multi_thread")]
async fn edits_at_once_are_both_kept() {
    let lab = Lab::new("edits").await;
    park(&lab, vec![lab.record(0, lab.event("order", "poison"))]).await;
    let id = letters(&lab).await[0].id.clone();
    // Holds both up until both have begun.
    let mut other = lab.connect().await;
    let mut holder = other.begin().await.expect("begun");
    sqlx::query("select from dead_letters for update").execute(&mut *holder).await.expect("locked");
    let edits = join_all([
        edit_parts(&lab, &id, Some("repaired"), &[]).boxed(),
        edit_parts(&lab, &id, None, &[("note", "by another")]).boxed(),
    ]);
    let released = async {
        support::eventually("both wait", || async { lab.count(WAITING).await == 2 }).await;
        holder.commit().await.expect("released");
    };
    let (edits, ()) = tokio::join!(edits, released);
    assert!(edits.iter().all(Result::is_ok), "{edits:?}");
    let request = pb::GetDeadLetterRequest { id };
    let answer = service(&lab).get_dead_letter(as_operator(request)).await.expect("there");
    let letter = answer.into_inner().dead_letter.expect("there");
    assert_eq!(letter.edited_value.as_deref(), Some(&b"repaired"[..]));
    assert!(letter.edited_headers.iter().any(|header| header.name == "note"), "{letter:?}");
}

async fn letter(lab: &Lab, id: &str) -> pb::DeadLetter {
    let request = pb::GetDeadLetterRequest { id: id.to_owned() };
    let answer = service(lab).get_dead_letter(as_operator(request)).await.expect("there");
    answer.into_inner().dead_letter.expect("there")
}

/// Of two editors who have opened the same letter the second is refused, and finds what the first one has made of it; an edit that is
/// based on nothing is kept beside the others.
#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_what_was_edited_meanwhile_is_refused() {
    let lab = Lab::new("based").await;
    park(&lab, vec![lab.record(0, lab.event("order", "poison"))]).await;
    let id = letters(&lab).await[0].id.clone();
    let opened = letter(&lab, &id).await.revision;
    let based = async |value: &str, based_on: &str| {
        let request = pb::EditDeadLetterRequest {
            id: id.clone(),
            value: value.as_bytes().to_vec(),
            reason: "repaired".to_owned(),
            based_on: based_on.to_owned(),
            ..pb::EditDeadLetterRequest::default()
        };
        service(&lab).edit_dead_letter(as_operator(request)).await.map(drop)
    };
    based("by the first", &opened).await.expect("kept");
    let refused = based("by the second", &opened).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    let now = letter(&lab, &id).await;
    assert_eq!(now.edited_value.as_deref(), Some(&b"by the first"[..]));
    assert!(now.revision != opened && !now.revision.is_empty());
    edit_parts(&lab, &id, None, &[("note", "by options")]).await.expect("a merge");
    let merged = letter(&lab, &id).await;
    assert_eq!(merged.edited_value, now.edited_value);
    based("by the second", &merged.revision).await.expect("kept");
    let details: Vec<_> = letter(&lab, &id).await.history.into_iter().map(|entry| entry.detail).collect();
    assert_eq!(details, ["repaired: value", "repaired: header note", "repaired: value"]);
}

/// A check says what an edit would be refused for, and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_of_an_edit_changes_nothing() {
    let lab = Lab::new("check").await;
    park(&lab, vec![lab.record(0, lab.event("order", "poison"))]).await;
    let id = letters(&lab).await[0].id.clone();
    let check = async |id: &str, value: &str| {
        let request = pb::EditDeadLetterRequest {
            id: id.to_owned(),
            value: value.as_bytes().to_vec(),
            reason: "a look".to_owned(),
            ..pb::EditDeadLetterRequest::default()
        };
        let checked = service(&lab).check_dead_letter_edit(as_operator(request)).await;
        checked.map(drop).map_err(|status| status.code())
    };
    let before = (everything(&lab).await, audit(&lab).await);
    assert_eq!(check(&id, "fine").await, Ok(()));
    assert_eq!(check(&id, "undecodable").await, Err(Code::InvalidArgument));
    assert_eq!(check(&Uuid::now_v7().to_string(), "fine").await, Err(Code::NotFound));
    assert_eq!((everything(&lab).await, audit(&lab).await), before);
    edit(&lab, &id, "fine").await.expect("edited");
    redrive(&lab, all(Mode::Execute)).await;
    assert_eq!(check(&id, "fine").await, Err(Code::FailedPrecondition), "it is parked no more");
}

/// Sessions of this database that wait for a lock.
const WAITING: &str =
    "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";

/// An event that arrives during the redrive of its aggregate is not parked behind a letter that is about to be
/// redriven: it waits for the redrive, and is handled.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_meets_a_redrive_waits_for_it() {
    let lab = Lab::new("meets").await;
    park(&lab, vec![lab.record(0, lab.event("order", "poison"))]).await;
    // A redrive in the middle of its transaction.
    let mut other = lab.connect().await;
    let mut redrive = other.begin().await.expect("begun");
    sqlx::query("update dead_letters set state = 'redriven'").execute(&mut *redrive).await.expect("done");

    let (processor, late) = (lab.processor(), lab.record(1, lab.event("order", "late")));
    let consumer = tokio::spawn(async move { processor.process([late].into()).await });
    support::eventually("the consumer waits", || async { lab.count(WAITING).await > 0 }).await;
    redrive.commit().await.expect("committed");
    consumer.await.expect("no panic").expect("done");
    assert_eq!(effects_of(&lab, "order").await, ["late"]);
    assert_eq!(lab.tally().await, (1, 0, 1));
}

/// And a redrive that meets a consumer waits for it, and also redrives what was just parked.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_meets_an_event_takes_it_along() {
    let lab = Lab::new("meets").await;
    park(&lab, vec![lab.record(0, lab.event("order", "poison"))]).await;
    let id = letters(&lab).await[0].id.clone();
    edit(&lab, &id, "first").await.expect("edited");
    // A consumer in the middle of its transaction: it has found what blocks, and parks behind it.
    let mut other = lab.connect().await;
    let mut consumer = other.begin().await.expect("begun");
    sqlx::query("select id from dead_letters for share").fetch_all(&mut *consumer).await.expect("locked");
    sqlx::query(
        "insert into dead_letters (id, group_name, class, reason, topic, partition, record_offset, value, headers,
            event_id, subject, blocked_by, attempts, first_failed_at)
        select 'ffffffff-ffff-7fff-8fff-ffffffffffff', group_name, 'blocked-by-key', '', topic, partition, 1,
            'second', headers, event_id, subject, id, 1, now() from dead_letters",
    )
    .execute(&mut *consumer)
    .await
    .expect("parked");

    let waiting = async {
        support::eventually("the redrive waits", || async { lab.count(WAITING).await > 0 }).await;
        consumer.commit().await.expect("committed");
    };
    let (outcomes, ()) = tokio::join!(redrive(&lab, all(Mode::Execute)), waiting);
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    assert_eq!(effects_of(&lab, "order").await, ["first", "second"]);
}

/// Broken headers are repaired like a broken value: the event is handled once under its new id, with the aggregate that
/// it names now, and the original stays.
#[tokio::test(flavor = "multi_thread")]
async fn broken_headers_are_repaired() {
    let lab = Lab::new("headers").await;
    let mut nameless = lab.record(0, lab.event("order", "1"));
    nameless.headers.retain(|header| !["ce_id", "ce_subject"].contains(&header.name.as_str()));
    let mut doubled = lab.record(1, lab.event("other", "2"));
    doubled.headers.push(doubled.headers[0].clone());
    let original = nameless.headers.clone();
    let known = lab.record(2, lab.event("known", "3"));
    let known_id = Metadata::inbox_id(&known).to_string();
    park(&lab, vec![nameless, doubled, known]).await;
    let parked = letters(&lab).await;
    assert_eq!(parked.len(), 2);
    let (nameless, doubled) = (parked[0].id.as_str(), parked[1].id.as_str());

    let refused = edit_parts(&lab, nameless, None, &[]).await.expect_err("nothing to edit");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = edit_parts(&lab, nameless, None, &[("ce_subject", "order")]).await.expect_err("no id yet");
    assert!(refused.message().contains("ce_id"), "{refused}");
    edit_parts(&lab, doubled, None, &[("ce_specversion", "1.0")]).await.expect("edited");
    // An id that was already used is found by the redrive, and costs only an attempt.
    edit_parts(&lab, nameless, None, &[("ce_id", &known_id), ("ce_subject", "order")]).await.expect("edited");
    let outcomes = redrive(&lab, all(Mode::Execute)).await;
    assert_eq!(outcomes.len(), 2);
    assert!(matches!(&outcomes[0], (subject, Outcome::Failed(_)) if subject == "order"), "{outcomes:?}");
    assert_eq!(outcomes[1], ("other".to_owned(), Outcome::Redriven));

    let event_id = Uuid::now_v7();
    edit_parts(&lab, nameless, None, &[("ce_id", &event_id.to_string())]).await.expect("edited");
    let outcomes = redrive(&lab, all(Mode::Execute)).await;
    assert_eq!(outcomes, [("order".to_owned(), Outcome::Redriven)]);
    let effects = lab.effects().await;
    assert_eq!(effects, [("known", "3"), ("other", "2"), ("order", "1")].map(|(s, p)| (s.into(), p.into())));

    // It is known under its new id now: whoever sends it again has sent a duplicate.
    let again = lab.record(3, NewEvent { id: event_id, ..lab.event("order", "1") });
    park(&lab, vec![again]).await;
    assert_eq!(lab.effects().await.len(), 3);
    assert_eq!(lab.tally().await, (1, 1, 2));
    let request = pb::GetDeadLetterRequest { id: nameless.to_owned() };
    let answer = service(&lab).get_dead_letter(as_operator(request)).await.expect("it is there");
    let letter = answer.into_inner().dead_letter.expect("a letter");
    assert_eq!(letter.headers.len(), original.len());
    assert_eq!(letter.edited_headers.len(), original.len() + 2);
}

/// A discarded event releases what waits behind it, in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_event_releases_those_behind_it() {
    let lab = Lab::new("discard").await;
    five_with_a_poisoned_second(&lab).await;
    let poisoned = letters(&lab).await[0].id.clone();
    let discard = |reason: &str| {
        let request = pb::DiscardDeadLettersRequest {
            ids: vec![poisoned.clone()],
            reason: reason.to_owned(),
            author: String::new(),
        };
        as_operator(request)
    };
    let refused = service(&lab).discard_dead_letters(discard(" ")).await.expect_err("no reason");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let done = service(&lab).discard_dead_letters(discard("a test")).await.expect("discarded").into_inner();
    assert_eq!(done.discarded, std::slice::from_ref(&poisoned));
    let again = service(&lab).discard_dead_letters(discard("a test")).await.expect("answered").into_inner();
    assert!(again.discarded.is_empty(), "once");
    // Others are still parked: an event that arrives now waits behind them.
    park(&lab, vec![lab.record(100, lab.event("order", "6"))]).await;
    redrive(&lab, all(Mode::Execute)).await;
    assert_eq!(effects_of(&lab, "order").await, ["1", "3", "4", "5", "6"]);
    assert_eq!(audit(&lab).await[0], ("discard".to_owned(), poisoned));
}

/// A discarded letter is parked again, once, with a reason, and then it is as if it had never been discarded: later events wait
/// behind it, and it is repaired and redriven with them in order. What was not discarded is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_letter_is_restored() {
    let lab = Lab::new("restore").await;
    five_with_a_poisoned_second(&lab).await;
    let parked = letters(&lab).await;
    let ids: Vec<String> = parked.iter().map(|letter| letter.id.clone()).collect();
    let discard = pb::DiscardDeadLettersRequest {
        ids: ids[..2].to_vec(),
        reason: "test data".to_owned(),
        author: "bob".to_owned(),
    };
    service(&lab).discard_dead_letters(as_operator(discard)).await.expect("discarded");
    let restore = |ids: &[String], reason: &str| {
        let request = pb::RestoreDeadLettersRequest {
            ids: ids.to_vec(),
            reason: reason.to_owned(),
            author: "alice".to_owned(),
        };
        as_operator(request)
    };
    let before = everything(&lab).await;
    let unknown = Uuid::now_v7().to_string();
    for wrong in [restore(&ids, " "), restore(&[], "x"), restore(&["nonsense".to_owned()], "x")] {
        let refused = service(&lab).restore_dead_letters(wrong).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    assert_eq!(everything(&lab).await, before);

    let tally = lab.tally().await;
    let asked = [ids.clone(), vec![unknown]].concat();
    let restored = service(&lab).restore_dead_letters(restore(&asked, "a mistake")).await.expect("answered");
    let mut restored = restored.into_inner().restored;
    restored.sort();
    assert_eq!(restored, ids[..2], "those that were discarded, and no other");
    let again = service(&lab).restore_dead_letters(restore(&asked, "a mistake")).await.expect("answered");
    assert!(again.into_inner().restored.is_empty(), "once");
    assert_eq!(letters(&lab).await, parked, "as if it had never been discarded");
    assert_eq!(lab.tally().await, tally, "records are counted when they are read");
    let stats = service(&lab).get_dead_letter_stats(as_operator(pb::GetDeadLetterStatsRequest {})).await;
    let parked_now: u64 = stats.expect("counted").into_inner().stats.iter().map(|stats| stats.parked).sum();
    assert_eq!(parked_now, 4);
    let actions = audit(&lab).await;
    assert_eq!(actions.iter().filter(|(action, _)| action == "restore").count(), 2, "{actions:?}");

    park(&lab, vec![lab.record(100, lab.event("order", "6"))]).await;
    assert_eq!(effects_of(&lab, "order").await, ["1"], "what arrives waits behind it");
    edit(&lab, &ids[0], "2").await.expect("edited");
    redrive(&lab, all(Mode::Execute)).await;
    assert_eq!(effects_of(&lab, "order").await, ["1", "2", "3", "4", "5", "6"]);
    let late = service(&lab).restore_dead_letters(restore(&ids, "too late")).await.expect("answered");
    assert!(late.into_inner().restored.is_empty(), "what was redriven stays redriven");
    assert_eq!(effects_of(&lab, "order").await.len(), 6);
}

/// All rows of all tables that a redrive could touch.
async fn everything(lab: &Lab) -> Vec<String> {
    let mut all = Vec::new();
    for sql in [
        "select row_to_json(t)::text from dead_letters as t order by 1",
        "select row_to_json(t)::text from dead_letter_audit as t order by 1",
        "select row_to_json(t)::text from dead_letter_redrives as t order by 1",
        "select row_to_json(t)::text from effects as t order by 1",
        "select row_to_json(t)::text from outbox as t order by 1",
        "select row_to_json(t)::text from inbox as t order by 1",
        "select row_to_json(t)::text from consumer_positions as t order by 1",
    ] {
        let rows = sqlx::query(sql).fetch_all(&mut lab.connect().await).await.expect("read");
        all.extend(rows.into_iter().map(|row| row.get::<String, _>(0)));
    }
    all
}

/// A dry run reports what would be done and changes nothing at all, even while a redrive runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_changes_nothing() {
    let lab = Lab::new("dry").await;
    five_with_a_poisoned_second(&lab).await;
    let before = everything(&lab).await;
    let lock = lab.redriver().begin(&all(Mode::Execute)).await.expect("nobody else");
    let planned = redrive(&lab, all(Mode::DryRun)).await;
    assert_eq!(planned.len(), 4);
    assert!(planned.iter().all(|(_, outcome)| *outcome == Outcome::Planned));
    assert_eq!(everything(&lab).await, before);
    drop(lock);
}

/// One redrive at a time: the second is refused at once, and the lock is free when its holder is gone. Even if two ran
/// at once, each letter would be handled once.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_redrive_is_refused() {
    let lab = Lab::new("second").await;
    let first = lab.redriver().begin(&all(Mode::Execute)).await.expect("nobody else");
    assert!(matches!(lab.redriver().begin(&all(Mode::Execute)).await, Err(RedriveError::Running(None))));
    let request =
        pb::RedriveDeadLettersRequest { mode: pb::RedriveMode::Execute.into(), ..Default::default() };
    let refused = service(&lab).redrive_dead_letters(as_operator(request)).await.err().expect("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    drop(first);
    support::eventually("the lock is free", || async {
        lab.redriver().begin(&all(Mode::Execute)).await.is_ok()
    })
    .await;

    five_with_a_poisoned_second(&lab).await;
    edit(&lab, &letters(&lab).await[0].id, "2").await.expect("edited");
    join_all((0..4).map(|_| redrive(&lab, all(Mode::Execute)))).await;
    assert_eq!(effects_of(&lab, "order").await, ["1", "2", "3", "4", "5"]);
    assert_eq!(audit(&lab).await.iter().filter(|(action, _)| action == "redrive").count(), 4);
}

/// Wrong edits and wrong requests are refused with a reason, and change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused() {
    let lab = Lab::new("wrong").await;
    five_with_a_poisoned_second(&lab).await;
    let before = everything(&lab).await;
    let id = letters(&lab).await[0].id.clone();
    let refused = edit(&lab, &id, "undecodable").await.expect_err("can't be handled");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let unknown = Uuid::now_v7().to_string();
    assert_eq!(edit(&lab, &unknown, "2").await.expect_err("unknown").code(), Code::NotFound);
    assert_eq!(edit(&lab, "nonsense", "2").await.expect_err("no id").code(), Code::InvalidArgument);
    for rate in [f64::NAN, f64::INFINITY, -1.0] {
        let request = pb::RedriveDeadLettersRequest { rate_per_second: rate, ..Default::default() };
        let refused = service(&lab).redrive_dead_letters(as_operator(request)).await.err().expect("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    for page_size in [0, 1001] {
        let request = pb::ListDeadLettersRequest { page_size, ..Default::default() };
        let refused = service(&lab).list_dead_letters(as_operator(request)).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    assert_eq!(everything(&lab).await, before);
    let one = Redrive { letters_max: Some(1), ..all(Mode::Execute) };
    edit(&lab, &id, "2").await.expect("edited");
    assert_eq!(redrive(&lab, one).await.len(), 1, "at most one");
    assert_eq!(effects_of(&lab, "order").await, ["1", "2"]);
    // It is redriven, so it can't be edited any more.
    assert_eq!(edit(&lab, &id, "2").await.expect_err("redriven").code(), Code::FailedPrecondition);
}

/// Pages, filters and numbers agree with the stored letters.
#[tokio::test(flavor = "multi_thread")]
async fn lists_have_pages_and_filters() {
    let lab = Lab::new("pages").await;
    let records = (0..25).map(|n| lab.record(n, lab.event(&format!("order-{n}"), "poison"))).collect();
    park(&lab, records).await;
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListDeadLettersRequest { page_size: 10, page_token, ..Default::default() };
        let page = service(&lab).list_dead_letters(as_operator(request)).await.expect("listed").into_inner();
        seen.extend(page.dead_letters.into_iter().map(|letter| letter.subject));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (0..25).map(|n| format!("order-{n}")).collect::<Vec<_>>(), "oldest first, each once");
    let request =
        pb::ListDeadLettersRequest { page_size: 10, subject: seen[7].clone(), ..Default::default() };
    let page = service(&lab).list_dead_letters(as_operator(request)).await.expect("listed").into_inner();
    assert_eq!(page.dead_letters.len(), 1);
    assert_eq!(page.dead_letters[0].state(), pb::DeadLetterState::Parked);
    let stats = service(&lab).get_dead_letter_stats(as_operator(pb::GetDeadLetterStatsRequest {})).await;
    let stats = stats.expect("counted").into_inner().stats;
    assert_eq!(stats.len(), 1);
    assert_eq!((stats[0].class.as_str(), stats[0].parked), ("business-invariant", 25));
    assert_eq!(State::Parked.as_str(), "parked");

    // How many there are is said to whoever asks, up to a number that is cheap to count.
    let counted = async |count, topic: &str| {
        let topic = topic.to_owned();
        let request = pb::ListDeadLettersRequest { page_size: 3, count, topic, ..Default::default() };
        let page = service(&lab).list_dead_letters(as_operator(request)).await.expect("listed").into_inner();
        (page.dead_letters.len(), page.matching, page.more_match)
    };
    assert_eq!(counted(false, "").await, (3, None, false));
    assert_eq!(counted(true, "").await, (3, Some(25), false));
    assert_eq!(counted(true, "another").await, (0, Some(0), false));
    lab.alter(
        "insert into dead_letters (id, group_name, class, reason, topic, partition, record_offset, headers, event_id, attempts,
            first_failed_at)
        select gen_random_uuid(), group_name, class, reason, topic, partition, n, headers, gen_random_uuid(), 1, now()
        from (select * from dead_letters limit 1) as one, generate_series(1001, 10976) as n",
    )
    .await;
    assert_eq!(counted(true, "").await, (3, Some(10_000), true), "there are 10,001");
}

/// Whatever is poisoned wherever, however batches are cut, delivered again and interleaved with redrives by several
/// replicas: once all is repaired and redriven, each event is applied once, in the order of its subject, and the tally
/// is exact.
#[tokio::test(flavor = "multi_thread")]
async fn any_placement_of_poison_ends_in_order() {
    for seed in 0..25 {
        let mut random = fastrand::Rng::with_seed(seed);
        let lab = Lab::new(&format!("seed{seed}")).await;
        let subjects = random.usize(1..5);
        let mut counts = vec![0; subjects];
        let records: Vec<Record> = (0..random.i64(10..60))
            .map(|offset| {
                let subject = random.usize(..subjects);
                counts[subject] += 1;
                let number = counts[subject];
                let bad = random.usize(..10) < 2;
                let kind = if random.bool() { "poison" } else { "unstorable" };
                let payload = if bad { format!("{kind} {number}") } else { number.to_string() };
                lab.record(offset, lab.event(&format!("s{subject}"), &payload))
            })
            .collect();
        let mut at = 0;
        while at < records.len() {
            let end = (at + random.usize(1..20)).min(records.len());
            // A restart delivers some of what was handled before again.
            let from = at.saturating_sub(random.usize(..6));
            park(&lab, records[from..end].to_vec()).await;
            at = end;
            if random.usize(..4) == 0 {
                // Without effect as long as nothing is repaired, and harmless; two replicas at once.
                let insist = Redrive { exhausted: Exhausted::RedriveToo, ..all(Mode::Execute) };
                join_all((0..2).map(|_| redrive(&lab, insist.clone()))).await;
            }
        }
        for letter in
            letters(&lab).await.iter().filter(|letter| letter.state() == pb::DeadLetterState::Parked)
        {
            let request = pb::GetDeadLetterRequest { id: letter.id.clone() };
            let full = service(&lab).get_dead_letter(as_operator(request)).await.expect("there").into_inner();
            let value = full.dead_letter.and_then(|letter| letter.value).unwrap_or_default();
            let text = String::from_utf8(value).expect("text");
            if let Some((_, number)) = text.split_once(' ') {
                edit(&lab, &letter.id, number).await.expect("edited");
            }
        }
        let insist = Redrive { exhausted: Exhausted::RedriveToo, ..all(Mode::Execute) };
        join_all((0..2).map(|_| redrive(&lab, insist.clone()))).await;
        redrive(&lab, insist).await;
        let mut effects: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (subject, payload) in lab.effects().await {
            effects.entry(subject).or_default().push(payload);
        }
        for (subject, count) in counts.iter().enumerate() {
            let expected: Vec<String> = (1..=*count).map(|number: i32| number.to_string()).collect();
            let found = effects.remove(&format!("s{subject}")).unwrap_or_default();
            assert_eq!(found, expected, "seed {seed}, subject {subject}");
        }
        let (applied, _, parked) = lab.tally().await;
        assert_eq!(applied + parked, i64::try_from(records.len()).expect("few"), "seed {seed}");
        let open = "select count(*) from dead_letters where state = 'parked'";
        assert_eq!(lab.count(open).await, 0, "seed {seed}");
    }
}

/// A redrive that dies in the middle of a transaction, or right after its commit, applies each event once, and the next
/// one continues where it stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_a_redrive_repeats_nothing() {
    for (step, had_before) in [(TransactionStep::Worked, 1), (TransactionStep::Committed, 5)] {
        let lab = Lab::new("redrive-crash").await;
        five_with_a_poisoned_second(&lab).await;
        let parked = letters(&lab).await;
        edit(&lab, &parked[0].id, "2").await.expect("edited");

        let redriver = Redriver::new(lab.consumers_that_die_at("dead_letter.redrive", step));
        let (steps, mut received) = mpsc::channel(64);
        let died = tokio::spawn(async move { redriver.redrive(&all(Mode::Execute), &steps).await });
        while received.recv().await.is_some() {}
        assert!(died.await.is_err_and(|error| error.is_panic()), "it dies at {step:?}");
        assert_eq!(effects_of(&lab, "order").await.len(), had_before, "{step:?}");

        redrive(&lab, all(Mode::Execute)).await;
        assert_eq!(effects_of(&lab, "order").await, ["1", "2", "3", "4", "5"], "{step:?}");
    }
}

/// Letters of megabytes are redriven completely and in order, a few at a time: what is in memory at once is bounded by bytes too.
/// What was kept can be edited, and shown with its edit; a longer result is refused in words.
#[tokio::test(flavor = "multi_thread")]
async fn large_letters_are_edited_shown_and_redriven() {
    const BYTES: usize = 1_800_000;
    let lab = Lab::new("large").await;
    let large = |name: char| format!("{name}{}", "x".repeat(BYTES));
    park(&lab, vec![lab.record(0, lab.event("order", &format!("poison{}", large('a'))))]).await;
    for (offset, name) in (1..).zip('b'..='k') {
        park(&lab, vec![lab.record(offset, lab.event("order", &large(name)))]).await;
    }
    let parked = letters(&lab).await;
    assert_eq!(parked.len(), 11);
    assert!(parked.iter().all(|letter| letter.value.is_none() && letter.headers.is_empty()));

    let too_long = edit(&lab, &parked[0].id, &"x".repeat(PARKED_BYTES_MAX)).await.expect_err("refused");
    assert_eq!(too_long.code(), Code::InvalidArgument);
    assert!(too_long.message().contains(&format!("at most {PARKED_BYTES_MAX} are kept")), "{too_long}");
    edit(&lab, &parked[0].id, &large('a')).await.expect("edited");
    let request = pb::GetDeadLetterRequest { id: parked[0].id.clone() };
    let shown = service(&lab).get_dead_letter(as_operator(request)).await.expect("there").into_inner();
    let shown = shown.dead_letter.expect("a letter");
    let lengths = [shown.value, shown.edited_value].map(|value| value.map_or(0, |value| value.len()));
    assert_eq!(lengths, [BYTES + 7, BYTES + 1]);

    let planned = redrive(&lab, all(Mode::DryRun)).await;
    assert!(planned.iter().all(|(_, outcome)| *outcome == Outcome::Planned) && planned.len() == 11);
    let outcomes = redrive(&lab, all(Mode::Execute)).await;
    assert!(outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Redriven), "{outcomes:?}");
    assert_eq!(outcomes.len(), 11);
    let names: String = effects_of(&lab, "order").await.iter().map(|effect| &effect[..1]).collect();
    assert_eq!(names, "abcdefghijk");
}

/// Orders of one repaired letter each.
async fn repaired(lab: &Lab, count: i64) {
    let records = (0..count).map(|n| lab.record(n, lab.event(&format!("order-{n}"), "poison"))).collect();
    park(lab, records).await;
    lab.alter("update dead_letters set edited_value = 'fine'").await;
}

/// A dry run names the letters that are redriven, in the order in which they are, and no more than may be.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_names_what_is_redriven() {
    let lab = Lab::new("named").await;
    // Two letters of each order, those of all orders in turns, and one letter that names none.
    let order = |n: i64| format!("order-{}", n % 130);
    let mut records: Vec<Record> = (0..260).map(|n| lab.record(n, lab.event(&order(n), "poison"))).collect();
    let mut bare = lab.record(260, lab.event("bare", "poison"));
    bare.headers.clear();
    records.push(bare);
    park(&lab, records).await;
    lab.alter("update dead_letters set edited_value = 'fine'").await;
    for most in [3, 150, 1_000] {
        let some = |mode| Redrive { letters_max: Some(most), ..all(mode) };
        let planned = redrive(&lab, some(Mode::DryRun)).await;
        let done = redrive(&lab, some(Mode::Execute)).await;
        let subjects =
            |outcomes: &[(String, Outcome)]| outcomes.iter().map(|(of, _)| of.clone()).collect::<Vec<_>>();
        assert_eq!(subjects(&planned), subjects(&done), "at most {most}");
        assert!(planned.len() as u64 <= most && !planned.is_empty());
    }
    assert_eq!(letters(&lab).await.iter().filter(|letter| letter.subject.is_empty()).count(), 1);
}

fn execute(id: Uuid, rate_per_second: f64) -> Request<pb::RedriveDeadLettersRequest> {
    as_operator(pb::RedriveDeadLettersRequest {
        mode: pb::RedriveMode::Execute.into(),
        rate_per_second,
        redrive_id: id.to_string(),
        author: "alice".to_owned(),
        ..Default::default()
    })
}

/// The letters that a call reports, and how it ends.
async fn reported(
    call: impl Future<Output = Result<tonic::Response<Steps>, tonic::Status>>,
) -> Result<usize, tonic::Status> {
    let mut steps = call.await?.into_inner();
    let mut letters = 0;
    while let Some(step) = steps.next().await {
        letters += usize::from(matches!(step?.step, Some(ReportedStep::Outcome(_))));
    }
    Ok(letters)
}

type Steps = futures_util::stream::BoxStream<'static, Result<pb::RedriveDeadLettersResponse, tonic::Status>>;

async fn redrives(lab: &Lab) -> Vec<pb::Redrive> {
    let request = as_operator(pb::ListRedrivesRequest { page_size: 10 });
    service(lab).list_redrives(request).await.expect("listed").into_inner().redrives
}

async fn cancel(lab: &Lab, id: Uuid) -> Result<pb::Redrive, tonic::Status> {
    let request = pb::CancelRedriveRequest { id: id.to_string(), author: "bob".to_owned() };
    let answer = service(lab).cancel_redrive(as_operator(request)).await?;
    Ok(answer.into_inner().redrive.expect("a redrive"))
}

/// A redrive is seen by others while it runs: who, since when, of what, how far. Whoever cancels it knows that no further letter is
/// handled, the same command can't go on, and another one does the rest, each letter once.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_is_seen_and_cancelled() {
    let lab = Lab::new("cancel").await;
    repaired(&lab, 20).await;
    assert_eq!(redrives(&lab).await, []);
    let id = Uuid::now_v7();
    let mut steps =
        service(&lab).redrive_dead_letters(execute(id, 5.0)).await.expect("it begins").into_inner();
    for _ in 0..3 {
        steps.next().await.expect("a step").expect("of a redrive");
    }
    let seen = redrives(&lab).await;
    let [running] = seen.as_slice() else { panic!("one redrive: {seen:?}") };
    assert_eq!((running.state(), running.id.as_str()), (pb::RedriveState::Running, id.to_string().as_str()));
    assert_eq!((running.actor.as_str(), running.selection.as_str()), ("operator (alice)", "all letters"));
    assert!(running.dead_letters == 20 && (2..20).contains(&running.redriven), "{running:?}");
    assert!(running.ended_at.is_none() && running.started_at.is_some());
    let refused = reported(service(&lab).redrive_dead_letters(execute(Uuid::now_v7(), 0.0))).await;
    let refused = refused.expect_err("one at a time");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().starts_with("operator (alice) redrives since 20"), "{refused}");
    assert!(refused.message().ends_with(" of 20 letters done)"), "{refused}");

    let cancelled = cancel(&lab, id).await.expect("cancelled");
    let done = lab.effects().await.len();
    assert_eq!(cancelled.state(), pb::RedriveState::Cancelled);
    assert_eq!((cancelled.redriven, cancelled.cancelled_by.as_str()), (done as u64, "operator (bob)"));
    let ended = loop {
        match steps.next().await {
            Some(Ok(_)) => {}
            Some(Err(status)) => break status,
            None => panic!("it does not say that it was cancelled"),
        }
    };
    assert_eq!((ended.code(), ended.message()), (Code::Aborted, "cancelled by operator (bob)"));
    assert!(cancel(&lab, id).await.is_ok(), "it is");
    let again = reported(service(&lab).redrive_dead_letters(execute(id, 0.0))).await.expect_err("cancelled");
    assert_eq!(again.code(), Code::Aborted, "{again}");
    assert_eq!(lab.effects().await.len(), done, "nothing more is done");
    let actions = audit(&lab).await;
    assert_eq!(actions.iter().filter(|(action, _)| action == "cancel-redrive").count(), 1, "{actions:?}");

    let rest = Uuid::now_v7();
    let reported = reported(service(&lab).redrive_dead_letters(execute(rest, 0.0))).await.expect("the rest");
    assert_eq!((reported, lab.effects().await.len()), (20 - done, 20));
    let seen = redrives(&lab).await;
    assert_eq!((seen.len(), seen[0].state()), (2, pb::RedriveState::Finished), "the latest first");
    assert_eq!((seen[0].redriven, seen[0].dead_letters), (20 - done as u64, 20 - done as u64));
    assert_eq!(cancel(&lab, rest).await.expect_err("done").code(), Code::FailedPrecondition);
    assert_eq!(cancel(&lab, Uuid::now_v7()).await.expect_err("unknown").code(), Code::NotFound);
}

/// A redrive whose command has gone away has ended, and says since when; the command may come back, and everything is counted once.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_without_its_command_has_ended() {
    let lab = Lab::new("gone").await;
    repaired(&lab, 20).await;
    let id = Uuid::now_v7();
    let mut steps =
        service(&lab).redrive_dead_letters(execute(id, 5.0)).await.expect("it begins").into_inner();
    steps.next().await.expect("a step").expect("the plan");
    drop(steps);
    support::eventually("it has ended", || async {
        redrives(&lab).await[0].state() == pb::RedriveState::Interrupted
    })
    .await;
    let seen = redrives(&lab).await;
    assert!(seen[0].ended_at.is_some() && seen[0].redriven < 20, "{seen:?}");
    reported(service(&lab).redrive_dead_letters(execute(id, 0.0))).await.expect("it goes on");
    let seen = redrives(&lab).await;
    assert_eq!((seen.len(), seen[0].state()), (1, pb::RedriveState::Finished));
    assert_eq!((seen[0].redriven, seen[0].dead_letters, lab.effects().await.len()), (20, 20, 20));
}

/// What was counted is what was done, at whatever step the service dies. Then nothing runs, although nobody could write that; and who
/// cancels before the command has reached the next replica keeps it from going on.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_whose_service_died_is_abandoned() {
    for (step, had_before) in [(TransactionStep::Worked, 0), (TransactionStep::Committed, 1)] {
        let lab = Lab::new("abandoned").await;
        repaired(&lab, 3).await;
        let nobody_looks = ViewReceiver::without_observer();
        let id = Uuid::now_v7();
        let dying =
            DeadLetters::new(lab.consumers_that_die_at("dead_letter.redrive", step), nobody_looks.clone());
        // The stream ends as if all were well: in this process there is no connection that breaks.
        reported(dying.redrive_dead_letters(execute(id, 0.0))).await.expect("it ends");
        support::eventually("nothing runs", || async {
            redrives(&lab).await[0].state() == pb::RedriveState::Abandoned
        })
        .await;
        let seen = redrives(&lab).await;
        assert_eq!(
            (seen[0].redriven, lab.effects().await.len()),
            (had_before as u64, had_before),
            "{step:?}"
        );
        assert!(seen[0].ended_at == seen[0].seen_at && seen[0].ended_at.is_some(), "{seen:?}");

        // The same command on another replica: what was done is not done again.
        let dying = DeadLetters::new(lab.consumers_that_die_at("dead_letter.redrive", step), nobody_looks);
        reported(dying.redrive_dead_letters(execute(id, 0.0))).await.expect("it ends");
        support::eventually("nothing runs", || async {
            redrives(&lab).await[0].state() == pb::RedriveState::Abandoned
        })
        .await;
        cancel(&lab, id).await.expect("its command may come back");
        let again =
            reported(service(&lab).redrive_dead_letters(execute(id, 0.0))).await.expect_err("no more");
        assert_eq!(again.code(), Code::Aborted, "{again}");
        assert_eq!(lab.effects().await.len(), 2 * had_before, "{step:?}");
        let rest = reported(service(&lab).redrive_dead_letters(execute(Uuid::now_v7(), 0.0))).await;
        assert_eq!(rest.expect("the rest"), 3 - 2 * had_before);
        assert_eq!(lab.effects().await.len(), 3, "each once: {step:?}");
    }
}

/// A redrive that another one finds unfinished was abandoned, and is written down as such.
#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_redrive_is_closed_by_the_next_one() {
    let lab = Lab::new("closed").await;
    let [first, second] =
        [Uuid::now_v7(), Uuid::now_v7()].map(|id| Redrive { id: Some(id), ..all(Mode::Execute) });
    drop(lab.redriver().begin(&first).await.expect("nobody else"));
    support::eventually("the lock is free", || async {
        let Ok(lock) = lab.redriver().begin(&second).await else { return false };
        lab.redriver().end(lock, &second, &Ok(Ended::Done)).await;
        true
    })
    .await;
    // The second one has found nothing, so nothing is left of it.
    let states: Vec<_> = redrives(&lab).await.iter().map(pb::Redrive::state).collect();
    assert_eq!(states, [pb::RedriveState::Abandoned]);
    let open = "select count(*) from dead_letter_redrives where ended_at is null";
    assert_eq!(lab.count(open).await, 0, "it is written down");
}

/// A dry run says of each letter what can be known: what would fail as it is and why, what was redriven too often, what waits behind one
/// of these, and what was edited.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_fail() {
    use pb::RedriveResult::{Behind, Planned, Refused, WouldFail};
    let lab = Lab::new("foresight").await;
    let known = lab.record(0, lab.event("known", "1"));
    let known_id = Metadata::inbox_id(&known).to_string();
    let mut bare = lab.record(1, lab.event("bare", "1"));
    bare.headers.clear();
    let mut doubled = lab.record(5, lab.event("doubled", "1"));
    doubled.headers.push(doubled.headers[0].clone());
    let records = vec![
        known,
        bare,
        lab.record(2, lab.event("broken", "undecodable")),
        lab.record(3, lab.event("broken", "fine")),
        lab.record(4, lab.event("repaired", "poison")),
        doubled,
        lab.record(6, lab.event("often", "poison")),
        lab.record(7, lab.event("untouched", "poison")),
    ];
    park(&lab, records).await;
    let parked = letters(&lab).await;
    let of = |subject: &str| {
        parked.iter().find(|letter| letter.subject == subject).expect("it is parked").id.clone()
    };
    edit(&lab, &of("repaired"), "fine").await.expect("edited");
    edit_parts(&lab, &of("doubled"), None, &[("ce_specversion", "1.0"), ("ce_id", &known_id)])
        .await
        .expect("edited");
    lab.alter("update dead_letters set redrive_count = 3 where subject = 'often'").await;

    let before = everything(&lab).await;
    let request = as_operator(pb::RedriveDeadLettersRequest::default());
    let mut steps = service(&lab).redrive_dead_letters(request).await.expect("planned").into_inner();
    let mut outcomes = BTreeMap::new();
    while let Some(step) = steps.next().await {
        if let Some(ReportedStep::Outcome(outcome)) = step.expect("planned").step {
            let seen = (outcome.result(), outcome.class.clone(), outcome.edited, outcome.redrive_count);
            outcomes.insert((outcome.subject.clone(), outcome.dead_letter_id.clone()), seen);
        }
    }
    let seen: Vec<_> = outcomes
        .iter()
        .map(|((subject, _), (result, class, edited, redrives))| {
            (subject.as_str(), *result, class.as_str(), *edited, *redrives)
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("", WouldFail, "schema-violation", false, 0),
            ("broken", WouldFail, "decode", false, 0),
            ("broken", Behind, "", false, 0),
            ("doubled", WouldFail, "schema-violation", true, 0),
            ("often", Refused, "", false, 3),
            ("repaired", Planned, "", true, 0),
            ("untouched", Planned, "", false, 0),
        ]
    );
    assert_eq!(everything(&lab).await, before);
    assert_eq!(redrives(&lab).await, [], "nothing was begun");
    // What it says of the form is what happens.
    let executed = redrive(&lab, all(Mode::Execute)).await;
    for (subject, outcome) in executed {
        let foreseen = seen.iter().filter(|(of, ..)| *of == subject).any(|(_, result, ..)| match outcome {
            Outcome::Failed(_) => matches!(result, WouldFail) || subject == "untouched",
            Outcome::Redriven => *result == Planned,
            Outcome::Refused => *result == Refused,
            _ => *result == Behind,
        });
        assert!(foreseen, "{subject}: {outcome:?}");
    }
}
