//! Letters of the same record in other services: each that reads its topic parks what it can't handle.

use std::fmt::Write as _;

use anyhow::Result;
use holdfast_proto::ops::v1 as pb;
use serde::Serialize;

use super::{
    document::is_same_record,
    edit::get,
    letter::{LetterLine, state_name},
    list::narrow,
};
use crate::{
    output::say,
    services::{Service, Services},
};

/// Of one record; more than one of a service only if its topic was made anew.
const PER_SERVICE_MAX: u32 = 10;

/// A letter of the same record, as `-o json` shows it.
#[derive(Serialize)]
pub(super) struct SiblingLine {
    pub(super) service: &'static str,
    pub(super) id: String,
    pub(super) state: &'static str,
}

/// Letters of the same record.
pub(super) struct Siblings<'s> {
    /// Without their content.
    letters: Vec<(&'s Service, pb::DeadLetter)>,
    /// Whether a service could not say.
    is_partial: bool,
}

impl<'s> Siblings<'s> {
    /// Those that other services have made of the record of this one.
    pub(super) async fn of(services: &'s Services, letter: &pb::DeadLetter) -> Result<Self> {
        let wanted = pb::ListDeadLettersRequest {
            topic: letter.topic.clone(),
            place: Some(pb::RecordPlace { partition: letter.partition, offset: letter.offset }),
            page_size: PER_SERVICE_MAX,
            ..pb::ListDeadLettersRequest::default()
        };
        let answers = services
            .ask(async |service| {
                let request = service.request(wanted.clone())?;
                Ok(service.answer(service.dead_letters().list_dead_letters(request).await)?.dead_letters)
            })
            .await?;
        let mut is_partial = answers.any_away();
        let mut letters = Vec::new();
        let place = |letter: &pb::DeadLetter| (letter.topic.clone(), letter.partition, letter.offset);
        for (service, found) in answers.each {
            if found.iter().any(|found| place(found) != place(letter)) {
                say!("not asked: {} is of a version that cannot find a record by its place", service.name);
                is_partial = true;
                continue;
            }
            let is_other = |found: &pb::DeadLetter| {
                found.service != letter.service && found.record_timestamp_ms == letter.record_timestamp_ms
            };
            letters.extend(found.into_iter().filter(is_other).map(|letter| (service, letter)));
        }
        Ok(Self { letters, is_partial })
    }

    pub(super) fn lines(&self) -> Vec<SiblingLine> {
        let line = |(service, letter): &(&Service, pb::DeadLetter)| SiblingLine {
            service: service.name,
            id: letter.id.clone(),
            state: state_name(letter.state()),
        };
        self.letters.iter().map(line).collect()
    }
}

/// Letters that the edit of one of them makes the same event of.
pub(super) struct Everywhere<'s> {
    pub(super) letters: Vec<(&'s Service, pb::DeadLetter)>,
    /// Whether there are others, or may be.
    pub(super) is_partial: bool,
}

impl<'s> Everywhere<'s> {
    /// Those of other services that are parked and hold the same record, with the same edits. Others are named.
    pub(super) async fn of(services: &'s Services, letter: &pb::DeadLetter) -> Result<Self> {
        let siblings = Siblings::of(services, letter).await?;
        let mut everywhere = Self { letters: Vec::new(), is_partial: siblings.is_partial };
        for (service, found) in siblings.letters {
            if found.state() != pb::DeadLetterState::Parked {
                say!("{}: {} is {} already", service.name, found.id, state_name(found.state()));
                continue;
            }
            let whole = get(service, &found.id).await?;
            if is_same_record(letter, &whole) {
                everywhere.letters.push((service, whole));
            } else {
                say!("{}: {} was edited otherwise; edit it by itself", service.name, whole.id);
                everywhere.is_partial = true;
            }
        }
        Ok(everywhere)
    }

    /// What is edited beside `letter`, for people.
    pub(super) fn touched(&self, letter: &pb::DeadLetter) -> String {
        if self.letters.is_empty() {
            return "no other service has this event parked".to_owned();
        }
        let all = std::iter::once(letter).chain(self.letters.iter().map(|(_, letter)| letter));
        let lines: Vec<LetterLine> = all.map(LetterLine::of).collect();
        let mut text = "the same edit is made of these letters of one event:".to_owned();
        // Writing to a String can't fail.
        let _ = write!(text, "\n{}", narrow(&lines));
        text
    }
}
