//! Where an order is, from what the services know of it. Pure.
//!
//! Unlike `holdfast orders` this looks once and waits for nobody: an event that a reader has not handled is said to be that, with how
//! far the reader was when it last looked at the broker. Whether it is *lost* takes a later look, which [`crate::examine`] takes.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use holdfast_operator::{text::age_text, verdict};
use holdfast_proto::{from_timestamp, ops::v1 as pb, topic};
use time::OffsetDateTime;

/// What was asked, and of whom. What a service was not asked is not in it.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) written: Vec<(&'static str, Vec<pb::WrittenEvent>)>,
    pub(crate) readers: HashMap<&'static str, Reader>,
    /// Parked letters, whole, so that their headers name their events.
    pub(crate) letters: Vec<(&'static str, pb::DeadLetter)>,
    /// Readers that have more parked letters than are in `letters`: of what they seem to have handled some may be parked.
    pub(crate) has_more_letters: Vec<&'static str>,
}

/// What a reader knows.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) unhandled: HashSet<String>,
    pub(crate) parked: Vec<pb::ParkedAggregate>,
    pub(crate) positions: Vec<pb::ConsumerPosition>,
    pub(crate) seen_at: Option<OffsetDateTime>,
}

/// What a reader has done with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reading {
    Handled,
    Parked {
        letter: String,
        class: String,
    },
    /// Not yet, with where it is.
    Unhandled(String),
    /// Its reader, or all of its letters, were not asked.
    NotKnown,
}

/// An event of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) time: Option<OffsetDateTime>,
    pub(crate) topic: String,
    pub(crate) id: String,
    pub(crate) writer: &'static str,
    pub(crate) readings: Vec<(&'static str, Reading)>,
}

