//! The messages of the dead-letter service: checks requests and builds responses.

use std::{collections::BTreeMap, ops::RangeInclusive};

use holdfast_proto::{from_timestamp, ops::v1 as pb, to_timestamp};
use time::OffsetDateTime;
use tonic::{Request, Status};
use uuid::Uuid;

use super::{
    AuditEntry, Edited, Filter, State, Summary,
    progress::{Counts, Progress, RedriveState},
    redrive::{Outcome, Step},
    skip::{SKIPPED_RECORDS_MAX, Skip},
};
use crate::{
    consumer::{Class, REASON_BYTES_MAX, observer::GroupView, positions::PartitionTally, stops::Allowance},
    identity::Peer,
    record::Header,
};

const PAGE_SIZE_MAX: u32 = 1_000;
const IDS_MAX: usize = 1_000;
/// Digits of the beginning of an id; fewer would select too much.
const ID_PREFIX_DIGITS: RangeInclusive<usize> = 4..=32;
const AUTHOR_CHARACTERS_MAX: usize = 255;
const EDITED_HEADERS_MAX: usize = 64;
const HEADER_NAME_BYTES_MAX: usize = 255;

pub(crate) fn peer_of<M>(request: &Request<M>) -> Result<Peer, Status> {
    let peer = request.extensions().get::<Peer>().cloned();
    peer.ok_or_else(|| Status::unauthenticated("the connection proved no identity"))
}

/// `operator (alice)`.
pub(crate) fn actor(peer: &Peer, author: &str) -> Result<String, Status> {
    let fits = author.chars().count() <= AUTHOR_CHARACTERS_MAX && !author.chars().any(char::is_control);
    if !fits {
        return Err(Status::invalid_argument("author must be at most 255 characters"));
    }
    let name = peer.id.name();
    Ok(if author.is_empty() { name.to_owned() } else { format!("{name} ({author})") })
}

pub(crate) fn parse_reason(reason: &str) -> Result<String, Status> {
    if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX || reason.contains('\0') {
        return Err(Status::invalid_argument("reason must be 1 to 512 bytes"));
    }
    Ok(reason.to_owned())
}

/// What is done to letters as a whole, and by whom.
#[derive(Debug, Clone)]
pub(super) struct Moved {
    pub(super) ids: Vec<Uuid>,
    pub(super) reason: String,
    pub(super) actor: String,
}

pub(super) fn parse_moved(ids: &[String], reason: &str, actor: &str) -> Result<Moved, Status> {
    let ids = parse_ids(ids)?;
    if ids.is_empty() {
        return Err(Status::invalid_argument("ids must not be empty"));
    }
    Ok(Moved { ids, reason: parse_reason(reason)?, actor: actor.to_owned() })
}

/// An edit of a letter.
#[derive(Debug, Clone)]
pub(super) struct Edit {
    pub(super) what: Change,
    /// The revision that it is of, if it must be that one.
    pub(super) based_on: Option<String>,
}

/// What an edit does to a letter.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// Replaces these parts; headers are those to set.
    Replace(Edited),
    /// Takes back all that was replaced.
    Revert,
}

pub(super) fn parse_edit(request: pb::EditDeadLetterRequest) -> Result<Edit, Status> {
    let pb::EditDeadLetterRequest { key, value, headers, revert, based_on, .. } = request;
    let based_on = Some(based_on).filter(|based_on| !based_on.is_empty());
    let value = Some(value).filter(|value| !value.is_empty());
    if revert {
        let is_alone = key.is_none() && value.is_none() && headers.is_empty();
        let refused = || {
            Status::invalid_argument("revert takes everything back: give no value, key or headers with it")
        };
        return is_alone.then_some(Edit { what: Change::Revert, based_on }).ok_or_else(refused);
    }
    if key.is_none() && value.is_none() && headers.is_empty() {
        return Err(Status::invalid_argument("nothing to edit: give a value, a key or headers"));
    }
    let fits = |header: &pb::RecordHeader| (1..=HEADER_NAME_BYTES_MAX).contains(&header.name.len());
    if headers.len() > EDITED_HEADERS_MAX || !headers.iter().all(fits) {
        return Err(Status::invalid_argument("headers must be at most 64, with names of 1 to 255 bytes"));
    }
    let headers: Vec<Header> =
        headers.into_iter().map(|header| Header::new(&header.name, header.value)).collect();
    let headers = Some(headers).filter(|headers| !headers.is_empty());
    Ok(Edit { what: Change::Replace(Edited { key, value, headers }), based_on })
}

