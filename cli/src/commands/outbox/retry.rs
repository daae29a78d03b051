//! `outbox retry`.

use anyhow::Result;
use clap::Args;
use holdfast_proto::ops::v1 as pb;

use crate::{
    options::{By, service_names},
    output::{Outcome, say},
    services::Services,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Retry {
    #[command(flatten)]
    target: Target,
    /// The service that the rows belong to
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    service: String,
    /// Their ids
    #[arg(num_args = 1..=1000, required_unless_present = "all", conflicts_with = "all", value_parser = clap::value_parser!(i64).range(1..))]
    ids: Vec<i64>,
    /// All rows that are held back
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    by: By,
}

impl Retry {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, Some(&self.service))?;
        let mut retried = 0;
        for service in &services.all {
            let request =
                pb::RetryHeldBackRowsRequest { ids: self.ids.clone(), all: self.all, author: self.by.name() };
            let answer = service.outbox().retry_held_back_rows(service.request(request)?).await;
            retried += service.answer(answer)?.retried;
        }
        if retried == 0 {
            say!("none of them is held back");
            return Ok(Outcome::NothingMatched);
        }
        say!("{retried} topics and keys are tried now: see {}", self.target.hint("outbox list")?);
        Ok(Outcome::Done)
    }
}
