//! `dlq skip`.

use anyhow::Result;
use clap::Args;
use holdfast_proto::{ops::v1 as pb, topic::EVENT_TOPICS};
use tonic::Code;

use crate::{
    consent::Consent,
    options::{By, parse_reason, service_names},
    output::{Outcome, data, say},
    services::Services,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Skip {
    #[command(flatten)]
    target: Target,
    /// Of this service
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    service: String,
    /// Their topic
    #[arg(long, value_name = "TOPIC", value_parser = EVENT_TOPICS)]
    topic: String,
    /// Their partition
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: i32,
    /// The first offset: where reading has stopped, as readiness says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    offset: i64,
    /// How many
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    records: u32,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    by: By,
}

impl Skip {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, Some(&self.service))?;
        let last = self.offset.saturating_add(i64::from(self.records) - 1);
        let touched = format!(
            "{} gives up {} record(s) of {}-{}, offsets {} to {last}: they are never handled",
            self.service, self.records, self.topic, self.partition, self.offset
        );
        if !self.consent.to(&touched, "skip them?")? {
            return Ok(Outcome::Failed);
        }
        for service in &services.all {
            let request = pb::SkipRecordsRequest {
                topic: self.topic.clone(),
                partition: self.partition,
                offset: self.offset,
                records: self.records,
                reason: self.reason.clone(),
                author: self.by.name(),
            };
            match service.dead_letters().skip_records(service.request(request)?).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    say!("set aside; {} continues at offset {}", service.name, answer.position);
                    data!("{}", answer.dead_letter_id)?;
                }
                Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::NotFound) => {
                    say!("{}: {}; see {}", service.name, status.message(), self.target.hint("positions")?);
                    return Ok(Outcome::NothingMatched);
                }
                Err(status) => return Err(service.error(&status).into()),
            }
        }
        Ok(Outcome::Done)
    }
}