pub(super) fn parse_skip(request: pb::SkipRecordsRequest, peer: &Peer) -> Result<Skip, Status> {
    let pb::SkipRecordsRequest { topic, partition, offset, records, reason, author } = request;
    let has_end = offset.checked_add(i64::from(records)).is_some();
    if topic.is_empty() || partition < 0 || offset < 0 || !has_end {
        return Err(Status::invalid_argument("topic, partition and offset must name a record"));
    }
    if !(1..=SKIPPED_RECORDS_MAX).contains(&records) {
        return Err(Status::invalid_argument(format!("records must be 1 to {SKIPPED_RECORDS_MAX}")));
    }
    let (reason, actor) = (parse_reason(&reason)?, actor(peer, &author)?);
    Ok(Skip { topic, partition, offset, records, actor, reason })
}

/// Joins the tallies of the database with the partitions of the broker.
pub(super) fn positions_to_proto(
    tallies: Vec<PartitionTally>,
    view: Option<&GroupView>,
) -> pb::ListPositionsResponse {
    let mut positions: BTreeMap<(String, i32), pb::ConsumerPosition> = BTreeMap::new();
    for PartitionTally { topic, partition, next_offset, counts } in tallies {
        let position = pb::ConsumerPosition {
            position: Some(next_offset),
            applied: counts.applied,
            duplicates: counts.duplicates,
            parked: counts.parked,
            set_aside: counts.set_aside,
            ..pb::ConsumerPosition::default()
        };
        positions.insert((topic, partition), position);
    }
    for (place, partition) in view.iter().flat_map(|view| &view.partitions) {
        let position = positions.entry(place.clone()).or_default();
        position.committed = partition.committed;
        position.first = Some(partition.first);
        position.end = Some(partition.end);
    }
    let positions = positions
        .into_iter()
        .map(|((topic, partition), position)| pb::ConsumerPosition { topic, partition, ..position })
        .collect();
    let seen_at = view.map(|view| to_timestamp(OffsetDateTime::now_utc() - view.at.elapsed()));
    pb::ListPositionsResponse { positions, seen_at }
}

pub(crate) fn parse_id(field: &str, text: &str) -> Result<Uuid, Status> {
    Uuid::try_parse(text).map_err(|_| Status::invalid_argument(format!("{field} is not an id")))
}

/// The ids that begin so: the first and the last that there can be.
pub(super) fn parse_id_prefix(digits: &str) -> Result<Option<(Uuid, Uuid)>, Status> {
    if digits.is_empty() {
        return Ok(None);
    }
    let is_one = ID_PREFIX_DIGITS.contains(&digits.len())
        && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let filled = |digit: char| -> String {
        digits.chars().chain(std::iter::repeat(digit)).take(*ID_PREFIX_DIGITS.end()).collect()
    };
    let range =
        is_one.then(|| Some((Uuid::try_parse(&filled('0')).ok()?, Uuid::try_parse(&filled('f')).ok()?)));
    range
        .flatten()
        .map(Some)
        .ok_or_else(|| Status::invalid_argument("id_prefix is not the beginning of an id"))
}

fn parse_ids(ids: &[String]) -> Result<Vec<Uuid>, Status> {
    if ids.len() > IDS_MAX {
        return Err(Status::invalid_argument(format!("at most {IDS_MAX} ids")));
    }
    ids.iter().map(|id| parse_id("ids", id)).collect()
}

pub(crate) fn parse_time(
    field: &str,
    timestamp: Option<&prost_types::Timestamp>,
) -> Result<Option<OffsetDateTime>, Status> {
    let Some(timestamp) = timestamp else { return Ok(None) };
    let time = from_timestamp(Some(timestamp));
    time.map(Some).ok_or_else(|| Status::invalid_argument(format!("{field} is not a time")))
}

/// An absent field is no filter, and in proto3 an empty text is an absent one. Any other value that can't match
/// anything is refused: a typo must not look like "there is none".
pub(super) fn parse_filter(filter: pb::DeadLetterFilter) -> Result<Filter, Status> {
    let given = |field: &str, text: String| match text.trim() {
        "" if text.is_empty() => Ok(None),
        "" => Err(Status::invalid_argument(format!("{field} is blank"))),
        _ => Ok(Some(text)),
    };
    let class = given("class", filter.class)?;
    if class.as_ref().is_some_and(|class| !Class::ALL.iter().any(|known| known.as_str() == class)) {
        return Err(Status::invalid_argument("class is none of the eight"));
    }
    Ok(Filter {
        ids: parse_ids(&filter.ids)?,
        topic: given("topic", filter.topic)?,
        class,
        subject: given("subject", filter.subject)?,
        state: None,
        since: parse_time("since", filter.since.as_ref())?,
        until: parse_time("until", filter.until.as_ref())?,
        range: None,
        place: None,
    })
}

