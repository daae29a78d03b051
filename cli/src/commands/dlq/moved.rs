//! What `discard` and `restore` have in common: letters are chosen by ids or by a filter, and their services move them from one state to
//! another.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use clap::Args;
use holdfast_proto::ops::v1 as pb;
use uuid::Uuid;

use super::{
    done::{Done, Line},
    filter::Filter,
    letter::{LetterLine, groups, state_name},
    list::narrow,
    listing::{IDS_PER_CALL, matching, with_ids},
    named::{Named, parse_named},
};
use crate::{
    options::{By, parse_reason},
    output::{UsageError, say},
    services::{Answers, CallError, Service, Services},
};

/// Letters that are shown one by one before anything is done.
const SHOWN_MAX: usize = 20;
/// Of a filter, in each service.
pub(super) const LETTERS_MAX: usize = 100_000;

/// Which letters, why, and who says so.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// These letters, or `-` for ids on standard input
    #[arg(value_parser = parse_named, value_name = "ID|-")]
    ids: Vec<Named>,
    #[command(flatten)]
    pub(super) filter: Filter,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    #[command(flatten)]
    by: By,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Discard,
    Restore,
}

/// Letters that were chosen.
pub(super) struct Chosen<'s> {
    pub(super) answers: Answers<'s, Vec<pb::DeadLetter>>,
    /// Of ids that no service knows.
    absent: Vec<Uuid>,
    verb: Verb,
}

impl Verb {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Discard => "discard",
            Self::Restore => "restore",
        }
    }

    const fn done(self) -> Done {
        match self {
            Self::Discard => Done::Discarded,
            Self::Restore => Done::Restored,
        }
    }

    /// The state of letters that it is for.
    const fn begins_at(self) -> pb::DeadLetterState {
        match self {
            Self::Discard => pb::DeadLetterState::Parked,
            Self::Restore => pb::DeadLetterState::Discarded,
        }
    }

    /// Why a letter in this state is left alone.
    fn left(self, state: pb::DeadLetterState) -> String {
        let state = state_name(state);
        match self {
            Self::Discard => format!("is {state} already"),
            Self::Restore => format!("is {state}: only what was discarded can be restored"),
        }
    }
}

impl Which {
    /// Whether they are chosen by a filter.
    pub(super) const fn is_by_filter(&self) -> bool {
        self.ids.is_empty()
    }

    /// The letters, in whatever state if they are named; what can't be meant is a usage error.
    pub(super) async fn choose<'s>(&self, services: &'s Services, verb: Verb) -> Result<Chosen<'s>> {
        if self.is_by_filter() {
            let answers = matching(services, &self.filter.in_state(verb.begins_at()), LETTERS_MAX).await?;
            return Ok(Chosen { answers, absent: Vec::new(), verb });
        }
        let ids = services.resolve(&self.ids).await?;
        let (answers, absent) = with_ids(services, &ids).await?;
        Ok(Chosen { answers, absent, verb })
    }

    /// A usage error unless ids or a filter are given, and not both: no filter must never mean everything.
    pub(super) fn check(&self) -> Result<()> {
        match (self.ids.is_empty(), self.filter.is_empty()) {
            (true, true) => {
                bail!(UsageError("which? Name ids, a filter, or - for ids on standard input".to_owned()))
            }
            (false, false) => bail!(UsageError("give ids or a filter, not both".to_owned())),
            _ => Ok(()),
        }
    }

    /// Has their services move the letters. One that fails keeps the others from nothing.
    pub(super) async fn carry_out(&self, chosen: &Chosen<'_>) -> Result<Vec<Line>> {
        let verb = chosen.verb;
        let mut lines = chosen.left();
        for (service, letters) in &chosen.answers.each {
            let ids: Vec<String> =
                letters.iter().filter(|letter| chosen.is_movable(letter)).map(|of| of.id.clone()).collect();
            for ids in ids.chunks(IDS_PER_CALL) {
                let moved = self.call(service, verb, ids).await?;
                if let Err(error) = &moved {
                    say!("{error}");
                }
                lines.extend(ids.iter().map(|id| line_of(service, verb, id, &moved)));
            }
        }
        Ok(lines)
    }

    async fn call(
        &self,
        service: &Service,
        verb: Verb,
        ids: &[String],
    ) -> Result<Result<Vec<String>, CallError>> {
        let (ids, reason, author) = (ids.to_vec(), self.reason.clone(), self.by.name());
        let mut client = service.dead_letters();
        Ok(match verb {
            Verb::Discard => {
                let request = service.request(pb::DiscardDeadLettersRequest { ids, reason, author })?;
                service.answer(client.discard_dead_letters(request).await).map(|answer| answer.discarded)
            }
            Verb::Restore => {
                let request = service.request(pb::RestoreDeadLettersRequest { ids, reason, author })?;
                service.answer(client.restore_dead_letters(request).await).map(|answer| answer.restored)
            }
        })
    }
}

impl Chosen<'_> {
    fn is_movable(&self, letter: &pb::DeadLetter) -> bool {
        letter.state() == self.verb.begins_at()
    }

    /// Those that can be moved.
    pub(super) fn movable(&self) -> Vec<&pb::DeadLetter> {
        let letters = self.answers.each.iter().flat_map(|(_, letters)| letters);
        letters.filter(|letter| self.is_movable(letter)).collect()
    }

    /// Those that are left alone, and why.
    pub(super) fn left(&self) -> Vec<Line> {
        let of_service = |(service, letters): &(&Service, Vec<pb::DeadLetter>)| {
            let left = letters.iter().filter(|letter| !self.is_movable(letter));
            let line = |letter: &pb::DeadLetter| Line {
                id: letter.id.clone(),
                service: Some(service.name),
                result: Done::Left,
                reason: Some(self.verb.left(letter.state())),
            };
            left.map(line).collect::<Vec<_>>()
        };
        let absent = self.absent.iter().map(|id| Line {
            id: id.to_string(),
            service: None,
            result: Done::Absent,
            reason: None,
        });
        self.answers.each.iter().flat_map(of_service).chain(absent).collect()
    }

    /// Says which of those that were named are left alone.
    pub(super) fn say_left(&self) {
        for Line { id, reason, .. } in self.left().iter().filter(|line| line.result == Done::Left) {
            say!("{id} {}", reason.as_deref().unwrap_or_default());
        }
    }
}

fn line_of(service: &Service, verb: Verb, id: &str, moved: &Result<Vec<String>, CallError>) -> Line {
    let (result, reason) = match moved {
        Ok(moved) if moved.iter().any(|moved| moved == id) => (verb.done(), None),
        Ok(_) => (Done::Left, Some("somebody else was faster".to_owned())),
        Err(error) if error.is_away() => (Done::Unknown, Some(error.to_string())),
        Err(error) => (Done::Failed, Some(error.to_string())),
    };
    Line { id: id.to_owned(), service: Some(service.name), result, reason }
}

/// What is touched: each letter, or how many of which kind.
pub(super) fn touched(head: &str, letters: &[&pb::DeadLetter]) -> String {
    let mut text = head.to_owned();
    if letters.len() <= SHOWN_MAX {
        let lines: Vec<LetterLine> = letters.iter().map(|letter| LetterLine::of(letter)).collect();
        // Writing to a String can't fail.
        let _ = write!(text, "\n{}", narrow(&lines));
    } else {
        let kinds = letters
            .iter()
            .map(|letter| (letter.service.as_str(), letter.topic.as_str(), letter.class.as_str()));
        for group in groups(kinds) {
            let _ = write!(text, "\n  {group}");
        }
    }
    text
}
