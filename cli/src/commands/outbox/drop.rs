//! `outbox drop`.

use anyhow::{Context as _, Result};
use clap::Args;
use holdfast_proto::ops::v1 as pb;

use crate::{
    options::{By, parse_reason, service_names},
    output::{Outcome, confirmed},
    services::Services,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Drop {
    #[command(flatten)]
    target: Target,
    /// The service that the rows belong to
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    service: String,
    /// Their ids
    #[arg(required = true, num_args = 1..=1000, value_parser = clap::value_parser!(i64).range(1..))]
    ids: Vec<i64>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    /// Don't ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    by: By,
}

impl Drop {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, Some(&self.service))?;
        let question = format!("never publish {} rows of {}?", self.ids.len(), self.service);
        if !self.yes && !confirmed(&question)? {
            return Ok(Outcome::Failed);
        }
        let mut dropped = Vec::new();
        for service in &services.all {
            let request = pb::DropHeldBackRowsRequest {
                ids: self.ids.clone(),
                reason: self.reason.clone(),
                author: self.by.name(),
            };
            let answer = service.outbox().drop_held_back_rows(service.request(request)?).await;
            dropped.extend(answer.with_context(|| service.failed())?.into_inner().dropped);
        }
        Ok(Outcome::of_ids(&dropped, self.ids.len(), "held back")?)
    }
}
