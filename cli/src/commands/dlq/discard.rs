//! `dlq discard`.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::{Result, bail};
use clap::Args;
use holdfast_common::consumer::Class;
use holdfast_proto::ops::v1 as pb;

use super::{
    filter::Filter,
    letter::{LetterLine, groups, state_name},
    list::narrow,
    listing::{IDS_PER_CALL, matching, with_ids},
    named::{Named, parse_named},
};
use crate::{
    consent::Consent,
    options::{By, parse_reason},
    output::{Outcome, UsageError, data, say},
    services::Services,
    target::Target,
};

/// Letters that are shown one by one before they are given up.
const SHOWN_MAX: usize = 20;
/// Of a filter, in each service.
const LETTERS_MAX: usize = 100_000;

#[derive(Debug, Args)]
pub(crate) struct Discard {
    #[command(flatten)]
    target: Target,
    /// These letters, or `-` for ids on standard input
    #[arg(value_parser = parse_named, value_name = "ID|-")]
    ids: Vec<Named>,
    #[command(flatten)]
    filter: Filter,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    by: By,
}

impl Discard {
    pub(super) async fn run(&self) -> Result<Outcome> {
        match (self.ids.is_empty(), self.filter.is_empty()) {
            (true, true) => {
                bail!(UsageError("which? Name ids, a filter, or - for ids on standard input".to_owned()))
            }
            (false, false) => bail!(UsageError("give ids or a filter, not both".to_owned())),
            _ => {}
        }
        let services = Services::connect(&self.target, self.filter.service.as_deref())?;
        let answers = if self.ids.is_empty() {
            matching(&services, &self.filter.in_state(pb::DeadLetterState::Parked), LETTERS_MAX).await?
        } else {
            with_ids(&services, &services.resolve(&self.ids).await?).await?
        };
        let letters: Vec<&pb::DeadLetter> = answers.each.iter().flat_map(|(_, letters)| letters).collect();
        let is_parked = |letter: &pb::DeadLetter| letter.state() == pb::DeadLetterState::Parked;
        for letter in letters.iter().filter(|letter| !is_parked(letter)) {
            say!("{} is {} already", letter.id, state_name(letter.state()));
        }
        let parked: Vec<&pb::DeadLetter> =
            letters.iter().copied().filter(|letter| is_parked(letter)).collect();
        if parked.is_empty() {
            say!("nothing that is parked{} matches", answers.elsewhere());
            return Ok(answers.outcome(Outcome::NothingMatched));
        }
        let touched = touched(&parked, self.waiting_behind(&services, &parked).await?);
        if !self.consent.to(&touched, "discard them?")? {
            return Ok(Outcome::Failed);
        }
        let mut discarded = 0;
        for (service, letters) in &answers.each {
            let ids: Vec<String> =
                letters.iter().filter(|letter| is_parked(letter)).map(|letter| letter.id.clone()).collect();
            for ids in ids.chunks(IDS_PER_CALL) {
                let request = service.request(pb::DiscardDeadLettersRequest {
                    ids: ids.to_vec(),
                    reason: self.reason.clone(),
                    author: self.by.name(),
                })?;
                let done =
                    service.answer(service.dead_letters().discard_dead_letters(request).await)?.discarded;
                discarded += done.len();
                done.iter().try_for_each(|id| data!("{id}"))?;
            }
        }
        say!("{discarded} discarded");
        let all = letters.len().max(self.ids.iter().filter(|named| **named != Named::Listed).count());
        Ok(answers.outcome(if discarded < all { Outcome::Partly } else { Outcome::Done }))
    }

    /// How many letters wait behind these, and are not given up with them.
    async fn waiting_behind(&self, services: &Services, parked: &[&pb::DeadLetter]) -> Result<usize> {
        let given_up: BTreeSet<&str> = parked.iter().map(|letter| letter.id.as_str()).collect();
        let wanted = pb::ListDeadLettersRequest {
            class: Class::BlockedByKey.as_str().to_owned(),
            state: pb::DeadLetterState::Parked.into(),
            ..pb::ListDeadLettersRequest::default()
        };
        let answers = matching(services, &wanted, LETTERS_MAX).await?;
        let waits = |letter: &&pb::DeadLetter| {
            given_up.contains(letter.blocked_by.as_str()) && !given_up.contains(letter.id.as_str())
        };
        Ok(answers.each.iter().flat_map(|(_, letters)| letters).filter(waits).count())
    }
}

/// What is given up: each letter, or how many of which kind.
fn touched(parked: &[&pb::DeadLetter], waiting: usize) -> String {
    let mut text =
        format!("{} dead letters are given up (`holdfast dlq restore` takes that back):", parked.len());
    if parked.len() <= SHOWN_MAX {
        let lines: Vec<LetterLine> = parked.iter().map(|letter| LetterLine::of(letter)).collect();
        // Writing to a String can't fail.
        let _ = write!(text, "\n{}", narrow(&lines));
    } else {
        let kinds = parked
            .iter()
            .map(|letter| (letter.service.as_str(), letter.topic.as_str(), letter.class.as_str()));
        for group in groups(kinds) {
            let _ = write!(text, "\n  {group}");
        }
    }
    if waiting > 0 {
        let _ = write!(text, "\n{waiting} letters wait behind them: they go at the next redrive");
    }
    text
}
