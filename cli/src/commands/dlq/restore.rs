//! `dlq restore`: takes a discard back.

use anyhow::Result;
use clap::Args;

use super::{
    done::Document,
    moved::{Verb, Which, touched},
};
use crate::{
    consent::Consent,
    options::Output,
    output::{Outcome, say},
    services::Services,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    output: Output,
}

impl Restore {
    /// Asks if a filter has chosen, which may be more than was meant. Letters that are named need no consent: what is restored can be
    /// discarded again.
    pub(super) async fn run(&self) -> Result<Outcome> {
        self.which.check()?;
        let services = Services::connect(&self.target, self.which.filter.service.as_deref())?;
        let chosen = self.which.choose(&services, Verb::Restore).await?;
        chosen.say_left();
        let discarded = chosen.movable();
        if discarded.is_empty() {
            say!("nothing that is discarded{} matches", chosen.answers.elsewhere());
        } else if self.which.is_by_filter() {
            let head = format!("{} discarded dead letters are parked again:", discarded.len());
            if !self.consent.to(&touched(&head, &discarded), "restore them?")? {
                return Ok(Outcome::Failed);
            }
        }
        let document = Document::of(Verb::Restore.name(), true, self.which.carry_out(&chosen).await?);
        document.print(&self.output)?;
        if document.done > 0 {
            let next = self.target.hint("dlq list")?;
            say!(
                "{} parked again, as they were; later events of their orders may have been handled meanwhile. Next: {next}",
                document.done
            );
        }
        Ok(chosen.answers.outcome(document.outcome()))
    }
}