pub(super) fn parse_place(place: Option<pb::RecordPlace>, topic: &str) -> Result<Option<(i32, i64)>, Status> {
    let Some(pb::RecordPlace { partition, offset }) = place else { return Ok(None) };
    if topic.is_empty() || partition < 0 || offset < 0 {
        return Err(Status::invalid_argument("topic and place must name a record"));
    }
    Ok(Some((partition, offset)))
}

/// A number that this version does not know is not "any state".
pub(super) fn parse_state(state: i32) -> Result<Option<State>, Status> {
    match pb::DeadLetterState::try_from(state) {
        Ok(pb::DeadLetterState::Unspecified) => Ok(None),
        Ok(pb::DeadLetterState::Parked) => Ok(Some(State::Parked)),
        Ok(pb::DeadLetterState::Redriven) => Ok(Some(State::Redriven)),
        Ok(pb::DeadLetterState::Discarded) => Ok(Some(State::Discarded)),
        Ok(pb::DeadLetterState::SetAside) => Ok(Some(State::SetAside)),
        Err(_) => Err(Status::invalid_argument("state is not known")),
    }
}

pub(super) fn parse_page(size: u32, token: &str) -> Result<(i64, Option<Uuid>), Status> {
    if !(1..=PAGE_SIZE_MAX).contains(&size) {
        return Err(Status::invalid_argument(format!("page_size must be 1 to {PAGE_SIZE_MAX}")));
    }
    let token = match token {
        "" => None,
        token => Some(parse_id("page_token", token)?),
    };
    Ok((i64::from(size), token))
}

/// Removes the extra entry that was asked for, which shows whether there is another page.
pub(super) fn next_page<T>(items: &mut Vec<T>, limit: i64, id: impl Fn(&T) -> Uuid) -> String {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if items.len() <= limit {
        return String::new();
    }
    items.truncate(limit);
    items.last().map(|item| id(item).to_string()).unwrap_or_default()
}

pub(super) fn summary_to_proto(letter: &Summary, group: &str) -> pb::DeadLetter {
    pb::DeadLetter {
        id: letter.id.to_string(),
        // A group is named after its service.
        service: group.to_owned(),
        group: group.to_owned(),
        class: letter.class.clone(),
        reason: letter.reason.clone(),
        state: match letter.state {
            State::Parked => pb::DeadLetterState::Parked,
            State::Redriven => pb::DeadLetterState::Redriven,
            State::Discarded => pb::DeadLetterState::Discarded,
            State::SetAside => pb::DeadLetterState::SetAside,
        }
        .into(),
        topic: letter.topic.clone(),
        partition: letter.partition,
        offset: letter.offset,
        record_timestamp_ms: letter.timestamp_ms,
        subject: letter.subject.clone().unwrap_or_default(),
        blocked_by: letter.blocked_by.map(|id| id.to_string()).unwrap_or_default(),
        attempts: letter.attempts,
        redrive_count: letter.redrive_count,
        first_failed_at: Some(to_timestamp(letter.first_failed_at)),
        parked_at: Some(to_timestamp(letter.parked_at)),
        ..pb::DeadLetter::default()
    }
}

pub(super) fn header_to_proto(header: &Header) -> pb::RecordHeader {
    pb::RecordHeader {
        name: header.name.clone(),
        value: header.value.as_ref().map(|value| value.to_vec()).unwrap_or_default(),
    }
}

pub(super) fn entry_to_proto(entry: &AuditEntry) -> pb::DeadLetterAuditEntry {
    pb::DeadLetterAuditEntry {
        id: entry.id.to_string(),
        at: Some(to_timestamp(entry.at)),
        actor: entry.actor.clone(),
        action: entry.action.clone(),
        dead_letter_id: entry.letter.map(|id| id.to_string()).unwrap_or_default(),
        detail: entry.detail.clone(),
    }
}