/// Why an order does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Waits {
    /// No service that was asked has written anything about it.
    Unknown,
    /// Behind a dead letter.
    BehindLetter { topic: String, service: &'static str, letter: String, class: String },
    /// For a reader to handle an event.
    ForReader { topic: String, service: &'static str, since: Option<OffsetDateTime>, place: String },
    /// Every event that was written was handled, as far as services were asked.
    Nothing { all_asked: bool },
}

/// The events of one order, in the order of their times.
pub(crate) fn events(evidence: &Evidence, order_id: &str, now: OffsetDateTime) -> Vec<Event> {
    let mut events = Vec::new();
    for (writer, written) in &evidence.written {
        for event in written.iter().filter(|event| event.subject == order_id) {
            let readers = topic::READINGS.iter().filter(|(topic, _)| *topic == event.topic);
            events.push(Event {
                time: from_timestamp(event.time.as_ref()),
                topic: event.topic.clone(),
                id: event.event_id.clone(),
                writer,
                readings: readers
                    .map(|(_, reader)| (*reader, reading(evidence, event, reader, now)))
                    .collect(),
            });
        }
    }
    events.sort_by_key(|event| event.time);
    events
}

fn reading(evidence: &Evidence, event: &pb::WrittenEvent, name: &str, now: OffsetDateTime) -> Reading {
    let of_event = |(service, letter): &&(&str, pb::DeadLetter)| {
        let id = letter.headers.iter().find(|header| header.name == "ce_id");
        *service == name && id.is_some_and(|id| id.value == event.event_id.as_bytes())
    };
    if let Some((_, letter)) = evidence.letters.iter().find(of_event) {
        return Reading::Parked { letter: letter.id.clone(), class: letter.class.clone() };
    }
    let Some(reader) = evidence.readers.get(name) else { return Reading::NotKnown };
    // Of what can't be rebuilt the id isn't known, so nobody can say who has handled it.
    if !event.unprovable.is_empty() {
        return Reading::Unhandled(format!("not known: {}", event.unprovable));
    }
    if !reader.unhandled.contains(&event.event_id) {
        // What is parked is in the inbox, too.
        let may_be_parked = evidence.has_more_letters.contains(&name);
        return if may_be_parked { Reading::NotKnown } else { Reading::Handled };
    }
    Reading::Unhandled(place(event, reader, now))
}

/// Where an event is that a reader has not handled.
fn place(event: &pb::WrittenEvent, reader: &Reader, now: OffsetDateTime) -> String {
    match event.outbox() {
        pb::OutboxPlace::Waiting => return "in the outbox of its writer".to_owned(),
        pb::OutboxPlace::HeldBack => {
            return "in the outbox of its writer, which cannot publish it: see `holdfast outbox list`"
                .to_owned();
        }
        pb::OutboxPlace::Absent | pb::OutboxPlace::Unspecified => {}
    }
    let of_topic: Vec<_> = reader.positions.iter().filter(|position| position.topic == event.topic).collect();
    let Some(seen_at) = reader.seen_at else { return "its reader does not see the broker".to_owned() };
    let ago = age_text(Duration::try_from(now - seen_at).unwrap_or_default());
    if of_topic.is_empty() {
        return "its reader does not see the topic".to_owned();
    }
    match verdict::progress(&of_topic) {
        verdict::Progress::Behind { records } => {
            format!("its reader was {records} records behind {ago} ago")
        }
        verdict::Progress::AtTheEnd => format!(
            "published, and its reader had read to the end {ago} ago: if this stays, the broker may have lost it"
        ),
        verdict::Progress::Blind => "its reader does not see the topic".to_owned(),
    }
}

/// What an order waits for: the letter that it stands behind, or else its oldest event that a reader has not handled.
pub(crate) fn waits(evidence: &Evidence, order_id: &str, events: &[Event], all_asked: bool) -> Waits {
    let readings = || {
        events
            .iter()
            .flat_map(|event| event.readings.iter().map(move |(service, reading)| (event, *service, reading)))
    };
    for (event, service, reading) in readings() {
        if let Reading::Parked { letter, class } = reading {
            let (topic, letter, class) = (event.topic.clone(), letter.clone(), class.clone());
            return Waits::BehindLetter { topic, service, letter, class };
        }
    }
    // A record that none of our services has written stands in the way of all that come.
    for (service, reader) in &evidence.readers {
        let Some(parked) = reader.parked.iter().find(|parked| parked.subject == order_id) else { continue };
        let letter = evidence.letters.iter().find(|(_, letter)| letter.id == parked.dead_letter_id);
        return Waits::BehindLetter {
            topic: letter.map(|(_, letter)| letter.topic.clone()).unwrap_or_default(),
            service,
            letter: parked.dead_letter_id.clone(),
            class: letter.map(|(_, letter)| letter.class.clone()).unwrap_or_default(),
        };
    }
    for (event, service, reading) in readings() {
        if let Reading::Unhandled(place) = reading {
            let (topic, place) = (event.topic.clone(), place.clone());
            return Waits::ForReader { topic, service, since: event.time, place };
        }
    }
    if events.is_empty() {
        return Waits::Unknown;
    }
    Waits::Nothing { all_asked }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = "01a21184-8763-7214-acea-bb1c3b689082";

    fn now() -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000)
    }

    fn written(id: &str, topic: &str) -> pb::WrittenEvent {
        pb::WrittenEvent {
            event_id: id.to_owned(),
            topic: topic.to_owned(),
            subject: ORDER.to_owned(),
            time: Some(holdfast_proto::to_timestamp(now())),
            outbox: pb::OutboxPlace::Absent.into(),
            ..pb::WrittenEvent::default()
        }
    }

    fn reader(unhandled: &[&str]) -> Reader {
        Reader { unhandled: unhandled.iter().map(|id| (*id).to_owned()).collect(), ..Reader::default() }
    }

    fn evidence(readers: &[(&'static str, &[&str])]) -> Evidence {
        Evidence {
            written: vec![
                ("order", vec![written("1", topic::ORDER_CREATED)]),
                ("payment", vec![written("2", topic::PAYMENT_COMPLETED)]),
            ],
            readers: readers.iter().map(|(name, unhandled)| (*name, reader(unhandled))).collect(),
            ..Evidence::default()
        }
    }

    fn waits_of(evidence: &Evidence) -> Waits {
        let events = events(evidence, ORDER, now());
        waits(evidence, ORDER, &events, evidence.readers.len() == 3)
    }

    /// An order waits for its oldest event that is not handled, behind the letter if it is parked; who was not asked is not accused.
    #[test]
    fn an_order_says_why_it_waits() {
        let all = evidence(&[("order", &[]), ("payment", &[]), ("delivery", &[])]);
        assert_eq!(waits_of(&all), Waits::Nothing { all_asked: true });
        let without = evidence(&[("order", &[]), ("payment", &[])]);
        assert_eq!(waits_of(&without), Waits::Nothing { all_asked: false });
        assert_eq!(events(&without, ORDER, now())[1].readings[1], ("delivery", Reading::NotKnown));

        let waiting = evidence(&[("order", &[]), ("payment", &["1"]), ("delivery", &["2"])]);
        let Waits::ForReader { topic, service, place, .. } = waits_of(&waiting) else { panic!("it waits") };
        assert_eq!((topic.as_str(), service), (topic::ORDER_CREATED, "payment"));
        assert_eq!(place, "its reader does not see the broker");

        let mut parked = evidence(&[("order", &[]), ("payment", &[]), ("delivery", &[])]);
        let header = pb::RecordHeader { name: "ce_id".to_owned(), value: b"1".to_vec() };
        let letter = pb::DeadLetter {
            id: "L".to_owned(),
            class: "decode".to_owned(),
            headers: vec![header],
            ..pb::DeadLetter::default()
        };
        parked.letters.push(("payment", letter));
        let expected = Waits::BehindLetter {
            topic: topic::ORDER_CREATED.to_owned(),
            service: "payment",
            letter: "L".to_owned(),
            class: "decode".to_owned(),
        };
        assert_eq!(waits_of(&parked), expected);
        parked.letters.clear();
        parked.has_more_letters.push("payment");
        assert_eq!(events(&parked, ORDER, now())[0].readings[0], ("payment", Reading::NotKnown));

        let mut stranger = Evidence::default();
        let aggregate = pb::ParkedAggregate { subject: ORDER.to_owned(), dead_letter_id: "M".to_owned() };
        stranger.readers.insert("payment", Reader { parked: vec![aggregate], ..Reader::default() });
        assert!(matches!(waits_of(&stranger), Waits::BehindLetter { letter, .. } if letter == "M"));
        assert_eq!(waits_of(&Evidence::default()), Waits::Unknown);
    }

    /// Where an event is that was not handled follows from its writer's outbox and its reader's position; it is never called lost.
    #[test]
    fn an_event_that_was_not_handled_is_somewhere() {
        let mut reader = reader(&["1"]);
        let mut event = written("1", topic::ORDER_CREATED);
        let place_of = |event: &pb::WrittenEvent, reader: &Reader| place(event, reader, now());
        reader.seen_at = Some(now() - time::Duration::seconds(2));
        assert_eq!(place_of(&event, &reader), "its reader does not see the topic");
        let position = |next| pb::ConsumerPosition {
            topic: topic::ORDER_CREATED.to_owned(),
            position: Some(next),
            first: Some(0),
            end: Some(9),
            ..pb::ConsumerPosition::default()
        };
        reader.positions = vec![position(4)];
        assert_eq!(place_of(&event, &reader), "its reader was 5 records behind 2s ago");
        reader.positions = vec![position(9)];
        assert!(
            place_of(&event, &reader).starts_with("published, and its reader had read to the end 2s ago")
        );
        event.outbox = pb::OutboxPlace::HeldBack.into();
        assert!(place_of(&event, &reader).contains("cannot publish"));
    }
}
