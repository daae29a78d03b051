//! `dlq resume`.

use anyhow::Result;
use clap::Args;
use holdfast_proto::ops::v1 as pb;
use tonic::Code;

use crate::{
    options::{By, parse_reason, service_names},
    output::{Outcome, say},
    services::Services,
    target::Target,
};

#[derive(Debug, Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    target: Target,
    /// Of this service
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    service: String,
    /// Let each consumer park this many more before the limit applies again
    #[arg(long, default_value_t = 0, value_name = "N")]
    park: u32,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
    #[command(flatten)]
    by: By,
}

impl Resume {
    pub(super) async fn run(&self) -> Result<Outcome> {
        let services = Services::connect(&self.target, Some(&self.service))?;
        for service in &services.all {
            let request = pb::ResumeConsumersRequest {
                dead_letters_max: self.park,
                reason: self.reason.clone(),
                author: self.by.name(),
            };
            match service.dead_letters().resume_consumers(service.request(request)?).await {
                Ok(answer) => {
                    say!("{}: resumed {} consumers", service.name, answer.into_inner().resumed);
                }
                Err(status) if status.code() == Code::FailedPrecondition => {
                    say!("{}: {}", service.name, status.message());
                    return Ok(Outcome::NothingMatched);
                }
                Err(status) => return Err(service.error(&status).into()),
            }
        }
        Ok(Outcome::Done)
    }
}