pub(super) fn step_to_proto(step: Step) -> pb::RedriveDeadLettersResponse {
    use pb::redrive_dead_letters_response::Step as Proto;
    let step = match step {
        Step::Plan { letters, aggregates } => {
            Proto::Plan(pb::RedrivePlan { dead_letters: letters, aggregates })
        }
        Step::Letter { letter, outcome } => {
            let (class, reason) = match &outcome {
                Outcome::Failed(poison) | Outcome::WouldFail(poison) => {
                    (poison.class.as_str().to_owned(), poison.reason().to_owned())
                }
                _ => (String::new(), String::new()),
            };
            Proto::Outcome(pb::RedriveOutcome {
                dead_letter_id: letter.id.to_string(),
                topic: letter.topic,
                subject: letter.subject.unwrap_or_default(),
                result: match outcome {
                    Outcome::Planned => pb::RedriveResult::Planned,
                    Outcome::WouldFail(_) => pb::RedriveResult::WouldFail,
                    Outcome::Redriven => pb::RedriveResult::Redriven,
                    Outcome::Failed(_) => pb::RedriveResult::Failed,
                    Outcome::Refused => pb::RedriveResult::Refused,
                    Outcome::Behind => pb::RedriveResult::Behind,
                }
                .into(),
                class,
                reason,
                edited: letter.is_edited,
                redrive_count: letter.redrive_count,
            })
        }
    };
    pb::RedriveDeadLettersResponse { step: Some(step) }
}

pub(super) fn allowance_to_proto(allowance: &Allowance) -> pb::ConsumerAllowance {
    let Allowance { allowed, used, since } = *allowance;
    pb::ConsumerAllowance { allowed, used, since: Some(to_timestamp(since)) }
}

pub(super) fn redrive_to_proto(progress: &Progress) -> pb::Redrive {
    let Counts { redriven, failed, refused, behind } = progress.counts;
    pb::Redrive {
        id: progress.id.to_string(),
        actor: progress.actor.clone(),
        selection: progress.selection.clone(),
        started_at: Some(to_timestamp(progress.started_at)),
        seen_at: Some(to_timestamp(progress.seen_at)),
        dead_letters: progress.letters.unsigned_abs(),
        redriven: redriven.unsigned_abs(),
        failed: failed.unsigned_abs(),
        refused: refused.unsigned_abs(),
        behind: behind.unsigned_abs(),
        state: match progress.state {
            RedriveState::Running => pb::RedriveState::Running,
            RedriveState::Finished => pb::RedriveState::Finished,
            RedriveState::Cancelled => pb::RedriveState::Cancelled,
            RedriveState::Interrupted => pb::RedriveState::Interrupted,
            RedriveState::Failed => pb::RedriveState::Failed,
            RedriveState::Abandoned => pb::RedriveState::Abandoned,
        }
        .into(),
        ended_at: progress.ended_at.map(to_timestamp),
        cancelled_by: progress.cancelled_by.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    /// The beginning of an id stands for all that begin so.
    #[test]
    fn the_beginning_of_an_id_is_a_range() {
        let id = |text: &str| Uuid::try_parse(text).expect("an id");
        assert_eq!(parse_id_prefix("").ok(), Some(None));
        let (first, last) = parse_id_prefix("01a21184876").expect("read").expect("a range");
        assert_eq!(first, id("01a21184-8760-0000-0000-000000000000"));
        assert_eq!(last, id("01a21184-876f-ffff-ffff-ffffffffffff"));
        let whole = "01a2118487637214aceabb1c3b689082";
        assert_eq!(parse_id_prefix(whole).ok(), Some(Some((id(whole), id(whole)))));
        for wrong in ["01a", "01A2", "01a2-11", "nonsense", &"0".repeat(33)] {
            assert!(parse_id_prefix(wrong).is_err(), "{wrong}");
        }
    }

    /// An absent value is no filter; a blank, unknown or malformed one is refused, and never matches everything.
    #[test]
    fn a_filter_says_what_it_means() {
        let empty = parse_filter(pb::DeadLetterFilter::default()).expect("no filter");
        assert!(empty.topic.is_none() && empty.class.is_none() && empty.subject.is_none());
        let given = pb::DeadLetterFilter { class: "decode".into(), ..Default::default() };
        assert_eq!(parse_filter(given).expect("one of eight").class.as_deref(), Some("decode"));
        for wrong in [
            pb::DeadLetterFilter { topic: " ".into(), ..Default::default() },
            pb::DeadLetterFilter { class: "\t".into(), ..Default::default() },
            pb::DeadLetterFilter { class: "decoed".into(), ..Default::default() },
            pb::DeadLetterFilter { subject: " ".into(), ..Default::default() },
            pb::DeadLetterFilter { ids: vec![String::new()], ..Default::default() },
        ] {
            let refused = parse_filter(wrong.clone()).expect_err("refused");
            assert_eq!(refused.code(), Code::InvalidArgument, "{wrong:?}");
        }
        assert!(parse_state(0).expect("any").is_none() && parse_state(1).expect("parked").is_some());
        assert_eq!(parse_state(99).expect_err("unknown").code(), Code::InvalidArgument);
    }
}
