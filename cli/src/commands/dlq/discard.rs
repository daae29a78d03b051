//! `dlq discard`.

use anyhow::{Context as _, Result};
use clap::Args;
use holdfast_proto::ops::v1 as pb;
use uuid::Uuid;

use super::filter::parse_id;
use crate::{
    consent::Consent,
    options::{By, parse_reason},
    output::Outcome,
    services::Services,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Discard {
    #[command(flatten)]
    target: Target,
    /// Their ids
    #[arg(required = true, num_args = 1..=1000, value_parser = parse_id)]
    ids: Vec<Uuid>,
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
        let services = Services::connect(&self.target, None)?;
        let ids: Vec<String> = self.ids.iter().map(Uuid::to_string).collect();
        let touched = format!("{} dead letters are given up for good: {}", ids.len(), ids.join(" "));
        if !self.consent.to(&touched, "discard them?")? {
            return Ok(Outcome::Failed);
        }
        let mut discarded = Vec::new();
        for service in &services.all {
            let request = pb::DiscardDeadLettersRequest {
                ids: ids.clone(),
                reason: self.reason.clone(),
                author: self.by.name(),
            };
            let done = service.dead_letters().discard_dead_letters(service.request(request)?).await;
            discarded.extend(done.with_context(|| service.failed())?.into_inner().discarded);
        }
        Ok(Outcome::of_ids(&discarded, self.ids.len(), "parked")?)
    }
}
