//! `outbox retry`.

use anyhow::Result;
use clap::Args;
use holdfast_proto::ops::v1 as pb;
use serde::Serialize;

use crate::{
    options::{By, Output, service_names},
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
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    service: String,
    /// Topics and keys that are tried now.
    retried: u32,
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
        let document = Document { service: self.service.clone(), retried };
        self.output.print(&document, || Ok(()))?;
        if retried == 0 {
            say!("none of them is held back");
            return Ok(Outcome::NothingMatched);
        }
        say!("{retried} topics and keys are tried now: see {}", self.target.hint("outbox list")?);
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{output::json, snapshot};

    /// The shape of its JSON.
    #[test]
    fn what_is_tried_is_shown() {
        let document = Document { service: "payment".to_owned(), retried: 2 };
        snapshot::check("json/outbox-retry.json", &json(&document));
    }
}
