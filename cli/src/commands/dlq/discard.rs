//! `dlq discard`.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::Result;
use clap::Args;
use holdfast_common::consumer::Class;
use holdfast_proto::ops::v1 as pb;

use super::{
    done::Document,
    listing::matching,
    moved::{LETTERS_MAX, Verb, Which, touched},
};
use crate::{
    consent::Consent,
    options::Output,
    output::{Outcome, say},
    services::Services,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Discard {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    output: Output,
}

impl Discard {
    pub(super) async fn run(&self) -> Result<Outcome> {
        self.which.check()?;
        let services = Services::connect(&self.target, self.which.filter.service.as_deref())?;
        let chosen = self.which.choose(&services, Verb::Discard).await?;
        chosen.say_left();
        let parked = chosen.movable();
        if parked.is_empty() {
            say!("nothing that is parked{} matches", chosen.answers.elsewhere());
        } else {
            let head = format!(
                "{} dead letters are given up (`holdfast dlq restore` takes that back):",
                parked.len()
            );
            let mut touched = touched(&head, &parked);
            let waiting = waiting_behind(&services, &parked).await?;
            if waiting > 0 {
                // Writing to a String can't fail.
                let _ = write!(touched, "\n{waiting} letters wait behind them: they go at the next redrive");
            }
            if !self.consent.to(&touched, "discard them?")? {
                return Ok(Outcome::Failed);
            }
        }
        let document = Document::of(Verb::Discard.name(), true, self.which.carry_out(&chosen).await?);
        document.print(&self.output)?;
        if !parked.is_empty() {
            say!("{} discarded", document.done);
        }
        Ok(chosen.answers.outcome(document.outcome()))
    }
}

/// How many letters wait behind these, and are not given up with them.
async fn waiting_behind(services: &Services, parked: &[&pb::DeadLetter]) -> Result<usize> {
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
