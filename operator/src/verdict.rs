//! Whether an event that a reader has not handled is lost. Pure.

use holdfast_common::janitor::INBOX_RETENTION;
use holdfast_proto::ops::v1 as pb;
use serde::Serialize;
use time::OffsetDateTime;

/// What is known of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Acknowledged by the broker, and the readers that lack it have read their logs to the end.
    Lost,
    /// In the outbox of its writer.
    Waiting,
    /// The same, and it can't be published.
    HeldBack,
    /// A reader that lacks it has not read its log to the end.
    OnItsWay,
    /// So old that inboxes don't remember whether it was handled.
    Forgotten,
    /// Its writer's rows don't suffice to rebuild it.
    Unprovable,
    /// A reader that could not be asked may have handled it or not; no other one lacks it.
    Unknown,
    /// In the outbox again, by this command.
    ReEmitted,
    /// Its writer refused to re-emit it.
    Refused,
}

/// Which of the events that a reader lacks are re-emitted. A reader ignores what it has handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Those that are lost.
    Lost,
    /// Also those that may be on their way, or are older than inboxes remember.
    Doubtful,
}

impl State {
    /// Whether an event in this state is to be re-emitted.
    #[must_use]
    pub const fn is_within(self, reach: Reach) -> bool {
        match self {
            Self::Lost => true,
            Self::OnItsWay | Self::Forgotten => matches!(reach, Reach::Doubtful),
            _ => false,
        }
    }

    /// As people and programs read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Waiting => "waiting",
            Self::HeldBack => "held-back",
            Self::OnItsWay => "on-its-way",
            Self::Forgotten => "forgotten",
            Self::Unprovable => "unprovable",
            Self::Unknown => "unknown",
            Self::ReEmitted => "re-emitted",
            Self::Refused => "refused",
        }
    }
}

/// How far a reader is with a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It has read everything that was there after the writers were asked.
    AtTheEnd,
    /// It has this many records to read.
    Behind {
        /// Of all partitions.
        records: i64,
    },
    /// It has not seen the broker since the writers were asked.
    Blind,
}

/// Of a reader's positions in one topic. A log that ends before the position was truncated: the reader reads it again from its
/// oldest record, and no number says how far it is. It counts as read: what it holds was handled before, and if not, re-emitting
/// it too is harmless.
#[must_use]
pub fn progress(positions: &[&pb::ConsumerPosition]) -> Progress {
    let mut behind = 0;
    for position in positions {
        let Some((first, end)) = position.first.zip(position.end) else { return Progress::Blind };
        let next = position.position.or(position.committed).unwrap_or(first).max(first);
        behind += (end - next).max(0);
    }
    if behind == 0 { Progress::AtTheEnd } else { Progress::Behind { records: behind } }
}

/// The state of an event that these readers have not handled, and a detail for people.
#[must_use]
pub fn judge(
    event: &pb::WrittenEvent,
    time: Option<OffsetDateTime>,
    readers: &[(&str, Progress)],
    now: OffsetDateTime,
) -> (State, String) {
    if !event.unprovable.is_empty() {
        return (State::Unprovable, event.unprovable.clone());
    }
    match event.outbox() {
        pb::OutboxPlace::Waiting => {
            return (State::Waiting, "in the outbox of its writer".to_owned());
        }
        pb::OutboxPlace::HeldBack => {
            return (
                State::HeldBack,
                "in the outbox of its writer, which cannot publish it: see outbox list".to_owned(),
            );
        }
        pb::OutboxPlace::Absent | pb::OutboxPlace::Unspecified => {}
    }
    for (reader, progress) in readers {
        match progress {
            Progress::AtTheEnd => {}
            Progress::Behind { records } => {
                return (State::OnItsWay, format!("{reader} is {records} records behind"));
            }
            Progress::Blind => {
                return (State::OnItsWay, format!("{reader} does not see the topic"));
            }
        }
    }
    if time.is_none_or(|time| now - time > INBOX_RETENTION) {
        return (State::Forgotten, "older than inboxes remember: --force".to_owned());
    }
    (State::Lost, String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(next: Option<i64>, ends: Option<(i64, i64)>) -> pb::ConsumerPosition {
        pb::ConsumerPosition {
            position: next,
            first: ends.map(|(first, _)| first),
            end: ends.map(|(_, end)| end),
            ..pb::ConsumerPosition::default()
        }
    }

    /// What is lost is re-emitted, and what is in doubt on request; what waits, or can't be rebuilt, never.
    #[test]
    fn what_waits_is_not_re_emitted() {
        assert!(State::Lost.is_within(Reach::Lost) && State::Lost.is_within(Reach::Doubtful));
        for doubtful in [State::OnItsWay, State::Forgotten] {
            assert!(!doubtful.is_within(Reach::Lost) && doubtful.is_within(Reach::Doubtful));
        }
        for never in [State::Waiting, State::HeldBack, State::Unprovable, State::Unknown, State::ReEmitted] {
            assert!(!never.is_within(Reach::Doubtful), "{never:?}");
        }
    }

    /// A reader is at the end of a topic when no partition has a record for it; a truncated log counts as read.
    #[test]
    fn a_reader_is_at_the_end_or_behind() {
        let of = |positions: &[pb::ConsumerPosition]| progress(&positions.iter().collect::<Vec<_>>());
        let ends = Some((2, 9));
        assert_eq!(of(&[position(Some(9), ends), position(None, Some((0, 0)))]), Progress::AtTheEnd);
        assert_eq!(of(&[position(Some(9), ends), position(Some(4), ends)]), Progress::Behind { records: 5 });
        assert_eq!(of(&[position(Some(0), ends)]), Progress::Behind { records: 7 });
        assert_eq!(of(&[position(Some(12), ends)]), Progress::AtTheEnd, "the log was truncated");
        assert_eq!(of(&[position(Some(9), ends), position(Some(9), None)]), Progress::Blind);
    }

    /// An event is lost only if it was acknowledged, is not too old to be remembered, and cannot be in a log that is still to be read.
    #[test]
    fn what_waits_or_is_not_known_is_not_called_lost() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let state = |outbox: pb::OutboxPlace, age_days, progress, unprovable: &str| {
            let event = pb::WrittenEvent {
                outbox: outbox.into(),
                unprovable: unprovable.to_owned(),
                ..pb::WrittenEvent::default()
            };
            let readers = [("order", Progress::AtTheEnd), ("delivery", progress)];
            judge(&event, Some(now - time::Duration::days(age_days)), &readers, now).0
        };
        let at_the_end = || Progress::AtTheEnd;
        assert_eq!(state(pb::OutboxPlace::Absent, 0, at_the_end(), ""), State::Lost);
        assert_eq!(state(pb::OutboxPlace::Waiting, 0, at_the_end(), ""), State::Waiting);
        assert_eq!(state(pb::OutboxPlace::HeldBack, 0, at_the_end(), ""), State::HeldBack);
        assert_eq!(state(pb::OutboxPlace::Absent, 0, Progress::Behind { records: 1 }, ""), State::OnItsWay);
        assert_eq!(state(pb::OutboxPlace::Absent, 0, Progress::Blind, ""), State::OnItsWay);
        assert_eq!(state(pb::OutboxPlace::Absent, 15, at_the_end(), ""), State::Forgotten);
        assert_eq!(state(pb::OutboxPlace::Unspecified, 0, at_the_end(), "no address"), State::Unprovable);
    }
}
