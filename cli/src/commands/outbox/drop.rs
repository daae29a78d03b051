//! `outbox drop`.

use anyhow::Result;
use clap::Args;
use holdfast_proto::ops::v1 as pb;
use serde::Serialize;

use crate::{
    consent::Consent,
    options::{By, Output, parse_reason, service_names},
    output::{Outcome, data},
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
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Document {
    service: String,
    /// The ids of rows that were held back, and are given up now.
    dropped: Vec<i64>,
}

impl Drop {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, Some(&self.service))?;
        let ids: Vec<String> = self.ids.iter().map(i64::to_string).collect();
        let touched =
            format!("{} rows of {} are never published: {}", ids.len(), self.service, ids.join(" "));
        if !self.consent.to(&touched, "drop them?")? {
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
            dropped.extend(service.answer(answer)?.dropped);
        }
        let document = Document { service: self.service.clone(), dropped };
        self.output.print(&document, || document.dropped.iter().try_for_each(|id| data!("{id}")))?;
        Ok(Outcome::of_count(document.dropped.len(), self.ids.len(), "held back"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{output::json, snapshot};

    /// The shape of its JSON.
    #[test]
    fn what_was_dropped_is_shown() {
        let document = Document { service: "payment".to_owned(), dropped: vec![17, 4_711] };
        snapshot::check("json/outbox-drop.json", &json(&document));
    }
}
