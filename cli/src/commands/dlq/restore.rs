//! `dlq restore`: takes a discard back.

use anyhow::Result;
use clap::Args;
use holdfast_proto::ops::v1 as pb;

use super::{
    letter::state_name,
    listing::{IDS_PER_CALL, with_ids},
    named::{Named, parse_named},
};
use crate::{
    options::{By, parse_reason},
    output::{Outcome, data, say},
    services::{Service, Services},
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    target: Target,
    /// These letters, or `-` for ids on standard input
    #[arg(required = true, value_parser = parse_named, value_name = "ID|-")]
    ids: Vec<Named>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    #[command(flatten)]
    by: By,
}

impl Restore {
    /// Asks for no consent: what is restored can be discarded again.
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, None)?;
        let ids = services.resolve(&self.ids).await?;
        let answers = with_ids(&services, &ids).await?;
        let letters: Vec<&pb::DeadLetter> = answers.each.iter().flat_map(|(_, letters)| letters).collect();
        for letter in letters.iter().filter(|letter| !is_discarded(letter)) {
            let state = state_name(letter.state());
            say!("{} is {state}: only what was discarded can be restored", letter.id);
        }
        let mut restored = 0;
        for (service, letters) in &answers.each {
            let ids: Vec<String> = letters
                .iter()
                .filter(|letter| is_discarded(letter))
                .map(|letter| letter.id.clone())
                .collect();
            for ids in ids.chunks(IDS_PER_CALL) {
                let done = self.restore_at(service, ids).await?;
                restored += done.len();
                done.iter().try_for_each(|id| data!("{id}"))?;
            }
        }
        if restored == 0 {
            say!("nothing that is discarded{} matches", answers.elsewhere());
            return Ok(answers.outcome(Outcome::NothingMatched));
        }
        let next = self.target.hint("dlq list")?;
        say!(
            "{restored} parked again, as they were; later events of their orders may have been handled meanwhile. Next: {next}"
        );
        Ok(answers.outcome(if restored < ids.len() { Outcome::Partly } else { Outcome::Done }))
    }

    async fn restore_at(&self, service: &Service, ids: &[String]) -> Result<Vec<String>> {
        let request = service.request(pb::RestoreDeadLettersRequest {
            ids: ids.to_vec(),
            reason: self.reason.clone(),
            author: self.by.name(),
        })?;
        Ok(service.answer(service.dead_letters().restore_dead_letters(request).await)?.restored)
    }
}

fn is_discarded(letter: &pb::DeadLetter) -> bool {
    letter.state() == pb::DeadLetterState::Discarded
}
